"""One immutable segment of an index: its arrays, and which of its passages were removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from dgr_trainer.index import search_kernels
from dgr_trainer.index.bit_vector import BLOCK_WORDS, finish_ranks, num_blocks
from dgr_trainer.index.construction import IndexArrays
from dgr_trainer.index.parts import StoredPart
from dgr_trainer.index.passage_ids import PassageIds


@dataclass(frozen=True)
class Removed:
    """The passages that were removed from a segment, and their rows.

    Attributes:
        passages (`np.ndarray` of int64): the passages of the segment, ascending; all its own, not renumbered.
        rows (`np.ndarray` of uint64): bit vector of their rows; without blocks where there are none.
    """

    passages: np.ndarray
    rows: np.ndarray

    def __post_init__(self) -> None:
        for name in ("passages", "rows"):
            array = np.ascontiguousarray(getattr(self, name))
            array.setflags(write=False)
            object.__setattr__(self, name, array)


NONE_REMOVED = Removed(np.empty(0, np.int64), np.empty(0, np.uint64))


@dataclass(frozen=True)
class Segment:
    """Passages that were indexed together. What remains of them is numbered without gaps.

    Attributes:
        arrays ([`IndexArrays`]): all passages, the removed too.
        separator (`int`): the token id after each passage.
        removed ([`Removed`]): which of them do not count any more.
        stored, stored_removed ([`StoredPart`], *optional*): where the two are on the disk.
    """

    arrays: IndexArrays
    separator: int
    removed: Removed = field(default=NONE_REMOVED)
    stored: StoredPart | None = None
    stored_removed: StoredPart | None = None

    @property
    def num_passages(self) -> int:
        """Passages that remain."""
        return self.arrays.num_passages - len(self.removed.passages)

    @property
    def first_end(self) -> int:
        """The first row of the separator."""
        return int(self.arrays.symbol_rows[self.arrays.symbol_of[self.separator]])

    @cached_property
    def passage_ids(self) -> PassageIds:
        """The ids of all passages."""
        return PassageIds(self.arrays.id_bytes, self.arrays.id_offsets, self.arrays.id_order)

    @property
    def passage_lengths(self) -> np.ndarray:
        """Number of tokens of the passages that remain, without their separators."""
        return np.delete(np.diff(self.arrays.passage_starts) - 1, self.removed.passages)

    @property
    def token_counts(self) -> np.ndarray:
        """How often each token id occurs in what remains (int64, shape `(vocab_size,)`)."""
        arrays = self.arrays
        ranges = np.column_stack([arrays.symbol_rows[:-1], arrays.symbol_rows[1:]])[:, None]
        of_symbols = np.zeros(len(arrays.symbols), np.int64)
        search_kernels.count_ranges(self.removed.rows, np.ascontiguousarray(ranges), 0, of_symbols)
        counts = np.zeros(len(arrays.symbol_of), np.int64)
        counts[arrays.symbols] = of_symbols
        return counts

    @property
    def num_bytes(self) -> int:
        """Size of all arrays."""
        arrays = [*vars(self.arrays).values(), self.removed.passages, self.removed.rows]
        return sum(array.nbytes for array in arrays)

    def own_numbers(self, passages: np.ndarray) -> np.ndarray:
        """Numbers among all passages, from numbers among those that remain."""
        gone = self.removed.passages
        return passages + np.searchsorted(gone - np.arange(len(gone)), passages, side="right")

    def remaining_numbers(self, passages: np.ndarray) -> np.ndarray:
        """Numbers among the passages that remain, from numbers among all; the passages must remain."""
        return passages - np.searchsorted(self.removed.passages, passages)

    def positions(self, passage_ids: Sequence[str]) -> np.ndarray:
        """Numbers among the passages that remain, from ids; -1 for ids that no passage has."""
        found = self.passage_ids.positions(passage_ids)
        found[np.isin(found, self.removed.passages)] = -1
        return np.where(found < 0, -1, self.remaining_numbers(found))

    def without(self, passages: np.ndarray) -> Segment:
        """The segment without some more of the passages that remain, given by their numbers among these."""
        if not len(passages):
            return self
        arrays, own = self.arrays, self.own_numbers(np.unique(passages))
        rows = self.removed.rows.copy()
        if not len(rows):
            rows = np.zeros(num_blocks(arrays.num_rows) * BLOCK_WORDS, np.uint64)
        search_kernels.mark_passages(arrays.blocks, arrays.levels, arrays.first_rows, arrays.passage_starts, own, rows)
        finish_ranks(rows, 0, arrays.num_rows)
        return replace(self, removed=Removed(np.union1d(self.removed.passages, own), rows), stored_removed=None)
