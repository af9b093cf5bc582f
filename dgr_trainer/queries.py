"""Queries and qrels: read, written and checked."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value

from dgr_trainer.atomic import atomic_write
from dgr_trainer.ids import as_id
from dgr_trainer.lines import existing_file, file_kind, json_lines, listing, numbered_lines, place

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]
Qrels = dict[str, dict[str, int]]
"""Relevance of passages by query id and passage id; 0 (or less) is not relevant."""

QUERY_ID_NAMES = ("id", "_id", "query_id", "qid")
QUERY_NAMES = ("text", "query")


def read_queries(path: PathLike, split: str | None = None) -> Dataset:
    """Read queries from a file or a BEIR folder.

    - JSON Lines (`.jsonl`, `.ndjson`, `.json`): `id`, `_id` or `query_id`; `text` or `query`; perhaps `answers` (a
      list of strings).
    - Tab-separated (`.tsv`, `.txt`): `id`, `query` on each line, as TREC and MS MARCO topics; a first line that names
      the columns is skipped.
    - A BEIR folder: `queries.SPLIT.jsonl` if it is there, else those queries of `queries.jsonl` that
      `qrels/SPLIT.tsv` judges; without a split, all of `queries.jsonl`.

    Files may be gzipped (`.gz`).

    Args:
        path (`str` or `os.PathLike`): the file or folder.
        split (`str`, *optional*): the split of a BEIR folder, such as `"test"`.

    Returns:
        `datasets.Dataset`: columns `query_id` and `query` (strings), and `answers` (list of strings) if any query has
        them. Blank queries are dropped with a warning that counts them.

    Raises:
        FileNotFoundError: if the file, or the split, is not there.
        ValueError: if a line is malformed, an id occurs twice, or nothing is left.
    """
    path = Path(path)
    judged: Collection[str] | None = None
    if path.is_dir():
        folder, path = path, _split_file(path, split)
        if split is not None and path.name.startswith("queries.jsonl"):
            judged = read_qrels(folder, split)
    elif split is not None:
        raise ValueError(f"A split ({split!r}) is chosen in a BEIR folder, but {path} is no folder. Leave split out.")

    rows: dict[str, tuple[str, list[str]]] = {}
    lines: dict[str, int] = {}
    blank = 0
    for number, query_id, query, answers in _queries(path):
        where = place(path, number)
        if query_id in lines:
            raise ValueError(
                f"{where}: the query id {query_id!r} was already on line {lines[query_id]}. Make ids unique."
            )
        lines[query_id] = number
        if judged is not None and query_id not in judged:
            continue
        if not query.strip():
            blank += 1
            continue
        rows[query_id] = (query, answers)
    if blank:
        logger.warning("%s: %d of %d queries are blank and were dropped.", path, blank, blank + len(rows))
    if not rows:
        raise ValueError(f"{path}: no query in it{'' if judged is None else f' is judged in the split {split!r}'}.")
    columns: dict[str, Any] = {"query_id": list(rows), "query": [query for query, _ in rows.values()]}
    features = {"query_id": Value("string"), "query": Value("string")}
    if any(answers for _, answers in rows.values()):
        columns["answers"] = [answers for _, answers in rows.values()]
        features["answers"] = List(Value("string"))
    return Dataset.from_dict(columns, features=Features(features))


def _queries(path: Path) -> Iterator[tuple[int, str, str, list[str]]]:
    kind = file_kind(existing_file(path))
    if kind == "jsonl":
        for number, record in json_lines(path):
            where = place(path, number)
            id_name = next((name for name in QUERY_ID_NAMES if name in record), None)
            name = next((name for name in QUERY_NAMES if name in record), None)
            if id_name is None or name is None:
                raise ValueError(
                    f"{where}: a query needs an id ({', '.join(QUERY_ID_NAMES)}) and a text "
                    f"({', '.join(QUERY_NAMES)}). The fields found are {sorted(record)}."
                )
            query, answers = record[name], record.get("answers") or []
            if not isinstance(query, str):
                raise TypeError(f"{where}: the query is {query!r} ({type(query).__name__}), not a string.")
            if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
                raise TypeError(f"{where}: answers is {answers!r}, but it has to be a list of strings.")
            yield number, as_id(record[id_name], "query", where), query, answers
    elif kind == "tsv":
        first = True
        for number, line in numbered_lines(path):
            where = place(path, number)
            cells = line.split("\t")
            if len(cells) != 2:
                raise ValueError(
                    f"{where}: {len(cells)} columns, but two are expected: id and query, between them a tab."
                )
            header = first and cells[0].strip().lower() in QUERY_ID_NAMES and cells[1].strip().lower() in QUERY_NAMES
            first = False
            if not header:
                yield number, as_id(cells[0], "query", where), cells[1], []
    else:
        raise ValueError(f"{path}: the name does not tell the format. Name it .jsonl or .tsv.")


def _split_file(folder: Path, split: str | None) -> Path:
    names = ["queries.jsonl"] if split is None else [f"queries.{split}.jsonl", "queries.jsonl"]
    for name in names:
        for candidate in (folder / name, folder / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    hint = "" if split else ' Name a split, for example read_queries(folder, "test").'
    raise FileNotFoundError(f"{folder} has no {' and no '.join(names)}. It holds: {listing(folder)}.{hint}")


def queries_mapping(queries: Dataset | Mapping[str, str]) -> dict[str, str]:
    """Queries by id, whatever they come in.

    Args:
        queries (`datasets.Dataset` or `Mapping[str, str]`): a dataset with the columns `query_id` and `query` (others
            are ignored; a query may occur in several rows with the same text), or queries by id.

    Returns:
        `dict[str, str]`: query by query id, in the order given.

    Raises:
        TypeError: if `queries` is neither, or an id or a query is of the wrong type.
        ValueError: if the dataset lacks a column, an id is invalid or has two different queries, a query is blank, or
            there are none.
    """
    pairs: Iterator[tuple[Any, Any]]
    if isinstance(queries, Dataset):
        missing = [name for name in ("query_id", "query") if name not in queries.column_names]
        if missing:
            raise ValueError(
                f"The queries have no column {' and no column '.join(map(repr, missing))}; their columns are "
                f"{queries.column_names}. Rename with queries.rename_columns({{...}})."
            )
        pairs = _dataset_pairs(queries)
    elif isinstance(queries, Mapping) and not any(isinstance(value, Dataset) for value in queries.values()):
        pairs = iter(queries.items())
    else:
        splits = f" with the splits {sorted(map(str, queries))}: choose one" if isinstance(queries, Mapping) else ""
        raise TypeError(
            f"queries is a {type(queries).__name__}{splits}. Give a datasets.Dataset with the columns query_id and "
            "query, or a mapping of query ids to queries."
        )
    result: dict[str, str] = {}
    for number, (value, query) in enumerate(pairs):
        query_id = as_id(value, "query", f"query {number}")
        if not isinstance(query, str):
            raise TypeError(f"Query {query_id!r} is {query!r} ({type(query).__name__}), not a string.")
        if not query.strip():
            raise ValueError(f"Query {query_id!r} is blank. Leave it out, or give it its text.")
        if result.setdefault(query_id, query) != query:
            raise ValueError(
                f"Two queries have the id {query_id!r}: {result[query_id]!r} and {query!r}. Every query needs an "
                "id of its own."
            )
    if not result:
        raise ValueError("There are no queries: what was given is empty.")
    return result


def _dataset_pairs(queries: Dataset) -> Iterator[tuple[Any, Any]]:
    for batch in queries.select_columns(["query_id", "query"]).with_format(None).iter(batch_size=10_000):
        yield from zip(batch["query_id"], batch["query"], strict=True)


def read_qrels(path: PathLike, split: str | None = None) -> Qrels:
    """Read qrels (relevance judgements) from a file, or from the `qrels` of a BEIR folder.

    A file has, on each line, either four columns between whitespace (TREC: query, iteration, passage, relevance) or
    three (BEIR: query, passage, score). A first line whose last column is a name, such as BEIR's
    `query-id corpus-id score`, is a header.

    Args:
        path (`str` or `os.PathLike`): the file, or the BEIR folder. It may be gzipped (`.gz`).
        split (`str`, *optional*): the split of a BEIR folder, such as `"test"`.

    Returns:
        `dict[str, dict[str, int]]`: relevance by query id and passage id; 0 and less are kept.

    Raises:
        FileNotFoundError: if the file, or the split, is not there.
        ValueError: if a line is malformed, a passage is judged twice with different results, or there is no
            judgement.
    """
    path = Path(path)
    if path.is_dir():
        folder = path / "qrels" if (path / "qrels").is_dir() else path
        if split is None or not (folder / f"{split}.tsv").is_file():
            wanted = f"has no {split}.tsv" if split else "is a folder: name a split"
            raise FileNotFoundError(f"{folder} {wanted}. It holds: {listing(folder)}.")
        path = folder / f"{split}.tsv"
    elif split is not None:
        raise ValueError(f"A split ({split!r}) is chosen in a BEIR folder, but {path} is no folder. Leave split out.")
    qrels: Qrels = {}
    columns = 0
    for number, line in numbered_lines(path):
        where = place(path, number)
        cells = line.split()
        if columns == 0 and len(cells) in (3, 4) and cells[0].lower() in _QRELS_HEADER and not _is_integer(cells[-1]):
            columns = len(cells)
            continue
        if len(cells) not in (3, 4) or columns not in (0, len(cells)):
            wanted = (
                str(columns or "")
                or "four (query, iteration, passage, relevance) or three (query, passage, relevance)"
            )
            hint = " Six columns are a run: Rankings.from_trec reads it." if len(cells) == 6 else ""
            raise ValueError(f"{where}: {len(cells)} columns, but qrels have {wanted} on every line.{hint}")
        columns = len(cells)
        query_id, passage_id, relevance = cells[0], cells[-2], cells[-1]
        if not _is_integer(relevance):
            raise ValueError(f"{where}: the relevance (last column) is {relevance!r}, not an integer.")
        known = qrels.setdefault(query_id, {}).setdefault(passage_id, int(relevance))
        if known != int(relevance):
            raise ValueError(
                f"{where}: passage {passage_id!r} has relevance {relevance} for query {query_id!r}, but {known} on an "
                "earlier line. Keep one of the two."
            )
    if not qrels:
        raise ValueError(f"{path}: no judgement in it.")
    return qrels


_QRELS_HEADER = ("query-id", "query_id", "qid", "queryid", "query", "topic")


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def write_qrels(qrels: Mapping[str, Mapping[str, int]], path: PathLike) -> None:
    """Write qrels, whole or not at all: BEIR's three columns with a header to a `.tsv`, else TREC's four columns.

    Raises:
        TypeError: if an id is no string, or a relevance no integer.
        ValueError: if an id is empty or holds whitespace.
    """
    beir = Path(path).suffix == ".tsv"
    with atomic_write(path) as file:
        if beir:
            file.write("query-id\tcorpus-id\tscore\n")
        for query_id, judgements in qrels.items():
            where = f"qrels of query {query_id!r}"
            as_id(query_id, "query", where)
            for passage_id, relevance in judgements.items():
                as_id(passage_id, "passage", where)
                if isinstance(relevance, bool) or not isinstance(relevance, int):
                    raise TypeError(f"{where}: the relevance of {passage_id!r} is {relevance!r}, not an integer.")
                middle = "\t" if beir else " 0 "
                file.write(f"{query_id}{middle}{passage_id}{middle if beir else ' '}{relevance}\n")


def check_qrels(
    qrels: Mapping[str, Mapping[str, int]],
    corpus: Container[str],
    queries: Dataset | Mapping[str, str] | None = None,
) -> Qrels:
    """The judgements of passages that are in the corpus and of queries that are known.

    Args:
        qrels (`Mapping[str, Mapping[str, int]]`): relevance by query id and passage id.
        corpus (`Corpus` or `Container[str]`): the corpus, or the ids in it.
        queries (`datasets.Dataset` or `Mapping[str, str]`, *optional*): the queries; by default all are known.

    Returns:
        `dict[str, dict[str, int]]`: what is left. What was dropped is counted in one warning.

    Raises:
        ValueError: if nothing is left.
    """
    known = None if queries is None else queries_mapping(queries)
    kept: Qrels = {}
    unknown_queries: list[str] = []
    unknown_passages: list[str] = []
    total = 0
    for query_id, judgements in qrels.items():
        total += len(judgements)
        if known is not None and query_id not in known:
            unknown_queries.append(query_id)
            continue
        left = {passage_id: relevance for passage_id, relevance in judgements.items() if passage_id in corpus}
        unknown_passages += [passage_id for passage_id in judgements if passage_id not in left]
        if left:
            kept[query_id] = left
    found = (
        f"{len(unknown_queries)} of {len(qrels)} queries of the qrels are unknown (such as {unknown_queries[:3]}) and "
        f"{len(unknown_passages)} of {total} judged passages are not in the corpus (such as {unknown_passages[:3]})"
    )
    if not kept:
        raise ValueError(
            f"Nothing is left of the qrels: {found}. Are qrels, queries and corpus of the same collection?"
        )
    if unknown_queries or unknown_passages:
        lost = len(qrels) - len(kept) - len(unknown_queries)
        gone = f", with which {lost} more queries have no judgement left" if lost else ""
        logger.warning("%s%s. They were dropped.", found, gone)
    return kept
