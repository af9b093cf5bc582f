"""TREC runs, line by line: malformed lines and other orders of the columns are refused with their location."""

from __future__ import annotations

import logging
import math
import os
from functools import partial
from typing import NoReturn

import pyarrow as pa
from tqdm.auto import tqdm

from dgr_trainer.data.grades import as_integer
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.lines import line_location, numbered_lines
from dgr_trainer.runs.rank_list import RankTableBuilder

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]

_EXPECTED = "expected six columns: query Q0 passage rank score tag"
Q0 = {"Q0", "q0"}


def read_trec_run(path: PathLike) -> tuple[str, pa.Table]:
    """Read a TREC run.

    Args:
        path (`str` or `os.PathLike`): The run.

    Returns:
        `tuple[str, pyarrow.Table]`: The tag on the first line, and the lists with the columns of `SCHEMA`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line is malformed, all ranks contradict the scores, a passage occurs twice for a query, or the
            file is empty.
    """
    builder, tag = RankTableBuilder(), ""
    order = RankOrder(path)
    for number, line in tqdm(numbered_lines(path), desc="Reading run", unit=" lines", delay=5):
        cells = line.split()
        if len(cells) != 6:
            hint = " read_run reads runs of three to five columns." if 3 <= len(cells) <= 5 else ""
            raise DGRValueError(f"{line_location(path, number)}: {len(cells)} columns, but {_EXPECTED}.{hint}")
        query_id, second, passage_id, rank_cell, score_cell, line_tag = cells
        if second not in Q0 and not Q0.isdisjoint(cells):
            wrong = next(column for column, cell in enumerate(cells) if cell in Q0)
            raise DGRValueError(
                f"{line_location(path, number)}: column {wrong + 1} is {cells[wrong]!r} and column 2 {second!r}, but "
                f"{_EXPECTED}. Bring the columns into this order."
            )
        try:
            rank, score = int(rank_cell), float(score_cell)
        except ValueError:
            rank, score = _odd_numbers(path, number, cells)
        if not math.isfinite(score):
            raise DGRValueError(
                f"{line_location(path, number)}: the score of passage {passage_id!r} for query {query_id!r} is "
                f"{score_cell}. Scores have to be finite."
            )
        order.compare(number, query_id, rank, score)
        if not builder.add_hit(query_id, passage_id, score):
            refuse_second(path, number, query_id, passage_id)
        tag = tag or line_tag
    if not tag:
        raise DGRValueError(f"{os.fspath(path)}: the run is empty.")
    order.check()
    return tag, builder.table(partial(_find_second, path))


class RankOrder:
    """Whether ranks and scores of neighbouring lines agree: a smaller rank belongs to a higher score."""

    def __init__(self, path: PathLike) -> None:
        self._path = path
        self._previous = ("", 0, 0.0)
        self._agreements = self._contradictions = 0
        self._example = ""

    def compare(self, number: int, query_id: str, rank: int, score: float) -> None:
        """Compare a line with the one before it, if both are of the same query."""
        previous_query_id, previous_rank, previous_score = self._previous
        self._previous = (query_id, rank, score)
        if query_id != previous_query_id or rank == previous_rank or score == previous_score:
            return
        if (rank > previous_rank) == (score < previous_score):
            self._agreements += 1
            return
        self._contradictions += 1
        if not self._example:
            self._example = (
                f"{line_location(self._path, number)}: rank {previous_rank} has the score {previous_score:g} and rank "
                f"{rank} the score {score:g}"
            )

    def check(self) -> None:
        """Raise `ValueError` if all ranks contradict the scores; log a warning if some do."""
        if self._contradictions and not self._agreements:
            raise DGRValueError(
                f"{self._example}, and so it is in the whole run: the lower the rank, the higher the score. Are the "
                "scores distances, of which the smallest is best? Then negate them."
            )
        if self._contradictions:
            logger.warning(
                "%s, which contradict each other, as do %d of %d pairs of neighbouring lines. The scores count, as in "
                "trec_eval.",
                self._example,
                self._contradictions,
                self._contradictions + self._agreements,
            )


def _odd_numbers(path: PathLike, number: int, cells: list[str]) -> tuple[int, float]:
    """Rank and score of a line whose rank is written as `1.0`; otherwise the error of a malformed one."""
    location = line_location(path, number)
    rank = as_integer(cells[3])
    if rank is None:
        raise DGRValueError(f"{location}: the rank (column 4) is {cells[3]!r}, not an integer; {_EXPECTED}.") from None
    try:
        return rank, float(cells[4])
    except ValueError:
        raise DGRValueError(f"{location}: the score (column 5) is {cells[4]!r}, not a number; {_EXPECTED}.") from None


def _find_second(path: PathLike, query_id: str) -> NoReturn:
    """Read the run again to find the line on which a passage of the query occurs a second time."""
    seen: set[str] = set()
    for number, line in numbered_lines(path):
        cells = line.split()
        if cells[0] == query_id:
            if cells[2] in seen:
                refuse_second(path, number, query_id, cells[2])
            seen.add(cells[2])
    raise DGRValueError(f"{os.fspath(path)}: the run has changed while it was read.")


def refuse_second(path: PathLike, number: int, query_id: str, passage_id: str) -> NoReturn:
    """Raise the error of a line that has a passage of its query a second time."""
    raise DGRValueError(
        f"{line_location(path, number)}: passage {passage_id!r} occurs a second time for query {query_id!r}. "
        "A run has each passage once a query."
    )
