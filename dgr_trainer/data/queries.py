"""Queries and qrels: read, written and checked."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgr_trainer.data.columns import JUDGEMENT_COLUMNS, QUERY_COLUMNS
from dgr_trainer.data.formats import ir_datasets_ids
from dgr_trainer.data.formats.huggingface import dataset_judgement_rows, dataset_query_rows
from dgr_trainer.data.grades import Qrels as Qrels
from dgr_trainer.data.grades import as_qrels
from dgr_trainer.data.hub import HubSource, SavedDatasetSource
from dgr_trainer.data.ids import as_id
from dgr_trainer.data.judgement_readers import FORMATS as JUDGEMENT_FORMATS
from dgr_trainer.data.judgement_readers import line_judgements
from dgr_trainer.data.query_readers import FORMATS as QUERY_FORMATS
from dgr_trainer.data.rows import JudgementRow, QueryRow
from dgr_trainer.data.sources import FileSource, FolderSource, IrDatasetsSource, file_format, resolve
from dgr_trainer.data.texts import as_query
from dgr_trainer.errors import DGRTypeError, DGRValueError
from dgr_trainer.files.compression import SUFFIXES, atomic_text, plain_name, undamaged
from dgr_trainer.files.lines import listing

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]
_RANKS = 5
"""Grades from 1 to this or more, one after the other, look like ranks."""


def read_queries(path: PathLike, split: str | None = None) -> Dataset:
    """Read queries from a file, a folder, the Hub or ir_datasets.

    - JSON Lines or a JSON array (`.jsonl`, `.ndjson`, `.json`), a table (`.parquet`, `.arrow`) or a `.csv` whose first
      line names the columns: `query_id`, `query`, perhaps `answers` (a list of strings), or the other names that
      `docs/data.md` lists (`qid`, `question`).
    - DPR's questions (`nq-test.qa.csv`) and training sets (`biencoder-nq-train.json`), whose ids are the numbers of
      the questions in the file, from 0; KILT's tasks (`nq-dev-kilt.jsonl`).
    - Tab-separated (`.tsv`, `.txt`): `id`, `query` on each line, as in MS MARCO, or the columns that the first line
      names. Topics as TREC publishes them (`<top> <num> <title>`, `<topic number="1"> <query>`).
    - `irds:ID`: a data set of ir_datasets. `hf:NAME`: a dataset of the Hub, a folder or a file, with a mapping of
      columns (`hf:user/questions,split=test,query=ask`); a folder that `datasets` saved.
    - A BEIR folder: `queries.SPLIT.jsonl` if it is there, else those queries of `queries.jsonl` that
      `qrels/SPLIT.tsv` judges; without a split, all of `queries.jsonl`.

    Files may be compressed (`.gz`, `.zst`, `.bz2`, `.xz`).

    Args:
        path (`str` or `os.PathLike`): The file or folder, `hf:NAME` or `irds:ID`.
        split (`str`, *optional*): The split of a BEIR folder or a saved `DatasetDict`, such as `"test"`.

    Returns:
        `datasets.Dataset`: Columns `query_id` and `query` (strings), and `answers` (list of strings) if any query has
        them. Blank queries are dropped with a warning that counts them.

    Raises:
        FileNotFoundError: if the file, or the split, is not there.
        TypeError: if a query is missing or no string, or an id has the wrong type; the line and the id are named.
        ValueError: if a line is malformed, an id occurs twice, or nothing is left.
    """
    name = os.fspath(path)
    match resolve(path, QUERY_COLUMNS):
        case HubSource() as hub:
            _refuse_split(split, name)
            return _checked_queries(dataset_query_rows(*hub.load(QUERY_COLUMNS), name), name)
        case IrDatasetsSource(id):
            _refuse_split(split, name)
            return _checked_queries(ir_datasets_ids.query_rows(id), name)
        case SavedDatasetSource() as saved:
            return _checked_queries(dataset_query_rows(saved.load(split), None, name), name)
        case FolderSource(folder):
            file = FileSource(_query_file(folder, split))
            judged = read_qrels(folder, split) if split and file.name == "queries.jsonl" else None
            with undamaged(file.path):
                missing = f" is judged in the split {split!r}"
                return _checked_queries(_query_rows(file), str(file.path), judged, missing)
        case FileSource() as file:
            _refuse_split(split, name)
            with undamaged(*file.paths):
                return _checked_queries(_query_rows(file), name)


def queries_from_dataset(dataset: Dataset | IterableDataset, columns: Mapping[str, str] | None = None) -> Dataset:
    """Read queries from a dataset, streamed or not.

    Args:
        dataset (`datasets.Dataset` or `datasets.IterableDataset`): A row for each query.
        columns (`Mapping[str, str]`, *optional*):
            Columns of `query_id`, `query` and `answers` that have other names in the dataset, for example
            `{"query": "question", "answers": "answer"}`. Without a column of ids, the ids are the numbers of the rows,
            from 0.

    Returns:
        `datasets.Dataset`: In the form of [`read_queries`].

    Raises:
        TypeError: if `dataset` is no dataset, or a value has the wrong type; names the row.
        ValueError: if a column is missing, an id is invalid or occurs twice, or nothing is left.
    """
    return _checked_queries(dataset_query_rows(dataset, columns), "the dataset")


def qrels_from_dataset(dataset: Dataset | IterableDataset, columns: Mapping[str, str] | None = None) -> Qrels:
    """Read judgements from a dataset, streamed or not.

    Args:
        dataset (`datasets.Dataset` or `datasets.IterableDataset`): A row for each judgement.
        columns (`Mapping[str, str]`, *optional*):
            Columns of `query_id`, `passage_id` and `relevance` that have other names in the dataset (BEIR's
            `query-id`, `corpus-id` and `score` are known). Without a column of relevance, every passage is relevant.

    Returns:
        `dict[str, dict[str, int]]`: In the form of [`read_qrels`].

    Raises:
        TypeError: if `dataset` is no dataset, or an id has the wrong type; names the row.
        ValueError: if a column is missing, a relevance is no integer, or a passage is judged in two ways.
    """
    return _checked_qrels(dataset_judgement_rows(dataset, columns), "the dataset")


def _query_rows(file: FileSource) -> Iterator[QueryRow]:
    return file_format(file, QUERY_FORMATS, "Name it .jsonl, .csv or .tsv.").read(file)


def _checked_queries(
    query_rows: Iterable[QueryRow],
    name: str,
    judged: Collection[str] | None = None,
    missing: str = "",
) -> Dataset:
    """A dataset of the queries, or of the judged ones: every id once, blank queries dropped."""
    rows: dict[str, tuple[str, list[str]]] = {}
    locations: dict[str, str] = {}
    blank = 0
    for location, query_id, query, answers in query_rows:
        if query_id in locations:
            raise DGRValueError(
                f"{location}: the query id {query_id!r} was already on {locations[query_id]}. Make ids unique."
            )
        locations[query_id] = location.removeprefix(
            f"{name}, "
        )  # Without the path, which is long and does not change.
        if judged is not None and query_id not in judged:
            continue
        if not query.strip():
            blank += 1
            continue
        rows[query_id] = (query, answers)
    if blank:
        logger.warning("%s: %d of %d queries are blank and were dropped.", name, blank, blank + len(rows))
    if not rows:
        raise DGRValueError(f"{name}: no query in it{missing if judged is not None else ''}.")
    from datasets import Dataset, Features, List, Value

    columns: dict[str, Any] = {"query_id": list(rows), "query": [query for query, _ in rows.values()]}
    features = {"query_id": Value("string"), "query": Value("string")}
    if any(answers for _, answers in rows.values()):
        columns["answers"] = [answers for _, answers in rows.values()]
        features["answers"] = List(Value("string"))
    return Dataset.from_dict(columns, features=Features(features))


def _refuse_split(split: str | None, path: str) -> None:
    if split is not None:
        raise DGRValueError(
            f"A split ({split!r}) is chosen in a BEIR folder, but {path} is no folder. Leave split out."
        )


def _query_file(folder: Path, split: str | None) -> Path:
    names = ["queries.jsonl"] if split is None else [f"queries.{split}.jsonl", "queries.jsonl"]
    for name in names:
        for candidate in (folder / name, *(folder / f"{name}{suffix}" for suffix in SUFFIXES)):
            if candidate.is_file():
                return candidate
    hint = "" if split else ' Name a split, for example read_queries(folder, "test").'
    raise FileNotFoundError(f"{folder} has no {' and no '.join(names)}. It holds: {listing(folder)}.{hint}")


def queries_mapping(queries: Dataset | Mapping[str, str]) -> dict[str, str]:
    """Turn a dataset or a mapping of queries into a dictionary.

    Args:
        queries (`datasets.Dataset` or `Mapping[str, str]`):
            A dataset with the columns `query_id` and `query` (others are ignored; a query may occur in several rows
            with the same text), or queries by id.

    Returns:
        `dict[str, str]`: Queries by id, in the given order.

    Raises:
        TypeError: if `queries` is neither, or an id or a query has the wrong type.
        ValueError: if the dataset lacks a column, an id is invalid or has two different queries, a query is blank, or
            there are none.
    """
    from datasets import Dataset

    pairs: Iterator[tuple[Any, Any]]
    kind = "row" if isinstance(queries, Dataset) else "entry"
    if isinstance(queries, Dataset):
        missing = [name for name in ("query_id", "query") if name not in queries.column_names]
        if missing:
            raise DGRValueError(
                f"The queries have no column {' and no column '.join(map(repr, missing))}; their columns are "
                f"{queries.column_names}. Rename with queries.rename_columns({{...}})."
            )
        pairs = _dataset_pairs(queries)
    elif isinstance(queries, Mapping) and not any(isinstance(value, Dataset) for value in queries.values()):
        pairs = iter(queries.items())
    else:
        splits = f" with the splits {sorted(map(str, queries))}: choose one" if isinstance(queries, Mapping) else ""
        raise DGRTypeError(
            f"queries is a {type(queries).__name__}{splits}. Give a datasets.Dataset with the columns query_id and "
            "query, or a mapping of query ids to queries."
        )
    result: dict[str, str] = {}
    for number, (value, query) in enumerate(pairs):
        location = f"{kind} {number} of the queries"
        query_id = as_id(value, "query", location)
        as_query(query, query_id, location)
        if result.setdefault(query_id, query) != query:
            raise DGRValueError(
                f"Two queries have the id {query_id!r}: {result[query_id]!r} and {query!r}. Every query needs "
                "its own id."
            )
    if not result:
        raise DGRValueError("There are no queries: the dataset or mapping is empty.")
    return result


def _dataset_pairs(queries: Dataset) -> Iterator[tuple[Any, Any]]:
    for batch in queries.select_columns(["query_id", "query"]).with_format(None).iter(batch_size=10_000):
        yield from zip(batch["query_id"], batch["query"], strict=True)


def read_qrels(path: PathLike, split: str | None = None) -> Qrels:
    """Read qrels (relevance judgements) from a file, or from the `qrels` of a BEIR folder.

    A file has, on each line, either four columns between whitespace (TREC: query, iteration, passage, relevance) or
    three (BEIR: query, passage, score), or those that its first line names, such as BEIR's
    `query-id corpus-id score`. Records (JSON Lines, `.csv`, `.parquet`, `.arrow`) have the same names. Grades are
    integers; 1.0 is 1. Of a training set of DPR (`biencoder-nq-train.json`) the positive
    passages are relevant; of a task of KILT the pages of the provenance; of the results of
    DPR's retriever the passages with `has_answer`. `irds:ID` is a data set of ir_datasets, `hf:NAME` a dataset of the
    Hub, perhaps with names of columns (`hf:user/judgements,passage_id=doc`).

    Args:
        path (`str` or `os.PathLike`): The file or folder, `hf:NAME` or `irds:ID`. Files may be compressed.
        split (`str`, *optional*): The split of a BEIR folder or a saved `DatasetDict`, such as `"test"`.

    Returns:
        `dict[str, dict[str, int]]`: Relevance by query id and passage id; 0 and less are kept.

    Raises:
        FileNotFoundError: if the file, or the split, is not there.
        ValueError: if a line is malformed, a passage has two different judgements, or there is no judgement.
    """
    name = os.fspath(path)
    match resolve(path, JUDGEMENT_COLUMNS):
        case HubSource() as hub:
            _refuse_split(split, name)
            return _checked_qrels(dataset_judgement_rows(*hub.load(JUDGEMENT_COLUMNS), name), name)
        case IrDatasetsSource(id):
            _refuse_split(split, name)
            return _checked_qrels(ir_datasets_ids.judgement_rows(id), name)
        case SavedDatasetSource() as saved:
            return _checked_qrels(dataset_judgement_rows(saved.load(split), None, name), name)
        case FolderSource(folder):
            file = FileSource(_qrels_file(folder, split))
            with undamaged(file.path):
                return _checked_qrels(line_judgements(file), str(file.path))
        case FileSource() as file:
            _refuse_split(split, name)
            with undamaged(*file.paths):
                rows = file_format(file, JUDGEMENT_FORMATS, "Name it .tsv, .csv, .jsonl or .parquet.").read(file)
                return _checked_qrels(rows, name)


def _qrels_file(folder: Path, split: str | None) -> Path:
    folder = folder / "qrels" if (folder / "qrels").is_dir() else folder
    if split is not None:
        for suffix in ("", *SUFFIXES):
            file = folder / f"{split}.tsv{suffix}"
            if file.is_file():
                return file
    problem = f"has no {split}.tsv" if split else "is a folder: name a split"
    raise FileNotFoundError(f"{folder} {problem}. It holds: {listing(folder)}.")


def _checked_qrels(judgements: Iterable[JudgementRow], name: str) -> Qrels:
    """Judgements by query and passage; a passage that is judged twice has to have the same relevance."""
    qrels: Qrels = {}
    for location, query_id, passage_id, relevance in judgements:
        earlier = qrels.setdefault(query_id, {}).setdefault(passage_id, relevance)
        if earlier != relevance:
            raise DGRValueError(
                f"{location}: passage {passage_id!r} has relevance {relevance} for query {query_id!r}, but {earlier} "
                "on an earlier line. Keep one of the two."
            )
    if not qrels:
        raise DGRValueError(f"{name}: no judgement in it.")
    if max(map(len, qrels.values())) >= _RANKS and all(
        list(grades.values()) == list(range(1, len(grades) + 1)) for grades in qrels.values()
    ):
        logger.warning("%s: the relevance is 1, 2, 3, ... for every query, as ranks are. Is this a run?", name)
    return qrels


def write_qrels(qrels: Mapping[str, Mapping[str, int]], path: PathLike) -> None:
    """Write qrels, whole or not at all: BEIR's three columns with a header to a `.tsv`, otherwise TREC's four columns.

    The file is compressed if its name ends in `.gz`, `.zst`, `.bz2` or `.xz`.

    Raises:
        TypeError: if an id is neither a string nor an integer.
        ValueError: if an id is empty or holds whitespace, or a relevance is no integer.
    """
    qrels = as_qrels(qrels)
    beir = plain_name(path).endswith(".tsv")
    with atomic_text(path) as file:
        if beir:
            file.write("query-id\tcorpus-id\tscore\n")
        for query_id, judgements in qrels.items():
            for passage_id, relevance in judgements.items():
                middle = "\t" if beir else " 0 "
                file.write(f"{query_id}{middle}{passage_id}{middle if beir else ' '}{relevance}\n")


def check_qrels(
    qrels: Mapping[str, Mapping[str, int]],
    corpus: Container[str],
    queries: Dataset | Mapping[str, str] | None = None,
) -> Qrels:
    """Keep the judgements of known queries and of passages in the corpus; one warning counts the others.

    Args:
        qrels (`Mapping[str, Mapping[str, int]]`): Relevance by query id and passage id.
        corpus (`Corpus` or `Container[str]`): The corpus, or the ids in it.
        queries (`datasets.Dataset` or `Mapping[str, str]`, *optional*): The known queries. By default all are.

    Returns:
        `dict[str, dict[str, int]]`: The judgements that are left.

    Raises:
        TypeError: if an id is neither a string nor an integer.
        ValueError: if an id or a relevance is invalid, or nothing is left.
    """
    qrels = as_qrels(qrels)
    known_queries = None if queries is None else queries_mapping(queries)
    kept: Qrels = {}
    unknown_queries: list[str] = []
    unknown_passages: list[str] = []
    total = 0
    for query_id, judgements in qrels.items():
        total += len(judgements)
        if known_queries is not None and query_id not in known_queries:
            unknown_queries.append(query_id)
            continue
        left = {passage_id: relevance for passage_id, relevance in judgements.items() if passage_id in corpus}
        unknown_passages += [passage_id for passage_id in judgements if passage_id not in left]
        if left:
            kept[query_id] = left
    problem = (
        f"{len(unknown_queries)} of {len(qrels)} queries of the qrels are unknown (such as {unknown_queries[:3]}) and "
        f"{len(unknown_passages)} of {total} judged passages are not in the corpus (such as {unknown_passages[:3]})"
    )
    if not kept:
        raise DGRValueError(
            f"Nothing is left of the qrels: {problem}. Are qrels, queries and corpus of the same collection?"
        )
    if unknown_queries or unknown_passages:
        lost = len(qrels) - len(kept) - len(unknown_queries)
        and_queries = f", with which {lost} more queries have no judgement left" if lost else ""
        logger.warning("%s%s. They were dropped.", problem, and_queries)
    return kept
