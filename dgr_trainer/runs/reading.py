"""Runs in files and folders, the list of their formats, and results of the package `rerankers`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet

from dgr_trainer.data.columns import RUN_COLUMNS
from dgr_trainer.data.formats import dpr
from dgr_trainer.data.hub import HubSource, SavedDatasetSource
from dgr_trainer.data.sources import FileFormat, FileSource, FolderSource, IrDatasetsSource, file_format, resolve
from dgr_trainer.errors import DGRTypeError, DGRValueError
from dgr_trainer.files.atomic import atomic_write
from dgr_trainer.files.compression import compression, name_as_text, plain_name, undamaged
from dgr_trainer.files.lines import file_kind, listing
from dgr_trainer.files.records import read_table
from dgr_trainer.runs import column_runs, json_runs
from dgr_trainer.runs.rank_list import ListRow, by_rank, hit_table
from dgr_trainer.runs.rankings import Rankings

PathLike = str | os.PathLike[str]


def read_run(path: PathLike, name: str | None = None) -> Rankings:
    """Read a run of any known format.

    - A folder that `datasets` saved (`save_to_disk`), `.parquet`, `.arrow`: a table with the columns of
      [`Rankings.from_dataset`].
    - `hf:NAME`: a dataset of the Hub, or of a folder, with these columns or a mapping (see `docs/data.md`).
    - `.csv`: a first line of names, and a hit on each line.
    - `.jsonl`: lines of [`Rankings.to_jsonl`], of one hit each (`query_id`, `passage_id`, `score`), or of RankLLM
      (`query` with `qid`, and `candidates` with `docid`).
    - `.json`: the same as lines or as a list; results of DPR's retriever (`question`, `answers`, `ctxs`), whose query
      ids are the numbers of the questions, from 0, and Pyserini's by query id; ranx' object of scores by query and
      document id.
    - anything else: a TREC run, as Anserini, PyTerrier, ranx, RankLLM, pyserini and trec_eval have it; three columns,
      a query, a passage and a rank (MS MARCO, ColBERT) or a score (Tevatron); four, with rank and score; five, a TREC
      run without tags; or the columns that the first line names, a score or a rank among them.

    Files may be compressed (`.gz`, `.zst`, `.bz2`, `.xz`). The scores give the order; if no passage of a list has a
    score, the order in the file counts. RankLLM lists candidates best first: scores that rise along a list are
    refused.

    Args:
        path (`str` or `os.PathLike`): The run.
        name (`str`, *optional*):
            Name of the rankings; by default the one in the file, or the file's name without its suffix.

    Returns:
        [`Rankings`]: The rank lists.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if an id or a score has the wrong type.
        ValueError: if the file is malformed; the error names the file and the line, or the query.
    """
    match resolve(path, RUN_COLUMNS):
        case HubSource() as hub:
            dataset, columns = hub.load(RUN_COLUMNS)
            return _dataset_run(hub.text, dataset, name or hub.name.rstrip("/").rsplit("/", 1)[-1], columns)
        case IrDatasetsSource():
            raise DGRValueError(f"{path}: ir_datasets has passages, queries and qrels, but no runs. Give a run.")
        case SavedDatasetSource(folder) as saved:
            return _dataset_run(folder, saved.load(), name or folder.absolute().name)
        case FolderSource(folder):
            _refuse_folder(folder)
        case FileSource() as file:
            with undamaged(*file.paths):
                rankings = file_format(file, FORMATS, "").read(file)
            rankings.name = name or rankings.name
            return rankings


def write_run(rankings: Rankings, path: PathLike) -> None:
    """Write a run that [`read_run`] reads, whole or not at all.

    Args:
        rankings ([`Rankings`]): The rank lists.
        path (`str` or `os.PathLike`):
            The file: `.jsonl`, `.parquet` or `.arrow`, otherwise a TREC run, whose tag is the name with `_` for
            whitespace. JSON Lines and TREC runs are compressed if the name ends in `.gz` or `.zst`.

    Raises:
        ValueError: if the name is that of a compressed table: tables are compressed inside, never as a whole.
    """
    kind = file_kind(path)
    if kind == "jsonl":
        rankings.to_jsonl(path)
    elif kind in ("parquet", "arrow"):
        if suffix := compression(path):
            raise DGRValueError(
                f"{os.fspath(path)} would not be compressed as its name says: a table is never compressed as a whole. "
                f"Leave {suffix} out of the name."
            )
        table = rankings.to_dataset().data.table
        with atomic_write(path, "wb") as file:
            if kind == "parquet":
                pa.parquet.write_table(table, file)
            else:
                with pa.ipc.new_stream(file, table.schema) as stream:
                    stream.write_table(table)
    else:
        rankings.to_trec(path, tag="_".join((rankings.name or "").split()) or None)


def from_rerankers(results: Mapping[str, Any], name: str | None = None) -> Rankings:
    """Make rankings of what the package `rerankers` returned for each query.

    Args:
        results (`Mapping[str, RankedResults]`): What `ranker.rank(query, docs, doc_ids=...)` returned, by query id.
        name (`str`, *optional*): Name of the rankings.

    Returns:
        [`Rankings`]: With the scores of `rerankers`; if the ranker gives no scores, its ranks are used.

    Raises:
        TypeError: if a value is no such result.
        ValueError: if a document occurs twice in a result, or a score is not finite.
    """
    lists: dict[str, list[tuple[Any, float]]] = {}
    for query_id, ranked in results.items():
        if not hasattr(ranked, "results"):
            raise DGRTypeError(
                f"Query {query_id!r}: a {type(ranked).__name__}, not the RankedResults of rerankers. Give what "
                "ranker.rank(query, docs, doc_ids=...) returned, by query id."
            )
        hits = ranked.results
        if all(hit.score is not None for hit in hits):
            lists[query_id] = [(hit.document.doc_id, float(hit.score)) for hit in hits]
        else:
            hits = sorted(hits, key=lambda hit: hit.rank)
            lists[query_id] = [(hit.document.doc_id, float(len(hits) - index)) for index, hit in enumerate(hits)]
    return Rankings(lists, name)


def _file_stem(file: FileSource) -> str:
    return name_as_text(file.folder or plain_name(file.path).rsplit(".", 1)[0])


def _lists(read: Callable[[FileSource], Iterable[ListRow]]) -> Callable[[FileSource], Rankings]:
    """The reader of a format that yields whole lists."""
    return lambda file: Rankings._from_rows(read(file), default_name=_file_stem(file))


def _hits(file: FileSource) -> Rankings:
    table = hit_table(lambda: json_runs.hit_rows(file))
    return Rankings._from_table(by_rank(table) if json_runs.holds_ranks(file) else table, _file_stem(file))


def _columns(file: FileSource) -> Rankings:
    return Rankings._from_table(column_runs.read_column_run(file), _file_stem(file))


def _table_run(file: FileSource) -> Rankings:
    from datasets import Dataset

    return _dataset_run(file.path, Dataset(read_table(file.path)), _file_stem(file), file.columns)


def _refuse_lz4(file: FileSource) -> NoReturn:
    raise DGRValueError(f"{file.path} is a run that ranx has compressed. Save it as TREC: run.save('run.trec').")


FORMATS: tuple[FileFormat[Rankings], ...] = (
    FileFormat("table", lambda file: file.kind in ("parquet", "arrow") and not file.more, _table_run, by_name=True),
    FileFormat("ranx, compressed", lambda file: file.path.suffix == ".lz4", _refuse_lz4),
    FileFormat("Pyserini", json_runs.is_pyserini, _lists(json_runs.pyserini_lists)),
    FileFormat("ranx", json_runs.is_ranx, _lists(json_runs.ranx_lists)),
    FileFormat("lists", json_runs.holds_lists, _lists(lambda file: json_runs.list_rows(file.records())), by_name=True),
    FileFormat("RankLLM", json_runs.is_rank_llm, _lists(json_runs.rank_llm_lists)),
    FileFormat("DPR results", dpr.is_retriever_results, _lists(json_runs.dpr_lists)),
    FileFormat("hits", json_runs.holds_hits, _hits, by_name=True),
    FileFormat("columns", column_runs.recognises, _columns),
    FileFormat(
        "unknown records",
        lambda file: file.holds_records and not file.holds_lines,
        json_runs.refuse_unknown,
        by_name=True,
    ),
    FileFormat("TREC", lambda file: True, lambda file: Rankings.from_trec(file.path)),
)
"""File formats of runs: the first that recognises a file reads it."""


def _refuse_folder(path: Path) -> NoReturn:
    hint = ""
    if (path / "candidates.json").is_file():
        hint = " `dgr rank --candidates` takes these candidates, and Candidates.to_rankings makes a run of them."
    raise IsADirectoryError(
        f"{path} is a folder, but a run is a file, or a folder that datasets saved (save_to_disk). It holds: "
        f"{listing(path)}.{hint}"
    )


def _dataset_run(source: object, dataset: Any, name: str, columns: Mapping[str, str] | None = None) -> Rankings:
    try:
        return Rankings.from_dataset(dataset, name, columns)
    except TypeError as error:
        raise DGRTypeError(f"{source}: {error}") from None
    except ValueError as error:
        raise DGRValueError(f"{source}: {error}") from None
