"""The passages to search among: all that are given, or all but those."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from dgr_trainer.data.ids import id_list
from dgr_trainer.errors import DGRKeyError, DGRTypeError, DGRValueError
from dgr_trainer.index import FMIndex
from dgr_trainer.index.passage_subset import index_of_passages

PassageIds = Collection[str] | np.ndarray
"""Passages: their ids, or a mask (bool, one value a passage in the order of the index)."""

# Indexes of the passages that were searched last, for each index.
_KEPT = 8
_indexes: WeakKeyDictionary[FMIndex, OrderedDict[PassageChoice, FMIndex]] = WeakKeyDictionary()
_lock = Lock()


class PassageChoice:
    """Some of the passages of an index; equal to another choice of the same passages.

    Args:
        positions (`np.ndarray` of int64): Their positions in the index, ascending; or those of the others. At least
            one.
        excluded (`bool`): Whether these are the others.
    """

    def __init__(self, positions: np.ndarray, excluded: bool) -> None:
        self.given = positions
        self.excluded = excluded
        self._key = hashlib.sha256(positions.tobytes()).digest(), excluded

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PassageChoice) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def digest(self) -> str:
        """A name of the choice, for the settings of a job that can be resumed."""
        return f"{'all but ' if self.excluded else ''}{self._key[0].hex()}"

    def positions(self, num_passages: int) -> np.ndarray:
        """The positions of the passages in the index, ascending (int64)."""
        return _others(self.given, num_passages) if self.excluded else self.given

    def positions_among(self, positions: np.ndarray) -> np.ndarray:
        """Convert positions in the index, of passages of the choice, to positions among these."""
        before = np.searchsorted(self.given, positions)
        return positions - before if self.excluded else before

    def check_included(self, positions: np.ndarray, passage_ids: Iterable[str]) -> None:
        """Raise a `KeyError` if one of these passages is not among those of the choice."""
        places = np.minimum(np.searchsorted(self.given, positions), len(self.given) - 1)
        outside = np.flatnonzero((self.given[places] == positions) == self.excluded)
        if len(outside):
            missing = list(dict.fromkeys(passage_ids))[outside[0]]
            raise DGRKeyError(
                f"The passage {missing!r} is to be among the hits, but not among the passages to search "
                f"({len(outside)} of {len(positions)} such passages are not). Take it out of include or of the qrels, "
                "or search among it, too."
            )

    def index(self, whole: FMIndex) -> FMIndex:
        """The index of the passages; those that were asked for last are kept."""
        with _lock:
            kept = _indexes.setdefault(whole, OrderedDict())
            if self in kept:
                kept.move_to_end(self)
                return kept[self]
        made = index_of_passages(whole, self.positions(whole.num_passages))
        with _lock:
            kept[self] = made
            while len(kept) > _KEPT:
                kept.popitem(last=False)
        return made


def _others(positions: np.ndarray, num_passages: int) -> np.ndarray:
    mask = np.ones(num_passages, np.bool_)
    mask[positions] = False
    return np.flatnonzero(mask)


def one_choice(index: FMIndex, among: PassageIds | None, exclude: PassageIds | None) -> PassageChoice | None:
    """The passages that the arguments `among` and `exclude` leave of an index; `None` for all.

    Raises:
        TypeError: if an argument is neither a collection of ids nor a mask.
        ValueError: if no passage is left, or a mask has another length than the index.
        KeyError: if an id is unknown.
    """
    if among is None and exclude is None:
        return None
    left_out = np.empty(0, np.int64) if exclude is None else _positions(index, exclude, "exclude")
    if among is None:
        chosen, number = None, index.num_passages - len(left_out)
    else:
        chosen = _positions(index, among, "among")
        if len(left_out):
            chosen = np.setdiff1d(chosen, left_out, assume_unique=True)
        number = len(chosen)
    if not number:
        what = " and ".join(name for name, given in (("among", among), ("exclude", exclude)) if given is not None)
        raise DGRValueError(
            f"{what} {'leave' if ' ' in what else 'leaves'} none of the {index.num_passages} passages to search. "
            "Give at least one, or leave the argument out to search all."
        )
    if number == index.num_passages:
        return None
    # The smaller part, also so that equal choices are known to be equal.
    excluded = 2 * number > index.num_passages
    if excluded:
        return PassageChoice(left_out if chosen is None else _others(chosen, index.num_passages), True)
    return PassageChoice(_others(left_out, index.num_passages) if chosen is None else chosen, False)


def choices(index: FMIndex, among: Any, exclude: Any, queries: Sequence[str] | int) -> list[PassageChoice | None]:
    """The passages to search among for each query.

    Args:
        index ([`FMIndex`]): The index.
        among (`Any`): Passages for all queries, or for each: a sequence in the order of the queries, or a mapping by
            their ids, which has all of them.
        exclude (`Any`): Passages to leave out, likewise; a mapping may leave queries out.
        queries (`Sequence[str]` or `int`): The ids of the queries; or their number, if they have none.

    Raises:
        TypeError: as `one_choice`; also if queries without ids get a mapping.
        ValueError: as `one_choice`; also if the number of sets is not that of the queries.
        KeyError: if an id is unknown, or `among` has no passages for a query.
    """
    number = queries if isinstance(queries, int) else len(queries)
    of_each = {name: _of_each(value, name, queries) for name, value in (("among", among), ("exclude", exclude))}
    if of_each["among"] is None and of_each["exclude"] is None:
        return [one_choice(index, among, exclude)] * number
    # Sets that several queries share are looked up once.
    known: dict[tuple[int, int], PassageChoice | None] = {}
    chosen = []
    for query in range(number):
        one_among, one_exclude = (
            value if each is None else each[query]
            for value, each in ((among, of_each["among"]), (exclude, of_each["exclude"]))
        )
        key = id(one_among), id(one_exclude)
        if key not in known:
            known[key] = one_choice(index, one_among, one_exclude)
        chosen.append(known[key])
    return chosen


def _of_each(value: Any, name: str, queries: Sequence[str] | int) -> list[PassageIds | None] | None:
    """The set of each query, in their order; `None` if the value is one set for all of them."""
    if isinstance(value, Mapping):
        if isinstance(queries, int):
            raise DGRTypeError(
                f"{name} is a mapping, but these queries have no ids. Give a list with one set of passages for each "
                "query, or one set for all."
            )
        missing = [query for query in queries if query not in value]
        if missing and name == "among":
            raise DGRKeyError(
                f"among names no passages for the query {missing[0]!r} ({len(missing)} of {len(queries)} queries have "
                "none). Give a set for each query; None for one that searches all passages."
            )
        unknown = sorted(map(repr, set(value) - set(queries)))
        if unknown:
            raise DGRKeyError(
                f"{name} has passages for {unknown[0]}, which is not the id of a query ({len(unknown)} of "
                f"{len(value)} are not). Use the ids of the queries."
            )
        return [value.get(query) for query in queries]
    if value is None or isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        return None
    is_flat = not any(_is_set(one) for one in value)
    if is_flat and not (len(value) and all(one is None for one in value)):
        return None
    number = queries if isinstance(queries, int) else len(queries)
    if len(value) != number:
        raise DGRValueError(
            f"There are {number} queries, but {name} has {len(value)} sets of passages. Give one for each query, or "
            "one for all: a flat list of ids, or a mask."
        )
    return list(value)


def _is_set(value: object) -> bool:
    return isinstance(value, (Collection, np.ndarray)) and not isinstance(value, (str, bytes))


def _positions(index: FMIndex, value: PassageIds, name: str) -> np.ndarray:
    """The positions of a set of passages, ascending, each once."""
    if isinstance(value, np.ndarray) and value.dtype == np.bool_:
        if value.shape != (index.num_passages,):
            raise DGRValueError(
                f"{name} is a mask of shape {value.shape}, but the index has {index.num_passages} passages. Give a "
                "mask with one value for each passage, in the order of index.passage_ids."
            )
        return np.flatnonzero(value)
    ids = value.tolist() if isinstance(value, np.ndarray) else value
    mask = ", or a mask (an array of bool, one value for each passage)"
    return np.unique(index.passage_positions(id_list(ids, name, mask)))
