"""Runs in files and folders: TREC's format, tables, JSON of ours and of other systems, results of `rerankers`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet
from datasets import Dataset

from dgr_trainer.data.formats.huggingface import RUN_COLUMNS
from dgr_trainer.data.formats.ir_datasets_ids import ir_datasets_id
from dgr_trainer.data.sources import hub_dataset, hub_name, saved_dataset
from dgr_trainer.errors import DGRTypeError, DGRValueError
from dgr_trainer.files.atomic import atomic_write
from dgr_trainer.files.compression import plain_name
from dgr_trainer.files.lines import existing_file, file_kind, listing
from dgr_trainer.files.records import json_object, read_records, read_table
from dgr_trainer.runs import json_runs
from dgr_trainer.runs.rankings import Rankings

PathLike = str | os.PathLike[str]


def read_run(path: PathLike, name: str | None = None) -> Rankings:
    """Read a run, whatever wrote it.

    - A folder that `datasets` saved (`save_to_disk`), `.parquet`, `.arrow`: a table with the columns of
      [`Rankings.from_dataset`].
    - `hf:NAME`: a dataset of the Hub, or of a folder, with the same columns or a mapping (see `docs/data.md`).
    - `.jsonl`: lines of [`Rankings.to_jsonl`], of one hit each (`query_id`, `passage_id`, `score`), or of RankLLM
      (`query` with `qid`, and `candidates` with `docid`).
    - `.json`: the same as lines or as a list; results of DPR's retriever (`question`, `answers`, `ctxs`), whose query
      ids are the numbers of the questions, from 0, and Pyserini's by query id; ranx' object of scores by query and
      document id.
    - anything else: a TREC run, as Anserini, PyTerrier, ranx, RankLLM, pyserini and trec_eval have it.

    Files may be compressed (`.gz`, `.zst`). RankLLM orders candidates without giving all of them a score of their own:
    where scores do not decrease along a list, the place in it counts, as in [`Rankings.from_order`].

    Args:
        path (`str` or `os.PathLike`): the run.
        name (`str`, *optional*): name of the rankings; by default what the file says, or its name without the ending.

    Returns:
        `Rankings`: the rank lists.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is malformed; names file and line, or query.
    """
    hub = hub_name(path)
    if hub is not None:
        dataset, columns = hub_dataset(hub, RUN_COLUMNS)
        return _of_dataset(hub.text, dataset, name or hub.name.rstrip("/").rsplit("/", 1)[-1], columns)
    if ir_datasets_id(path) is not None:
        raise DGRValueError(f"{path}: ir_datasets has passages, queries and qrels, but no runs. Give a run.")
    path = Path(path)
    if path.is_dir():
        dataset = saved_dataset(path)
        if dataset is None:
            _refuse_folder(path)
        return _of_dataset(path, dataset, name or path.name)
    path = existing_file(path)
    kind = file_kind(path)
    stem = plain_name(path).rsplit(".", 1)[0]
    if kind in ("parquet", "arrow"):
        return _of_dataset(path, Dataset(read_table(path)), name or stem)
    if kind != "jsonl":
        if path.suffix == ".lz4":
            raise DGRValueError(f"{path} is a run that ranx has compressed. Save it as TREC: run.save('run.trec').")
        return Rankings.from_trec(path, name)
    if plain_name(path).lower().endswith(".json"):
        content = json_object(path)
        if content is not None and not {"query_id", "query", "question"} & set(content):  # Else a file of one line.
            return json_runs.of_object(path, content, name or stem)
    records, fields = read_records(path).peek()
    if "passage_ids" in fields:
        return Rankings.from_jsonl(path, name)
    return json_runs.of_records(path, records, fields, name or stem)


def write_run(rankings: Rankings, path: Path) -> None:
    """Write a run as [`read_run`] reads it: by its name, else TREC, whose tag may hold no whitespace.

    Args:
        rankings (`Rankings`): the rank lists.
        path (`pathlib.Path`): the file: `.jsonl`, `.parquet` or `.arrow`, else a TREC run. JSON Lines and TREC runs
            are compressed if the name ends in `.gz` or `.zst`.
    """
    kind = file_kind(path)
    if kind == "jsonl":
        rankings.to_jsonl(path)
    elif kind in ("parquet", "arrow"):
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
    """Rankings of what `rerankers` returned for each query.

    Args:
        results (`Mapping[str, RankedResults]`): by query id, what `ranker.rank(query, docs, doc_ids=...)` returned.
        name (`str`, *optional*): name of the rankings.

    Returns:
        `Rankings`: by the scores of `rerankers`, or by its ranks where the ranker gives no scores.

    Raises:
        TypeError: if a value is no such result.
        ValueError: if a document occurs twice in a result, which it does where no `doc_ids` were given for queries
            with equal ones, or a score is not finite.
    """
    lists: dict[str, list[tuple[Any, float]]] = {}
    for query_id, of in results.items():
        if not hasattr(of, "results"):
            raise DGRTypeError(
                f"Query {query_id!r}: a {type(of).__name__}, not the RankedResults of rerankers. Give what "
                "ranker.rank(query, docs, doc_ids=...) returned, by query id."
            )
        scored = all(one.score is not None for one in of.results)
        ranked = sorted(of.results, key=lambda one: one.rank) if not scored else of.results
        lists[query_id] = [
            (one.document.doc_id, float(one.score if scored else len(ranked) - place))
            for place, one in enumerate(ranked)
        ]
    return Rankings(lists, name)


def _refuse_folder(path: Path) -> NoReturn:
    hint = ""
    if (path / "candidates.json").is_file():
        hint = " `dgr rank --candidates` takes these candidates, and Candidates.to_rankings makes a run of them."
    raise IsADirectoryError(
        f"{path} is a folder, but a run is a file, or a folder that datasets saved (save_to_disk). It holds: "
        f"{listing(path)}.{hint}"
    )


def _of_dataset(place: object, dataset: Any, name: str, columns: Mapping[str, str] | None = None) -> Rankings:
    try:
        return Rankings.from_dataset(dataset, name, columns)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{place}: {error}") from None
