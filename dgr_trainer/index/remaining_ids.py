"""The ids of the passages of an index: those that remain in its segments."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from dgr_trainer.errors import DGRIndexError
from dgr_trainer.index.passage_ids import IdSequence, PackedIds, encoded_ids
from dgr_trainer.index.segment import Segment


class RemainingIds(IdSequence):
    """The ids of the passages that remain in some segments, decoded on access.

    Args:
        segments (`Sequence[Segment]`): the segments.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = segments
        self._bases = np.cumsum([0, *(segment.num_passages for segment in segments)])

    def __len__(self) -> int:
        return int(self._bases[-1])

    def _at(self, position: int) -> str:
        number = int(np.searchsorted(self._bases, position, side="right")) - 1
        segment = self._segments[number]
        return segment.passage_ids[int(segment.original_numbers(np.array([position - self._bases[number]]))[0])]

    def __iter__(self) -> Iterator[str]:
        for segment in self._segments:
            removed = set(segment.removed.passages.tolist())
            for number, passage_id in enumerate(segment.passage_ids):
                if number not in removed:
                    yield passage_id

    def positions(self, values: Iterable[str] | PackedIds) -> np.ndarray:
        """See [`IdSequence.positions`]."""
        values = values if isinstance(values, PackedIds) else encoded_ids(values)
        all_positions = np.full(len(values), -1, np.int64)
        for segment, base in zip(self._segments, self._bases.tolist(), strict=False):
            positions = segment.positions(values)
            all_positions = np.where(positions >= 0, positions + base, all_positions)
        return all_positions

    def digest(self) -> str:
        """SHA-256 of the ids in their order, the same however they are divided among segments."""
        texts, sizes = hashlib.sha256(), hashlib.sha256()
        for segment in self._segments:
            data, lengths = segment.arrays.id_bytes, np.diff(segment.arrays.id_offsets)
            if len(segment.removed.passages):
                kept = np.ones(len(lengths), np.bool_)
                kept[segment.removed.passages] = False
                data, lengths = data[np.repeat(kept, lengths)], lengths[kept]
            texts.update(data.tobytes())
            sizes.update(lengths.astype(np.int64).tobytes())
        return hashlib.sha256(texts.digest() + sizes.digest()).hexdigest()

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
