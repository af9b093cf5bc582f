"""The passage ids of an index whose parts are in several processes; each id stays in the process of its part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, overload

import numpy as np

from dgr_trainer.errors import DGRValueError
from dgr_trainer.index.remaining_ids import RemainingIds

_IDS_PER_EXCHANGE = 1000


def check_ids(
    ids: RemainingIds,
    rank: int,
    size: int,
    exchange: Callable[[Any], list[Any]],
    collect: Callable[[Any, int], list[Any] | None],
) -> None:
    """Check that no id is in the parts of two processes.

    Each process compares the hashes of one range, so that none has to hold those of all passages. Ids with equal
    hashes are compared themselves.

    Args:
        ids (`RemainingIds`): The ids of this process.
        rank (`int`): Number of this process.
        size (`int`): Number of processes.
        exchange (`Callable`): Takes a value; returns the values of all processes, in each of them.
        collect (`Callable`): Takes a value and the number of a process; returns the values of all processes in that
            one, `None` in the others.

    Raises:
        ValueError: in all processes, if there is such an id.
    """
    hashes = ids.hashes()
    order = np.argsort(hashes)
    ranges = (hashes[order] >> np.uint64(32)) * np.uint64(size) >> np.uint64(32)
    bounds = np.searchsorted(ranges, np.arange(size + 1))
    repeated = np.empty(0, np.uint64)  # Hashes of the range of this process that occur in two parts.
    for receiver in range(size):
        hashes_of_parts = collect(hashes[order[bounds[receiver] : bounds[receiver + 1]]], receiver)
        if hashes_of_parts is not None:
            in_range = np.sort(np.concatenate([np.unique(hashes_of_part) for hashes_of_part in hashes_of_parts]))
            repeated = np.unique(in_range[1:][in_range[1:] == in_range[:-1]])
    # A few at a time: all of them are repeated if the same part was given twice.
    while len(suspects := np.concatenate(exchange(repeated[:_IDS_PER_EXCHANGE]))):
        repeated = repeated[_IDS_PER_EXCHANGE:]
        owners: dict[str, list[int]] = {}
        for owner, ids_of_part in enumerate(exchange(ids.take(np.sort(order[np.isin(hashes[order], suspects)])))):
            for id in ids_of_part:
                owners.setdefault(id, []).append(owner)
        in_several = {id: owners_of_id for id, owners_of_id in owners.items() if len(owners_of_id) > 1}
        if in_several:
            id, owners_of_id = next(iter(in_several.items()))
            raise DGRValueError(
                f"The passage id {id!r} is in the parts of processes {' and '.join(map(str, owners_of_id))} (and "
                f"{'others are' if len(in_several) > 1 else 'no other is'} in more than one), but search results name "
                "passages by id. Give each process other passages."
            )


class IndexParts(Protocol):
    """The part of a `DistributedIndex` that its ids use."""

    num_passages: int
    passages_before: np.ndarray

    def check_passages(self, positions: np.ndarray) -> None: ...  # noqa: D102

    def ask(self, name: str, *arguments: Any) -> list[Any]: ...  # noqa: D102


class DistributedIds(Sequence[str]):
    """The passage ids of all parts, as a sequence that asks the processes for them."""

    def __init__(self, index: IndexParts) -> None:
        self._index = index

    def __len__(self) -> int:
        return self._index.num_passages

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return self.take(np.arange(*index.indices(len(self))))
        return self.take(np.array([index + len(self) if index < 0 else index]))[0]

    def take(self, positions: np.ndarray) -> list[str]:
        """The ids at several positions, in their order; asks each process once."""
        self._index.check_passages(positions)
        owners = np.searchsorted(self._index.passages_before, positions, side="right")
        ids = np.empty(len(positions), dtype=object)
        ids[np.argsort(owners, kind="stable")] = [id for part in self._index.ask("ids", positions) for id in part]
        result: list[str] = ids.tolist()
        return result

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), 4096):
            yield from self[start : start + 4096]

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and bool(self.positions([value])[0] >= 0)

    def positions(self, values: Iterable[str]) -> np.ndarray:
        """Positions of several ids, -1 for an id that does not exist."""
        return np.asarray(np.max(self._index.ask("positions", list(values)), axis=0))
