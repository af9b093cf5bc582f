"""Candidates that data sets publish: DPR's hard negatives, MS MARCO's `top1000.dev` and training triples of ids."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from dgr_trainer.data.columns import RUN_COLUMNS
from dgr_trainer.data.formats.dpr import training_questions
from dgr_trainer.data.ids import as_id
from dgr_trainer.data.queries import Qrels
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.arrow_rows import dataset_from_rows
from dgr_trainer.files.compression import undamaged
from dgr_trainer.files.lines import line_location, numbered_lines
from dgr_trainer.files.records import read_records
from dgr_trainer.runs.rank_list import run_features
from dgr_trainer.runs.rankings import Rankings

PathLike = str | os.PathLike[str]


class Triples(NamedTuple):
    """Training triples, by query.

    Attributes:
        qrels (`dict[str, dict[str, int]]`): The relevant passages, with relevance 1.
        negatives ([`Rankings`]): The other passages in the order of the file: candidates for a teacher to rank.
    """

    qrels: Qrels
    negatives: Rankings


def read_top1000(path: PathLike) -> Rankings:
    """Read candidates: query id, passage id, query and passage on each line, separated by tabs.

    Args:
        path (`str` or `os.PathLike`):
            A file such as the one in `top1000.dev.tar.gz`; perhaps compressed (`.gz`, `.zst`, `.bz2`, `.xz`), but not
            a tar archive.

    Returns:
        [`Rankings`]: The candidates of each query in the order of the file, which is no ranking: let a teacher rank
        them.

    Raises:
        ValueError: if a line is malformed or a candidate occurs twice for a query.
    """
    with undamaged(path):
        return _top1000(path)


def _top1000(path: PathLike) -> Rankings:
    candidates: dict[str, dict[str, None]] = {}
    for location, cells in _lines(path, "candidates"):
        if len(cells) != 4:
            raise DGRValueError(
                f"{location}: {len(cells)} columns, but candidates have four: query id, passage id, query and "
                "passage, separated by tabs."
            )
        query_id, passage_id = as_id(cells[0], "query", location), as_id(cells[1], "passage", location)
        passages = candidates.setdefault(query_id, {})
        if passage_id in passages:
            raise DGRValueError(
                f"{location}: passage {passage_id!r} is a candidate of query {query_id!r} a second time."
            )
        passages[passage_id] = None
    if not candidates:
        raise DGRValueError(f"{os.fspath(path)}: there is no candidate in it.")
    return Rankings.from_order({query_id: list(ids) for query_id, ids in candidates.items()}, "top1000")


def read_triples(path: PathLike, k: int = 100) -> Triples:
    """Read training triples of ids: query, relevant passage, other passage on each line, separated by tabs.

    Args:
        path (`str` or `os.PathLike`): A file such as `qidpidtriples.train.full.2.tsv.gz`.
        k (`int`, *optional*, defaults to 100): Other passages to keep of a query, the first ones in the file.

    Returns:
        [`Triples`]

    Raises:
        ValueError: if a line is malformed, or `k` is below 1.
    """
    if k < 1:
        raise DGRValueError(f"k is {k}, but at least one passage of a query has to be kept.")
    with undamaged(path):
        return _triples(path, k)


def _triples(path: PathLike, k: int) -> Triples:
    qrels: Qrels = {}
    others: dict[str, dict[str, None]] = {}
    for location, cells in _lines(path, "triples"):
        if len(cells) != 3 or any(" " in cell for cell in cells):
            raise DGRValueError(
                f"{location}: {' / '.join(cell[:20] for cell in cells)!r} is no triple of ids (query, relevant "
                "passage, other passage, separated by tabs). Triples of texts have no ids to train on: use the file "
                "of ids, such as qidpidtriples.train.full.2.tsv.gz."
            )
        query_id, relevant, other = cells
        qrels.setdefault(as_id(query_id, "query", location), {})[as_id(relevant, "passage", location)] = 1
        kept = others.setdefault(query_id, {})
        if len(kept) < k:
            kept[as_id(other, "passage", location)] = None
    if not qrels:
        raise DGRValueError(f"{os.fspath(path)}: there is no triple in it.")
    # A passage may be relevant in one triple and the other passage in another.
    lists = {query_id: [id for id in ids if id not in qrels[query_id]] for query_id, ids in others.items()}
    return Triples(qrels, Rankings.from_order(lists, "triples"))


def read_hard_negatives(path: str | os.PathLike[str], k: int = 100) -> Rankings:
    """Read the hard negatives of a training set of DPR, in their order: candidates for a teacher to rank.

    Args:
        path (`str` or `os.PathLike`): A file such as `biencoder-nq-train.json.gz`.
        k (`int`, *optional*, defaults to 100): Passages to keep of a question.

    Returns:
        [`Rankings`]: By the query ids of `read_queries`; memory-mapped.

    Raises:
        TypeError: if a field has the wrong type.
        ValueError: if a field or the id of a passage is missing.
    """

    def rows() -> Iterator[dict[str, Any]]:
        for question in training_questions(read_records(path)):
            ids = list(dict.fromkeys(question.hard_negatives))[:k]
            scores = [float(score) for score in range(len(ids), 0, -1)]
            yield {"query_id": question.query_id, "passage_ids": ids, "scores": scores}

    with undamaged(path):
        return Rankings.from_dataset(
            dataset_from_rows(rows(), run_features(), description="hard negatives"), "hard-negatives"
        )


def _lines(path: PathLike, what: str) -> Iterator[tuple[str, list[str]]]:
    for number, line in tqdm(numbered_lines(path), desc=f"Reading {what}", unit=" lines", delay=5):
        cells = line.split("\t")
        if number == 1 and cells[0].strip().lower() in RUN_COLUMNS["query_id"]:
            continue  # A line that names the columns.
        yield line_location(path, number), cells
