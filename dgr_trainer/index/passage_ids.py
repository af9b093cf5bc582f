"""Passage ids in three arrays, without a Python object for each id, and looked up by binary search."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import overload

import numpy as np

from dgr_trainer.data.ids import as_id
from dgr_trainer.errors import DGRIndexError, DGRValueError
from dgr_trainer.index.compilation import compiled

_CHUNK = 4096


def pack_ids(passage_ids: Iterable[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pack ids into arrays.

    Args:
        passage_ids (`Iterable[str]`): the ids, in the order of the passages.

    Returns:
        `tuple[np.ndarray, np.ndarray, np.ndarray]`: the ids' UTF-8 bytes (uint8), where each id starts (int64, shape
        `(num_ids + 1,)`), and the passages in the order of their ids' bytes (int64).

    Raises:
        TypeError: if an id is not a string.
        ValueError: if an id is empty, holds whitespace, or occurs twice.
    """
    encoded = [as_id(value, "passage", "passage_ids").encode() for value in passage_ids]
    order = sorted(range(len(encoded)), key=encoded.__getitem__)
    for left, right in pairwise(order):
        if encoded[left] == encoded[right]:
            raise DGRValueError(
                f"The passage id {encoded[left].decode()!r} occurs twice (passages {left} and {right}), but an id "
                "must name one passage. Give every passage a different id."
            )
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=offsets[1:])
    return np.frombuffer(b"".join(encoded), np.uint8), offsets, np.array(order, np.int64)


class PassageIds(Sequence[str]):
    """The passage ids of a segment, decoded on access.

    Args:
        id_bytes (`np.ndarray` of uint8): the ids' UTF-8 bytes.
        id_offsets (`np.ndarray` of int64, shape `(num_passages + 1,)`): where each id starts.
        id_order (`np.ndarray` of int64, shape `(num_passages,)`): the passages in the order of their ids' bytes.
    """

    def __init__(self, id_bytes: np.ndarray, id_offsets: np.ndarray, id_order: np.ndarray) -> None:
        self._bytes, self._offsets, self._order = id_bytes, id_offsets, id_order

    def __len__(self) -> int:
        return len(self._order)

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
        return self._bytes[self._offsets[position] : self._offsets[position + 1]].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _CHUNK):
            offsets = self._offsets[start : start + _CHUNK + 1]
            chunk = self._bytes[offsets[0] : offsets[-1]].tobytes()
            for left, right in pairwise((offsets - offsets[0]).tolist()):
                yield chunk[left:right].decode()

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and self.positions([value])[0] >= 0

    def index(self, value: str, start: int = 0, stop: int | None = None) -> int:
        """Position of an id, like [`list.index`] but by binary search."""
        position = int(self.positions([value])[0])
        if position < 0 or position not in range(*slice(start, stop).indices(len(self))):
            raise DGRValueError(f"{value!r} is not among the passage ids.")
        return position

    def positions(self, values: Iterable[str]) -> np.ndarray:
        """Positions of many ids.

        Args:
            values (`Iterable[str]`): ids.

        Returns:
            `np.ndarray` of int64: a position for each id, -1 for an unknown id.
        """
        encoded = [value.encode() for value in values]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=offsets[1:])
        wanted = np.frombuffer(b"".join(encoded), np.uint8)
        positions: np.ndarray = _look_up(self._bytes, self._offsets, self._order, wanted, offsets)
        return positions

    def hashes(self) -> np.ndarray:
        """A hash of each id, the same in every process (uint64); different ids may have the same."""
        hashes: np.ndarray = _hash(self._bytes, self._offsets)
        return hashes

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3])) + (", ..." if len(self) > 3 else "")
        return f"PassageIds({len(self)}: {shown})"


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
def _hash(id_bytes: np.ndarray, id_offsets: np.ndarray) -> np.ndarray:
    """FNV-1a of the bytes, mixed by the final step of MurmurHash3."""
    hashes = np.empty(len(id_offsets) - 1, np.uint64)
    for passage in range(len(hashes)):
        value = np.uint64(0xCBF29CE484222325)
        for index in range(id_offsets[passage], id_offsets[passage + 1]):
            value = (value ^ np.uint64(id_bytes[index])) * np.uint64(0x100000001B3)
        value = (value ^ (value >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
        value = (value ^ (value >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
        hashes[passage] = value ^ (value >> np.uint64(33))
    return hashes
