"""One immutable segment of an index: its arrays, and which of its passages have been removed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from dgr_trainer.index import interleaved_walks, range_kernels
from dgr_trainer.index.array_folders import ArrayFolder
from dgr_trainer.index.bit_vector import BLOCK_WORDS, finish_ranks, inverted, num_blocks
from dgr_trainer.index.index_arrays import IndexArrays
from dgr_trainer.index.kernel_threads import number_of_threads, run_in_threads
from dgr_trainer.index.passage_ids import PackedIds, PassageIds
from dgr_trainer.index.unpacked_text import TextMemory, UnpackedText


@dataclass(frozen=True)
class Removed:
    """The passages that were removed from a segment, and their suffix-array rows.

    Attributes:
        passages (`np.ndarray` of int64): the numbers of the removed passages among all passages of the segment,
            ascending.
        rows (`np.ndarray` of uint64): bit vector of their suffix-array rows; empty if no passage was removed.
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
    """Passages that were indexed together. Those that remain, after some were removed, are numbered without gaps.

    Attributes:
        arrays ([`IndexArrays`]): the arrays of all passages, removed ones included.
        separator (`int`): the token id after each passage.
        removed ([`Removed`]): which passages have been removed.
        stored ([`ArrayFolder`], *optional*): where `arrays` are on the disk.
        stored_removed ([`ArrayFolder`], *optional*): where `removed` is on the disk.
        memory ([`TextMemory`]): the text in memory, if the segment is small and often searched.
    """

    arrays: IndexArrays
    separator: int
    removed: Removed = field(default=NONE_REMOVED)
    stored: ArrayFolder | None = None
    stored_removed: ArrayFolder | None = None
    memory: TextMemory = field(default_factory=TextMemory, repr=False, compare=False)

    @property
    def num_passages(self) -> int:
        """Passages that remain."""
        return self.arrays.num_passages - len(self.removed.passages)

    @property
    def first_separator_row(self) -> int:
        """The first suffix-array row of the separator."""
        return int(self.arrays.symbol_rows[self.arrays.symbol_of[self.separator]])

    def unpacked_text(self, steps: int) -> UnpackedText | None:
        """The text in memory, for walks of about so many steps; `None` if these are to be walked."""
        return self.memory.before(steps, self.arrays, self.first_separator_row)

    @cached_property
    def passage_ids(self) -> PassageIds:
        """The ids of all passages, removed ones included."""
        return PassageIds(self.arrays.id_bytes, self.arrays.id_offsets, self.arrays.id_order)

    @property
    def passage_lengths(self) -> np.ndarray:
        """Number of tokens of the passages that remain, without their separators."""
        return np.delete(np.diff(self.arrays.passage_starts) - 1, self.removed.passages)

    @property
    def token_counts(self) -> np.ndarray:
        """How often each token id occurs in the passages that remain (int64, shape `(vocab_size,)`)."""
        arrays = self.arrays
        ranges = np.column_stack([arrays.symbol_rows[:-1], arrays.symbol_rows[1:]])[:, None]
        symbol_counts = np.zeros(len(arrays.symbols), np.int64)
        range_kernels.count_ranges(self.removed.rows, np.ascontiguousarray(ranges), 0, symbol_counts)
        counts = np.zeros(len(arrays.symbol_of), np.int64)
        counts[arrays.symbols] = symbol_counts
        return counts

    @property
    def num_bytes(self) -> int:
        """Size of all arrays."""
        arrays = [*vars(self.arrays).values(), self.removed.passages, self.removed.rows]
        return sum(array.nbytes for array in arrays)

    @cached_property
    def _kept_before(self) -> np.ndarray:
        """How many passages remain before each passage, and in all (shape `(number of all passages + 1,)`)."""
        kept = np.ones(self.arrays.num_passages, np.bool_)
        kept[self.removed.passages] = False
        before = np.zeros(len(kept) + 1, np.int32 if len(kept) < 1 << 31 else np.int64)
        np.cumsum(kept, out=before[1:])
        return before

    def original_numbers(self, passages: np.ndarray) -> np.ndarray:
        """Convert numbers among the passages that remain to numbers among all passages."""
        if not len(self.removed.passages):
            return passages
        before = self._kept_before
        # Values of another type would make a copy of the table.
        return np.searchsorted(before, np.asarray(passages + 1, before.dtype)) - 1

    def remaining_numbers(self, passages: np.ndarray) -> np.ndarray:
        """Convert numbers among all passages, none of them removed, to numbers among those that remain."""
        return self._kept_before[passages].astype(np.int64) if len(self.removed.passages) else passages

    def positions(self, passage_ids: PackedIds) -> np.ndarray:
        """The numbers, among the passages that remain, of the passages with these ids; -1 for unknown ids."""
        numbers = self.passage_ids.positions(passage_ids)
        if not len(self.removed.passages):
            return numbers
        before = self._kept_before
        # A passage that is not counted was removed; -1 looks at the ends, and stays.
        numbers[before[numbers + 1] == before[numbers]] = -1
        return np.where(numbers < 0, -1, self.remaining_numbers(numbers))

    def without(self, passages: np.ndarray) -> Segment:
        """The segment without some of the passages that remain, given by their numbers among these."""
        if not len(passages):
            return self
        arrays, removed = self.arrays, self.original_numbers(np.unique(passages))
        all_removed = np.union1d(self.removed.passages, removed)
        kept = np.delete(np.arange(arrays.num_passages), all_removed)
        sizes = np.diff(arrays.passage_starts)
        # The rows of a passage are found one after the other, so those of fewer tokens are.
        if int(sizes[removed].sum()) <= int(sizes[kept].sum()):
            rows = self._rows_of(removed)
            if len(self.removed.rows):
                rows |= self.removed.rows
        else:
            rows = inverted(self._rows_of(kept), arrays.num_rows)
        finish_ranks(rows, 0, arrays.num_rows)
        return replace(self, removed=Removed(all_removed, rows), stored_removed=None)

    def _rows_of(self, passages: np.ndarray) -> np.ndarray:
        """Bits of the suffix-array rows of passages, given by their numbers among all; the headers are not written."""
        arrays = self.arrays
        index = (arrays.blocks, arrays.levels, arrays.first_rows, arrays.passage_starts)
        sizes = np.diff(arrays.passage_starts)[passages]
        size = num_blocks(arrays.num_rows) * BLOCK_WORDS

        def part(start: int, stop: int) -> np.ndarray:
            # Each thread has bits of its own: two may set bits of the same word.
            rows = np.zeros(size, np.uint64)
            interleaved_walks.mark_passages(*index, passages, rows, start, stop)
            return rows

        work = int(sizes.sum())
        bounds = np.searchsorted(np.cumsum(sizes), np.linspace(0, work, number_of_threads(work) + 1))
        bounds[-1] = len(passages)
        rows, *others = run_in_threads(part, bounds, work)
        for other in others:
            rows |= other
        return rows
