"""Runs in columns that are not TREC's six: MS MARCO's, Tevatron's, ColBERT's, or those that the first line names.

Without a header, three columns are a query, a passage, and a rank or a score; four are a query, a passage, a rank and
a score (ColBERT), or `query Q0 passage` and a rank or a score; five are TREC's without the tag.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm.auto import tqdm

from dgr_trainer.data.columns import RUN_COLUMNS, header_columns
from dgr_trainer.data.grades import as_integer, is_integer
from dgr_trainer.data.ids import as_id
from dgr_trainer.data.sources import FileSource
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.lines import line_location, numbered_lines
from dgr_trainer.runs.rank_list import RankTableBuilder, by_rank
from dgr_trainer.runs.trec import Q0, RankOrder, refuse_second

logger = logging.getLogger(__name__)

_NEEDED = (("query_id",), ("passage_id",), ("score", "rank"))
_ADVICE = (
    "Let the first line name the columns (query_id, passage_id, and score or rank), or write TREC's six: query Q0 "
    "passage rank score tag."
)
_VALUE = "value"
"""The field of a column that holds ranks or scores, which only the whole file tells."""


def recognises(file: FileSource) -> bool:
    """Whether the first line of a text file names the columns of a run, or has three to five."""
    if not file.holds_lines:
        return False
    number, line = next(numbered_lines(file.path), (0, ""))
    cells = _cells(line)
    return 3 <= len(cells) <= 5 or _header(line_location(file.path, number), cells) is not None


def read_column_run(file: FileSource) -> pa.Table:
    """Read a run.

    Args:
        file ([`FileSource`]): The run.

    Returns:
        `pyarrow.Table`: The lists with the columns of `SCHEMA`. Of n ranked passages without scores, the first has
        the score n, the last 1.

    Raises:
        ValueError: if a line is malformed, it cannot be told whether a column holds ranks or scores, all ranks
            contradict the scores, or a passage occurs twice for a query.
    """
    path = file.path
    builder, order, kind = RankTableBuilder(), RankOrder(path), _ValueKind(path)
    columns: Mapping[str, int] | None = None
    width, only_zeros = 0, True
    for number, line in tqdm(numbered_lines(path), desc="Reading run", unit=" lines", delay=5):
        cells = _cells(line)
        location = line_location(path, number)
        if columns is None:
            width = len(cells)
            columns = _header(location, cells)
            if columns is not None:
                only_zeros = False
                continue
            columns = _positions(location, cells)
        if len(cells) != width:
            raise DGRValueError(f"{location}: {len(cells)} columns, but the first line has {width}. {_ADVICE}")
        query_id = as_id(cells[columns["query_id"]], "query", location)
        passage_id = as_id(cells[columns["passage_id"]], "passage", location)
        only_zeros = only_zeros and width == 4 and cells[1] == "0" and is_integer(cells[3])
        field = next(name for name in ("score", _VALUE, "rank") if name in columns)
        cell = cells[columns[field]]
        rank = _rank(location, columns, cells) if "rank" in columns else None
        score = float(-rank) if field == "rank" and rank is not None else _score(location, columns[field], cell)
        if field == "score" and rank is not None:
            order.compare(number, query_id, rank, score)
        elif field == _VALUE:
            kind.add(query_id, cell, score)
        if not builder.add_hit(query_id, passage_id, score):
            if only_zeros:
                _refuse_qrels(location)
            refuse_second(path, number, query_id, passage_id)
    if columns is None or builder.empty:
        raise DGRValueError(f"{path}: the run is empty.")
    if only_zeros:
        _refuse_qrels(str(path))
    order.check()
    table = builder.table(partial(_find_second, path, columns))
    if "score" in columns:
        return table
    if "rank" in columns:
        return by_rank(table)
    return kind.scored(table)


class _ValueKind:
    """Whether the values of a column are ranks or scores: a list begins with rank 1, or with its highest score."""

    def __init__(self, path: object) -> None:
        self._path = path
        self._integers = True
        self._rising = self._falling = 0
        self._previous: dict[str, float] = {}
        self._lowest, self._highest = math.inf, -math.inf

    def add(self, query_id: str, cell: str, value: float) -> None:
        """Look at the value of a line."""
        self._integers = self._integers and is_integer(cell)
        previous = self._previous.get(query_id, value)
        self._previous[query_id] = value
        self._lowest, self._highest = min(self._lowest, value), max(self._highest, value)
        self._rising += value > previous
        self._falling += value < previous

    def scored(self, table: pa.Table) -> pa.Table:
        """The table of lists with these values as scores, or with scores for these ranks."""
        if not self._integers:
            if self._rising and not self._falling:
                logger.warning(
                    "%s: the scores of every list rise from the first line to the last. The highest score is the "
                    "best. If they are distances, negate them.",
                    self._path,
                )
            return table
        begins = self._lowest in (0, 1)
        if begins and not self._falling and (self._rising or self._highest <= 1):
            return self._ranked(table)
        if self._falling and not self._rising:
            return table
        if not self._falling and not self._rising:
            return table
        if begins and _are_permutations(table):
            return self._ranked(table)
        raise DGRValueError(
            f"{self._path}: the last column holds integers that are neither ranks (1, 2, 3, ... in each list) nor "
            f"scores with the best first. {_ADVICE}"
        )

    def _ranked(self, table: pa.Table) -> pa.Table:
        logger.info("%s: the last column holds ranks.", self._path)
        builder = RankTableBuilder()
        for row in range(len(table)):
            scores = table.column("scores")[row].values.to_numpy()
            builder.add_valid(table.column("query_id")[row].as_py(), table.column("passage_ids")[row].as_py(), -scores)
        return by_rank(builder.table())


def _are_permutations(table: pa.Table) -> bool:
    """Whether the values of every list are consecutive integers from 0 or 1."""
    scores = table.column("scores").combine_chunks()
    lengths = pc.list_value_length(scores).to_numpy()
    values = scores.flatten().to_numpy()  # Every list is sorted.
    ends = np.add.accumulate(lengths)
    lowest, highest = values[ends - 1], values[ends - lengths]
    inside = np.delete(values[:-1] - values[1:], ends[:-1] - 1)  # Not from one list to the next.
    return bool(np.isin(lowest, (0, 1)).all() and (highest - lowest == lengths - 1).all() and (inside == 1).all())


def _cells(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else line.split()


def _header(location: str, cells: list[str]) -> dict[str, int] | None:
    return header_columns(location, cells, RUN_COLUMNS, _NEEDED)


def _positions(location: str, cells: list[str]) -> Mapping[str, int]:
    """The columns of a file without a header, by its first line."""
    if any(" " in cell.strip() for cell in cells):
        raise DGRValueError(
            f"{location}: a column holds text of several words, so this is no run. Candidates with their texts, as in "
            "MS MARCO's top1000.dev, are read by read_top1000."
        )
    if len(cells) == 3:
        return {"query_id": 0, "passage_id": 1, _VALUE: 2}
    if len(cells) == 4 and cells[1] == "0" and not is_integer(cells[2]) and is_integer(cells[3]):
        _refuse_qrels(location)
    if len(cells) == 4 and cells[1] in Q0:
        return {"query_id": 0, "passage_id": 2, _VALUE: 3}
    if len(cells) == 4:
        return {"query_id": 0, "passage_id": 1, "rank": 2, "score": 3}
    if len(cells) == 5 and cells[1] in {*Q0, "0"}:
        return {"query_id": 0, "passage_id": 2, "rank": 3, "score": 4}
    raise DGRValueError(f"{location}: {len(cells)} columns, which is no known form of a run. {_ADVICE}")


def _refuse_qrels(location: str) -> NoReturn:
    raise DGRValueError(
        f"{location}: the second of four columns is 0 and the last one an integer, as in qrels. A run has a score or "
        f"a rank for each passage. {_ADVICE}"
    )


def _rank(location: str, columns: Mapping[str, int], cells: list[str]) -> int:
    cell = cells[columns["rank"]]
    rank = as_integer(cell)
    if rank is None or rank < 0:
        swapped = "score" in columns and is_integer(cells[columns["score"]])
        hint = " Are the columns of ranks and scores swapped?" if swapped else ""
        raise DGRValueError(
            f"{location}: the rank (column {columns['rank'] + 1}) is {cell!r}, not an integer of 0 or more.{hint} "
            f"{_ADVICE}"
        )
    return rank


def _score(location: str, column: int, cell: str) -> float:
    try:
        score = float(cell)
    except ValueError:
        raise DGRValueError(
            f"{location}: the score or rank (column {column + 1}) is {cell!r}, not a number. {_ADVICE}"
        ) from None
    if not math.isfinite(score):
        raise DGRValueError(f"{location}: the score (column {column + 1}) is {cell}. Scores have to be finite.")
    return score


def _find_second(path: Path, columns: Mapping[str, int], query_id: str) -> NoReturn:
    """Read the run again to find the line on which a passage of the query occurs a second time."""
    seen: set[str] = set()
    for number, line in numbered_lines(path):
        cells = _cells(line)
        if cells[columns["query_id"]] == query_id:
            passage_id = cells[columns["passage_id"]]
            if passage_id in seen:
                refuse_second(path, number, query_id, passage_id)
            seen.add(passage_id)
    raise DGRValueError(f"{path}: the run has changed while it was read.")
