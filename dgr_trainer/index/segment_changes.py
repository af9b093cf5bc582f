"""The segments of an index together: their passages' ids, and how the list of them changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

from dgr_trainer.errors import DGRIndexError, DGRValueError
from dgr_trainer.index import batched_queries
from dgr_trainer.index.construction import index_text
from dgr_trainer.index.segment import Segment
from dgr_trainer.index.texts import Text, read_texts

# Tokens that are read at a time when segments are made into one.
_READ_AT_ONCE = 1 << 20


class RemainingIds(Sequence[str]):
    """The ids of the passages that remain in some segments, decoded when they are asked for.

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
        place = int(np.searchsorted(self._bases, position, side="right")) - 1
        segment = self._segments[place]
        return segment.passage_ids[int(segment.own_numbers(np.array([position - self._bases[place]]))[0])]

    def __iter__(self) -> Iterator[str]:
        for segment in self._segments:
            gone = set(segment.removed.passages.tolist())
            for number, value in enumerate(segment.passage_ids):
                if number not in gone:
                    yield value

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and bool(self.positions([value])[0] >= 0)

    def index(self, value: str, start: int = 0, stop: int | None = None) -> int:
        """Position of an id; as [`list.index`], but by binary search."""
        position = int(self.positions([value])[0])
        if position < 0 or position not in range(*slice(start, stop).indices(len(self))):
            raise DGRValueError(f"{value!r} is not among the passage ids.")
        return position

    def positions(self, values: Iterable[str]) -> np.ndarray:
        """Positions of many ids.

        Args:
            values (`Iterable[str]`): ids.

        Returns:
            `np.ndarray` of int64: a position for each id, -1 for an id that is not there.
        """
        values = list(values)
        found = np.full(len(values), -1, np.int64)
        for segment, base in zip(self._segments, self._bases.tolist(), strict=False):
            positions = segment.positions(values)
            found = np.where(positions >= 0, positions + base, found)
        return found

    def take(self, positions: np.ndarray) -> list[str]:
        """The ids at many positions, in their order."""
        return [self[position] for position in positions.tolist()]

    def hashes(self) -> np.ndarray:
        """A hash of each id, the same in every process (uint64); different ids may have the same."""
        return np.concatenate(
            [np.delete(segment.passage_ids.hashes(), segment.removed.passages) for segment in self._segments]
        )

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3])) + (", ..." if len(self) > 3 else "")
        return f"RemainingIds({len(self)}: {shown})"


def add_segments(segments: Sequence[Segment], texts: Iterable[Text], vocab_size: int, separator: int) -> list[Segment]:
    """Index texts as new segments.

    Raises:
        ValueError: if an id is not valid, or occurs twice, in the new passages or among those that remain in the old.
    """
    made = list(segments)
    for text in texts:
        known = RemainingIds(made).positions(text.passage_ids)
        taken = np.flatnonzero(known >= 0)
        if len(taken):
            raise DGRValueError(
                f"The passage id {text.passage_ids[taken[0]]!r} is in the index already ({len(taken)} of these "
                "passages are), but results are given by id. Remove the older passages first, or give new ids."
            )
        made.append(Segment(index_text(text, vocab_size), separator))
    return made


def without_passages(segments: Sequence[Segment], passages: np.ndarray) -> list[Segment]:
    """The segments without some passages; a segment of which nothing remains is dropped."""
    bases = np.cumsum([0, *(segment.num_passages for segment in segments)])
    owners = np.searchsorted(bases, passages, side="right") - 1
    reduced = [segment.without(passages[owners == number] - bases[number]) for number, segment in enumerate(segments)]
    return [segment for segment in reduced if segment.num_passages]


def compacted(
    segments: Sequence[Segment], vocab_size: int, separator: int, segment_tokens: int | None, progress: bool
) -> list[Segment]:
    """The passages that remain, indexed anew as few segments, in their order."""
    sizes = np.concatenate([segment.passage_lengths for segment in segments])

    def sequences() -> Iterator[np.ndarray]:
        bounds = np.searchsorted(np.cumsum(sizes), np.arange(0, sizes.sum() + _READ_AT_ONCE, _READ_AT_ONCE))
        bounds = np.unique(np.concatenate([[0], bounds, [len(sizes)]]))
        for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            indptr, tokens = batched_queries.extract(segments, np.arange(start, stop))
            for left, right in zip(indptr[:-1].tolist(), indptr[1:].tolist(), strict=True):
                yield tokens[left:right]

    texts = read_texts(
        sequences(), RemainingIds(segments), vocab_size, separator, segment_tokens, len(sizes), progress
    )
    return add_segments([], texts, vocab_size, separator)
