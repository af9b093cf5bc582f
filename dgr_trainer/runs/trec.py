"""TREC runs, line by line, and what tells that their columns stand in another order than they should."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from typing import NoReturn

import numpy as np
from tqdm.auto import tqdm

from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.lines import location, numbered_lines
from dgr_trainer.runs.rank_list import Hits

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]

_EXPECTED = "expected six columns: query Q0 passage rank score tag"


def read_trec_run(path: PathLike) -> tuple[str, Iterator[tuple[str, list[str], np.ndarray]]]:
    """Read a TREC run.

    Args:
        path (`str` or `os.PathLike`): the run.

    Returns:
        `tuple[str, Iterator[tuple[str, list[str], np.ndarray]]]`: the tag on the first line, and for each query its
        id, the ids of its passages and their scores, in the order of the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line is malformed, the columns stand in another order, a passage occurs twice for a query, or
            the file is empty.
    """
    hits, tag = Hits(), ""
    order = _ColumnOrder(path)
    for number, line in tqdm(numbered_lines(path), desc="Reading run", unit=" lines", delay=5):
        cells = line.split()
        if len(cells) != 6:
            hint = " Three or four columns are qrels: read_qrels reads them." if len(cells) in (3, 4) else ""
            raise DGRValueError(f"{location(path, number)}: {len(cells)} columns, but {_EXPECTED}.{hint}")
        order.look(number, cells)
        rank, score = _numbers(path, number, cells)
        order.compare(number, cells[0], rank, score)
        if not hits.add(cells[0], cells[2], score):
            order.check_constant()
            _refuse_second(path, number, cells[0], cells[2])
        tag = tag or cells[5]
    if not tag:
        raise DGRValueError(f"{os.fspath(path)}: the run is empty.")
    order.check()
    return tag, _lists(path, hits)


class _ColumnOrder:
    """What the lines of a run say about the order of their columns, beyond what each says by itself."""

    def __init__(self, path: PathLike) -> None:
        self.path = path
        self._first: list[str] = []
        self._second_varies = 0  # number of the first line in which the second column is another one
        self._third_varies = False
        self._query_id, self._rank, self._score = "", 0, 0.0  # of the line before
        self._agree = self._contradict = 0
        self._contradicts = ""
        self._ranks = _RanksInPlaceOfScores()

    def look(self, number: int, cells: list[str]) -> None:
        """Take note of a line; raise `ValueError` if it has `Q0` in the place of another column."""
        wrong = next((column for column in (0, 2, 3, 4, 5) if cells[column] in ("Q0", "q0")), None)
        if wrong is not None and cells[1] not in ("Q0", "q0"):
            raise DGRValueError(
                f"{location(self.path, number)}: column {wrong + 1} is {cells[wrong]!r} and column 2 "
                f"{cells[1]!r}, but "
                f"{_EXPECTED}. Bring the columns into this order."
            )
        if not self._first:
            self._first = cells
        elif not (self._second_varies and self._third_varies):
            self._third_varies = self._third_varies or cells[2] != self._first[2]
            if not self._second_varies and cells[1] != self._first[1]:
                self._second_varies = number

    def compare(self, number: int, query_id: str, rank: int, score: float) -> None:
        """Take note of rank and score of a line, beside those of the line before."""
        self._ranks.look(number, query_id != self._query_id, rank, score)
        if query_id == self._query_id and rank != self._rank and score != self._score:
            if (rank > self._rank) == (score < self._score):
                self._agree += 1
            else:
                self._contradict += 1
                found = f"rank {self._rank} has the score {self._score:g} and rank {rank} the score {score:g}"
                self._contradicts = self._contradicts or f"{location(self.path, number)}: {found}"
        self._query_id, self._rank, self._score = query_id, rank, score

    def check(self) -> None:
        """Raise `ValueError` if the columns of the whole run stand in another order."""
        self.check_constant()
        swapped = self._ranks.found()
        if swapped is not None:
            number, rank, score = swapped
            raise DGRValueError(
                f"{location(self.path, number)}: the rank (column 4) is {rank} and the score (column 5) "
                f"{score:g}, and "
                "in the whole run the scores count the lines of a query while the ranks fall. Are the two columns "
                "swapped?"
            )
        if self._contradict and not self._agree:
            raise DGRValueError(
                f"{self._contradicts}, and so it is in the whole run: the lower the rank, the higher the score. Are "
                "the scores distances, of which the smallest is best? Then negate them."
            )
        if self._contradict:
            logger.warning(
                "%s, which contradict each other, and so do %d of %d neighbours in the run. The scores count, as in "
                "trec_eval.",
                self._contradicts, self._contradict, self._contradict + self._agree,
            )  # fmt: skip

    def check_constant(self) -> None:
        """Raise `ValueError` if all passages are the same, and what should be the same in all lines is not."""
        if self._second_varies and not self._third_varies:
            raise DGRValueError(
                f"{location(self.path, self._second_varies)}: the passage (column 3) is {self._first[2]!r} as on "
                "every "
                f"line before, while column 2, which should be Q0 on all, is another one; {_EXPECTED}. Are columns 2 "
                "and 3 swapped?"
            )


class _RanksInPlaceOfScores:
    """Whether in every list the scores count 1, 2, 3, ... while the ranks fall, and are no ranks."""

    def __init__(self) -> None:
        self._possible = True
        self._example: tuple[int, int, float] | None = None
        self._length = self._first_rank = self._rank = 0
        self._start = 0.0
        self._last: tuple[int, int, float] = (0, 0, 0.0)

    def look(self, number: int, new: bool, rank: int, score: float) -> None:
        if not self._possible:
            return
        if new:
            self._close()
            self._length, self._first_rank, self._start = 0, rank, score
        falls = self._length == 0 or rank <= self._rank
        self._possible = falls and self._start in (0, 1) and score == self._start + self._length
        self._length, self._rank, self._last = self._length + 1, rank, (number, rank, score)

    def found(self) -> tuple[int, int, float] | None:
        """Line, rank and score of an example, if it is so in the whole run."""
        self._close()
        return self._example if self._possible else None

    def _close(self) -> None:
        # Falling ranks n to 1 may be what they seem: a list that is written from its end.
        ranks = self._first_rank - self._rank == self._length - 1 and self._rank in (0, 1)
        if self._first_rank > self._rank and not ranks and self._example is None:
            self._example = self._last


def _numbers(path: PathLike, number: int, cells: list[str]) -> tuple[int, float]:
    """Rank and score of a line, or an error that says what is wrong with it."""
    rank, value = cells[3], cells[4]
    if not rank.removeprefix("-").isdecimal():
        raise DGRValueError(f"{location(path, number)}: the rank (column 4) is {rank!r}, not an integer; {_EXPECTED}.")
    try:
        score = float(value)
    except ValueError:
        raise DGRValueError(
            f"{location(path, number)}: the score (column 5) is {value!r}, not a number; {_EXPECTED}."
        ) from None
    if not math.isfinite(score):
        raise DGRValueError(
            f"{location(path, number)}: the score of passage {cells[2]!r} for query {cells[0]!r} is {value}. "
            "Scores have to be finite."
        )
    return int(rank), score


def _lists(path: PathLike, hits: Hits) -> Iterator[tuple[str, list[str], np.ndarray]]:
    for query_id, ids, scores in hits.lists():
        if len(set(ids)) < len(ids):  # The file has one part of the list here, and one part there.
            _find_second(path, query_id)
        yield query_id, ids, scores


def _find_second(path: PathLike, query_id: str) -> NoReturn:
    """Read the run again for the line on which a passage of the query comes a second time."""
    seen: set[str] = set()
    for number, line in numbered_lines(path):
        cells = line.split()
        if cells[0] == query_id:
            if cells[2] in seen:
                _refuse_second(path, number, query_id, cells[2])
            seen.add(cells[2])
    raise DGRValueError(f"{os.fspath(path)}: the run has changed while it was read.")


def _refuse_second(path: PathLike, number: int, query_id: str, passage_id: str) -> NoReturn:
    raise DGRValueError(
        f"{location(path, number)}: passage {passage_id!r} occurs a second time for query {query_id!r}. "
        "A run has each passage once a query."
    )
