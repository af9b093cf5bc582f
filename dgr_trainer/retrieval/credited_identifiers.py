"""The identifiers that make up the score of a passage, as numbers until somebody asks for the objects.

A search of training queries credits thousands of identifiers a query, and writes them to Arrow columns: without a
Python object for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import overload

import numpy as np

from dgr_trainer.candidates import IdentifierColumns, MatchedIdentifier, identifier_columns
from dgr_trainer.identifier_weights import ORIGINS
from dgr_trainer.identifiers import VIEWS

_SUBSTRING, _UNIGRAM = VIEWS.index("substring"), ORIGINS.index("unigram")


class CreditedTable:
    """The identifiers of a query that passages are scored by, from which those of each passage are taken.

    Args:
        identifiers (`Sequence[MatchedIdentifier]`): The identifiers, which have the numbers from 0.
        token_counts (`np.ndarray` of shape `(vocab_size,)`): Counts of the single tokens; token t has the number
            -1 - t.
    """

    def __init__(self, identifiers: Sequence[MatchedIdentifier], token_counts: np.ndarray) -> None:
        self.identifiers, self.token_counts = identifiers, token_counts

    @cached_property
    def _columns(self) -> IdentifierColumns:
        return identifier_columns(self.identifiers)

    def identifier(self, number: int, credit: float) -> MatchedIdentifier:
        """The identifier of a number, with what it added to a score."""
        if number < 0:
            token = -1 - number
            return MatchedIdentifier("substring", (token,), int(self.token_counts[token]), credit, "unigram")
        identifier = self.identifiers[number]
        return replace(identifier, score=credit)

    def columns(self, numbers: np.ndarray, credits: np.ndarray) -> IdentifierColumns:
        """The identifiers of some numbers, in their order, with what they added to scores."""
        every = self._columns
        single = numbers < 0
        tokens = np.where(single, -1 - numbers, 0)
        rows = np.where(single, 0, numbers)
        columns = every.views, every.lengths, every.counts, every.origins
        if len(self.identifiers):
            views, lengths, counts, origins = (column[rows] for column in columns)
        else:  # Single tokens alone.
            views, lengths, counts, origins = (np.zeros(len(rows), column.dtype) for column in columns)
        views[single], lengths[single], counts[single] = _SUBSTRING, 1, self.token_counts[tokens[single]]
        origins[single] = _UNIGRAM
        starts = np.concatenate([[0], np.cumsum(every.lengths, dtype=np.int64)])[rows]
        ends = np.cumsum(lengths, dtype=np.int64)
        within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
        of_single = np.repeat(single, lengths)
        places = np.repeat(starts, lengths) + within
        values = np.empty(len(places), dtype=every.tokens.dtype)
        values[of_single] = tokens[single]
        values[~of_single] = every.tokens[places[~of_single]]
        return IdentifierColumns(views, lengths, counts, np.asarray(credits, dtype=np.float32), origins, values)


class CreditedIdentifiers(Sequence[MatchedIdentifier]):
    """The identifiers of a passage, in the order of credit.

    Args:
        table ([`CreditedTable`]): The identifiers of the query.
        numbers (`np.ndarray` of int64): Numbers of those of the passage.
        credits (`np.ndarray` of float64): What each added to the score.
    """

    def __init__(self, table: CreditedTable, numbers: np.ndarray, credits: np.ndarray) -> None:
        self.table, self.numbers, self.credits = table, numbers, credits

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[MatchedIdentifier]:
        return map(self.table.identifier, self.numbers.tolist(), self.credits.tolist())

    @overload
    def __getitem__(self, position: int) -> MatchedIdentifier: ...

    @overload
    def __getitem__(self, position: slice) -> tuple[MatchedIdentifier, ...]: ...

    def __getitem__(self, position: int | slice) -> MatchedIdentifier | tuple[MatchedIdentifier, ...]:
        if isinstance(position, slice):
            return tuple(self)[position]
        return self.table.identifier(int(self.numbers[position]), float(self.credits[position]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)


def columns_of(lists: Sequence[Sequence[MatchedIdentifier]]) -> IdentifierColumns:
    """The identifiers of several passages, one list after the other, as columns."""
    parts: list[IdentifierColumns] = []
    start = 0
    while start < len(lists):
        first, end = lists[start], start + 1
        if isinstance(first, CreditedIdentifiers):
            run = [first]
            while end < len(lists):
                following = lists[end]
                if not isinstance(following, CreditedIdentifiers) or following.table is not first.table:
                    break
                run.append(following)
                end += 1
            numbers, credits = (np.concatenate([getattr(one, name) for one in run]) for name in ("numbers", "credits"))
            parts.append(first.table.columns(numbers, credits))
        else:
            parts.append(identifier_columns(first))
        start = end
    parts = parts or [identifier_columns(())]
    return IdentifierColumns(*(np.concatenate(column) for column in zip(*parts, strict=True)))
