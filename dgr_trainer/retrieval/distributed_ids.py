"""The passage ids of an index whose parts are in several processes: looked up where they are, each in one part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, overload

import numpy as np

from dgr_trainer.errors import DGRValueError
from dgr_trainer.index.remaining_ids import RemainingIds

_IDS_AT_ONCE = 1000


def check_ids(
    ids: RemainingIds,
    rank: int,
    size: int,
    exchange: Callable[[Any], list[Any]],
    collect: Callable[[Any, int], list[Any] | None],
) -> None:
    """Refuse an id that is in the parts of two processes.

    Each process compares the hashes of one range, so that none has those of all passages; where hashes meet, the ids
    themselves are compared.

    Args:
        ids (`RemainingIds`): The ids of this process.
        rank, size (`int`): The number of this process, and of all.
        exchange (`Callable`): Gives every process what all of them give.
        collect (`Callable`): The same for one process only, whose number is the second argument.

    Raises:
        ValueError: in all processes, if there is such an id.
    """
    hashes = ids.hashes()
    order = np.argsort(hashes)
    ranges = (hashes[order] >> np.uint64(32)) * np.uint64(size) >> np.uint64(32)
    bounds = np.searchsorted(ranges, np.arange(size + 1))
    met = np.empty(0, np.uint64)
    for receiver in range(size):
        everyones = collect(hashes[order[bounds[receiver] : bounds[receiver + 1]]], receiver)
        if everyones is not None:
            of_range = np.sort(np.concatenate([np.unique(ones) for ones in everyones]))
            met = np.unique(of_range[1:][of_range[1:] == of_range[:-1]])
    # A few at a time: all of them meet if the same part was given twice.
    while len(wanted := np.concatenate(exchange(met[:_IDS_AT_ONCE]))):
        met = met[_IDS_AT_ONCE:]
        owners: dict[str, list[int]] = {}
        for owner, of_part in enumerate(exchange(ids.take(np.sort(order[np.isin(hashes[order], wanted)])))):
            for id in of_part:
                owners.setdefault(id, []).append(owner)
        twice = {id: of_id for id, of_id in owners.items() if len(of_id) > 1}
        if twice:
            id, of_id = next(iter(twice.items()))
            raise DGRValueError(
                f"The passage id {id!r} is in the parts of processes {' and '.join(map(str, of_id))} (and "
                f"{'others are' if len(twice) > 1 else 'no other is'} in more than one), but results are given by id. "
                "Give each process other passages."
            )


class IndexParts(Protocol):
    """What the ids need of a `DistributedIndex`."""

    num_passages: int
    passages_before: np.ndarray

    def check_passages(self, positions: np.ndarray) -> None: ...  # noqa: D102

    def ask(self, name: str, *arguments: Any) -> list[Any]: ...  # noqa: D102


class DistributedIds(Sequence[str]):
    """The passage ids of all parts, asked for where they are."""

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
        """The ids at many positions, in their order, with one question."""
        self._index.check_passages(positions)
        owners = np.searchsorted(self._index.passages_before, positions, side="right")
        ids = np.empty(len(positions), dtype=object)
        ids[np.argsort(owners, kind="stable")] = [id for part in self._index.ask("ids", positions) for id in part]
        return ids.tolist()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), 4096):
            yield from self[start : start + 4096]

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and bool(self.positions([value])[0] >= 0)

    def positions(self, values: Iterable[str]) -> np.ndarray:
        """Positions of many ids, -1 for an id that is not there."""
        return np.max(self._index.ask("positions", list(values)), axis=0)
