"""Passage ids in three arrays, without a Python object for each id, and looked up by binary search."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dgr_trainer.compilation import compiled
from dgr_trainer.data.ids import as_id, id_list
from dgr_trainer.errors import DGRIndexError, DGRValueError

_CHUNK = 4096


@dataclass(frozen=True)
class PackedIds:
    """Ids in two arrays.

    Attributes:
        id_bytes (`np.ndarray` of uint8): the ids' UTF-8 bytes.
        id_offsets (`np.ndarray` of int64, shape `(num_ids + 1,)`): where each id starts.
    """

    id_bytes: np.ndarray
    id_offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.id_offsets) - 1

    def __getitem__(self, position: int) -> str:
        text: str = self.id_bytes[self.id_offsets[position] : self.id_offsets[position + 1]].tobytes().decode()
        return text

    def part(self, start: int, stop: int) -> PackedIds:
        """The ids from `start` to `stop`."""
        offsets = self.id_offsets[start : stop + 1]
        return PackedIds(self.id_bytes[offsets[0] : offsets[-1]], offsets - offsets[0])

    def order(self) -> np.ndarray:
        """The positions of the ids in the order of their bytes (int64).

        Raises:
            ValueError: if an id occurs twice.
        """
        offsets, data = pa.py_buffer(self.id_offsets), pa.py_buffer(self.id_bytes)
        ids = pa.Array.from_buffers(pa.large_binary(), len(self), [None, offsets, data])
        order: np.ndarray = pc.sort_indices(ids).to_numpy().astype(np.int64)  # Equal ids stay in their order.
        row = _equal_to_next(self.id_bytes, self.id_offsets, order)
        if row >= 0:
            left, right = order[row : row + 2].tolist()
            raise DGRValueError(
                f"The passage id {self[left]!r} occurs twice (passages {left} and {right}), but an id "
                "must name one passage. Give every passage a different id."
            )
        return order


def pack_ids(passage_ids: Iterable[str]) -> PackedIds:
    """Pack ids into arrays.

    Args:
        passage_ids (`Iterable[str]`): the ids, in the order of the passages.

    Raises:
        TypeError: if an id is not a string.
        ValueError: if an id is empty or holds whitespace.
    """
    return encoded_ids(as_id(value, "passage", "passage_ids") for value in passage_ids)


def join_ids(parts: Sequence[PackedIds]) -> PackedIds:
    """All ids of several parts, in order."""
    lengths = np.concatenate([np.diff(part.id_offsets) for part in parts])
    return PackedIds(np.concatenate([part.id_bytes for part in parts]), _offsets(lengths))


def encoded_ids(values: Iterable[str]) -> PackedIds:
    """Pack strings that need not be ids of passages, to look them up.

    Raises:
        TypeError: if it is a single string, or one of the values is no string.
    """
    encoded = [value.encode() for value in id_list(values, "passage_ids")]
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    return PackedIds(np.frombuffer(b"".join(encoded), np.uint8), _offsets(lengths))


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


class IdSequence(Sequence[str]):
    """Ids of passages, decoded on access and looked up many at a time."""

    @abstractmethod
    def positions(self, values: Iterable[str] | PackedIds) -> np.ndarray:
        """Positions of many ids.

        Args:
            values (`Iterable[str]` or [`PackedIds`]): ids.

        Returns:
            `np.ndarray` of int64: a position for each id, -1 for an unknown id.
        """

    @abstractmethod
    def _at(self, position: int) -> str:
        """The id at a position from 0."""

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._at(position) for position in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise DGRIndexError(f"There is no passage {index}: the index holds {len(self)}.")
        return self._at(position)

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and bool(self.positions([value])[0] >= 0)

    def index(self, value: str, start: int = 0, stop: int | None = None) -> int:
        """Position of an id, like [`list.index`] but by binary search."""
        position = int(self.positions([value])[0])
        if position < 0 or position not in range(*slice(start, stop).indices(len(self))):
            raise DGRValueError(f"{value!r} is not among the passage ids.")
        return position

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3])) + (", ..." if len(self) > 3 else "")
        return f"{type(self).__name__}({len(self)}: {shown})"


class PassageIds(IdSequence):
    """The passage ids of a segment.

    Args:
        id_bytes (`np.ndarray` of uint8): the ids' UTF-8 bytes.
        id_offsets (`np.ndarray` of int64, shape `(num_passages + 1,)`): where each id starts.
        id_order (`np.ndarray` of int64, shape `(num_passages,)`): the passages in the order of their ids' bytes.
    """

    def __init__(self, id_bytes: np.ndarray, id_offsets: np.ndarray, id_order: np.ndarray) -> None:
        self._packed, self._order = PackedIds(id_bytes, id_offsets), id_order

    def __len__(self) -> int:
        return len(self._order)

    def _at(self, position: int) -> str:
        return self._packed[position]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _CHUNK):
            part = self._packed.part(start, start + _CHUNK)
            chunk = part.id_bytes.tobytes()
            for left, right in pairwise(part.id_offsets.tolist()):
                yield chunk[left:right].decode()

    def positions(self, values: Iterable[str] | PackedIds) -> np.ndarray:
        """See [`IdSequence.positions`]."""
        own, wanted = self._packed, values if isinstance(values, PackedIds) else encoded_ids(values)
        positions: np.ndarray = _look_up(own.id_bytes, own.id_offsets, self._order, wanted.id_bytes, wanted.id_offsets)
        return positions


@compiled
def _look_up(
    id_bytes: np.ndarray, id_offsets: np.ndarray, id_order: np.ndarray, wanted: np.ndarray, wanted_offsets: np.ndarray
) -> np.ndarray:
    positions = np.full(len(wanted_offsets) - 1, -1, np.int64)
    for query in range(len(positions)):
        start = wanted_offsets[query]
        size = wanted_offsets[query + 1] - start
        low, high = 0, len(id_order)
        while low < high:
            middle = (low + high) // 2
            passage = id_order[middle]
            left = id_offsets[passage]
            length = id_offsets[passage + 1] - left
            difference = length - size
            for index in range(min(length, size)):
                step = np.int64(id_bytes[left + index]) - np.int64(wanted[start + index])
                if step != 0:
                    difference = step
                    break
            if difference == 0:
                positions[query] = passage
                break
            if difference < 0:
                low = middle + 1
            else:
                high = middle
    return positions


@compiled
def _equal_to_next(id_bytes: np.ndarray, id_offsets: np.ndarray, order: np.ndarray) -> int:
    """The first row of a sorted order whose id equals that of the next row; -1 if there is none."""
    for row in range(len(order) - 1):
        left, right = id_offsets[order[row]], id_offsets[order[row + 1]]
        length = id_offsets[order[row] + 1] - left
        if id_offsets[order[row + 1] + 1] - right == length:
            index = 0
            while index < length and id_bytes[left + index] == id_bytes[right + index]:
                index += 1
            if index == length:
                return row
    return -1
