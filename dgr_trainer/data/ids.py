"""Ids of passages and queries: the check of one id, and a long column of ids that can be searched."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, SupportsIndex, cast, overload

import numpy as np
import pyarrow as pa

from dgr_trainer.data.texts import check_encodable, is_missing
from dgr_trainer.errors import DGRIndexError, DGRTypeError, DGRValueError


def as_id(value: object, item: str, location: str) -> str:
    """Turn a value read from the user's data into an id.

    Args:
        value (`object`): The value. A string is used unchanged, an integer becomes its decimal digits.
        item (`str`): What the id names (`"passage"`, `"query"`), for the error.
        location (`str`): Where the value was found, for the error.

    Returns:
        `str`: The id.

    Raises:
        TypeError: if the value is neither a string nor an integer.
        ValueError: if the id is empty, holds whitespace, at which TREC files are split, or is not Unicode.
    """
    if type(value) is not str:
        value = text_of_id(value, item, location)
    if not value:
        raise DGRValueError(f"{location}: the {item} id is empty. Give every {item} an id.")
    if value.split() != [value]:
        raise DGRValueError(
            f"{location}: the {item} id {value!r} holds whitespace, at which run and qrels files are split. "
            "Replace it, for example with '_'."
        )
    if not value.isascii():
        check_encodable(value, f"{item} id {value!r}", location)
    return value


def text_of_id(value: object, item: str, location: str) -> str:
    """The string of an id that may be an integer, or hold whitespace; see [`as_id`].

    Raises:
        TypeError: if the value is neither a string nor an integer.
    """
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return str(int(value))
    advice = f"Give every {item} a string id."
    if is_missing(value):
        advice = f"It is missing: give the {item} an id, or leave it out."
    elif isinstance(value, (float, np.floating)):
        advice = "pandas makes floats of integers where one is missing: read the column as strings (dtype=str)."
    raise DGRTypeError(
        f"{location}: the {item} id is {value!r:.60} ({type(value).__name__}), but ids are strings (or integers). "
        f"{advice}"
    )


def check_id_collection(ids: object, name: str, also: str = "") -> None:
    """Refuse a single id where several are to be given: the letters of a string would be taken for ids.

    Args:
        ids (`object`): What a caller gave.
        name (`str`): Name of the argument, for the error.
        also (`str`, *optional*): What else the argument may be, for the error.

    Raises:
        TypeError: if it is a string, or no collection.
    """
    if isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
        raise DGRTypeError(f"{name} is {_described(ids, also)}")


def id_list(ids: object, name: str, also: str = "") -> list[str]:
    """The ids of passages that a caller gave as a collection.

    Args:
        ids (`object`): What a caller gave.
        name (`str`): Name of the argument, for the error.
        also (`str`, *optional*): What else the argument may be, for the error.

    Raises:
        TypeError: if it is a single string, or no collection, or holds anything but strings.
    """
    check_id_collection(ids, name, also)
    listed = list(cast(Iterable[str], ids))
    for value in listed:
        if not isinstance(value, str):
            raise DGRTypeError(f"{name} holds {_described(value, also)}")
    return listed


def _described(value: object, also: str) -> str:
    return f"{value!r:.60} ({type(value).__name__}). Give a collection of passage ids, which are strings{also}."


class IdColumn(Sequence[str]):
    """A column of ids that stays in Arrow and is searched without a dictionary.

    The first search sorts the ids' hashes (16 bytes an id). Every search is then a binary one.

    Args:
        column (`pyarrow.ChunkedArray`): The ids, strings.
    """

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._column)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), 10_000):
            yield from self._column.slice(start, 10_000).to_pylist()

    @overload
    def __getitem__(self, position: SupportsIndex) -> str: ...

    @overload
    def __getitem__(self, position: slice) -> list[str]: ...

    def __getitem__(self, position: SupportsIndex | slice) -> str | list[str]:
        if isinstance(position, slice):
            return [self._column[index].as_py() for index in range(*position.indices(len(self)))]
        index = operator.index(position)
        if not -len(self) <= index < len(self):
            raise DGRIndexError(f"There is no id {index}: there are {len(self)} ids.")
        return cast(str, self._column[index].as_py())

    def __contains__(self, value: object) -> bool:
        return self.find(value) is not None

    def index(self, value: object, start: int = 0, stop: int | None = None) -> int:
        """Position of an id between `start` and `stop`; `ValueError` if it is not there."""
        position = self.find(value)
        if position is None or position not in range(*slice(start, stop).indices(len(self))):
            raise DGRValueError(f"{value!r} is not among the ids.")
        return position

    def find(self, value: object) -> int | None:
        """Position of an id (the first, if it occurs more than once); `None` if it is not there."""
        if not isinstance(value, str):
            return None
        hashes, order = self._hashes()
        value_hash = np.int64(hash(value))
        low, high = hashes.searchsorted(value_hash, "left"), hashes.searchsorted(value_hash, "right")
        return next((position for position in order[low:high].tolist() if self[position] == value), None)

    def duplicates(self) -> dict[str, list[int]]:
        """The ids that occur more than once with all their positions, ordered by the first one."""
        hashes, order = self._hashes()
        equal = np.flatnonzero(hashes[1:] == hashes[:-1])
        positions_by_id: dict[str, list[int]] = {}
        for run in np.split(equal, np.flatnonzero(np.diff(equal) > 1) + 1) if len(equal) else ():
            for position in order[run[0] : run[-1] + 2].tolist():
                positions_by_id.setdefault(self[position], []).append(position)
        repeated = {value: positions for value, positions in positions_by_id.items() if len(positions) > 1}
        return dict(sorted(repeated.items(), key=lambda item: item[1]))

    def _hashes(self) -> tuple[np.ndarray, np.ndarray]:
        if self._sorted is None:
            hashes = np.fromiter((hash(value) for value in self), dtype=np.int64, count=len(self))
            order = np.argsort(hashes, kind="stable")
            self._sorted = hashes[order], order
        return self._sorted

    def __repr__(self) -> str:
        return f"IdColumn({self[:3]!r}{', ...' if len(self) > 3 else ''})"

    def __getstate__(self) -> dict[str, Any]:
        # Hashes of strings differ between processes, so they are not carried over.
        return {**self.__dict__, "_sorted": None}
