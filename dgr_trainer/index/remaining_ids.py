"""The ids of the passages of an index: those that remain in its segments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

from dgr_trainer.errors import DGRIndexError, DGRValueError
from dgr_trainer.index.passage_ids import PackedIds
from dgr_trainer.index.segment import Segment


class RemainingIds(Sequence[str]):
    """The ids of the passages that remain in some segments, decoded on access.

    Args:
        segments (`Sequence[Segment]`): the segments.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = segments
        self._bases = np.cumsum([0, *(segment.num_passages for segment in segments)])

    def __len__(self) -> int:
        return int(self._bases[-1])

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise DGRIndexError(f"There is no passage {index}: the index holds {len(self)}.")
        number = int(np.searchsorted(self._bases, position, side="right")) - 1
        segment = self._segments[number]
        return segment.passage_ids[int(segment.original_numbers(np.array([position - self._bases[number]]))[0])]

    def __iter__(self) -> Iterator[str]:
        for segment in self._segments:
            removed = set(segment.removed.passages.tolist())
            for number, passage_id in enumerate(segment.passage_ids):
                if number not in removed:
                    yield passage_id

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and bool(self.positions([value])[0] >= 0)

    def index(self, value: str, start: int = 0, stop: int | None = None) -> int:
        """Position of an id, like [`list.index`] but by binary search."""
        position = int(self.positions([value])[0])
        if position < 0 or position not in range(*slice(start, stop).indices(len(self))):
            raise DGRValueError(f"{value!r} is not among the passage ids.")
        return position

    def positions(self, values: Iterable[str] | PackedIds) -> np.ndarray:
        """Positions of many ids.

        Args:
            values (`Iterable[str]` or [`PackedIds`]): ids.

        Returns:
            `np.ndarray` of int64: a position for each id, -1 for an unknown id.
        """
        values = values if isinstance(values, PackedIds) else list(values)
        all_positions = np.full(len(values), -1, np.int64)
        for segment, base in zip(self._segments, self._bases.tolist(), strict=False):
            positions = segment.positions(values)
            all_positions = np.where(positions >= 0, positions + base, all_positions)
        return all_positions

    def take(self, positions: np.ndarray) -> list[str]:
        """The ids at the given positions, in the same order."""
        outside = positions[(positions < 0) | (positions >= len(self))]
        if len(outside):
            raise DGRIndexError(f"There is no passage {outside[0]}: the index holds {len(self)}.")
        owners = np.searchsorted(self._bases, positions, side="right") - 1
        ids = [""] * len(positions)
        for number in np.unique(owners).tolist():
            segment, items = self._segments[number], np.flatnonzero(owners == number)
            numbers = segment.original_numbers(positions[items] - self._bases[number])
            for item, passage in zip(items.tolist(), numbers.tolist(), strict=True):
                ids[item] = segment.passage_ids[passage]
        return ids

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3])) + (", ..." if len(self) > 3 else "")
        return f"RemainingIds({len(self)}: {shown})"
