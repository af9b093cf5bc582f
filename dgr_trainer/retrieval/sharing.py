"""Many processes, one answer: each does its share of the work, and all get the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Processes(Protocol):
    """What is needed of an [`~accelerate.Accelerator`] or a [`~accelerate.PartialState`]."""

    @property
    def process_index(self) -> int: ...  # noqa: D102

    @property
    def num_processes(self) -> int: ...  # noqa: D102


def shared(items: Sequence[T], work: Callable[[Sequence[T]], Iterable[R]], processes: Processes | None) -> Iterable[R]:
    """
    `work(items)`, with the items shared out among processes.

    Each process works on every so manieth item, so that long ones at one end are spread.

    Args:
        items (`Sequence`): The same on all processes.
        work (`Callable`): From items to one result an item, in their order.
        processes (`Processes`, *optional*): The processes, each of which calls this; left out, there is one.

    Returns:
        `Iterable`: the results of all items, in their order, on each process.
    """
    if processes is None or processes.num_processes == 1:
        return work(items)
    from accelerate.utils import gather_object

    places = own_share(range(len(items)), processes)
    own = list(zip(places, work(own_share(items, processes)), strict=True))
    everything = dict(gather_object(own))
    return [everything[place] for place in range(len(items))]


def own_share(items: Sequence[T], processes: Processes | None) -> Sequence[T]:
    """The items that this process works on: every so manieth, from its number on."""
    return items if processes is None else items[processes.process_index :: processes.num_processes]


def gathered(own: T, processes: Processes | None) -> list[T]:
    """What each process gives, in the order of the processes; waits for all of them."""
    if processes is None or processes.num_processes == 1:
        return [own]
    from accelerate.utils import gather_object

    return gather_object([own])
