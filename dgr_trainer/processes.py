"""Many processes, one answer: those that `accelerate launch` or `torchrun` start together, or one alone.

Where there is only one process, `None` stands for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from dgr_trainer.errors import DGRValueError

if TYPE_CHECKING:
    import torch
    from accelerate import PartialState

T = TypeVar("T")
R = TypeVar("R")


class Processes(Protocol):
    """What is needed of an [`~accelerate.Accelerator`] or a [`~accelerate.PartialState`]."""

    @property
    def process_index(self) -> int: ...  # noqa: D102

    @property
    def num_processes(self) -> int: ...  # noqa: D102

    def wait_for_everyone(self) -> None: ...  # noqa: D102


def number_launched() -> int:
    """How many processes were launched together, this one counted."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_alone(name: str) -> None:
    """Refuse to be one of several processes. Raises a `ValueError` that says so of what is called `name`."""
    if number_launched() > 1:
        raise DGRValueError(
            f"{number_launched()} processes were launched, but {name} works in one. Run the command without "
            "`accelerate launch` or `torchrun`."
        )


def processes_of_launch(device: str | None = None) -> PartialState | None:
    """The processes that were launched together with this one.

    Args:
        device (`str`, *optional*): Where they compute, such as `"cpu"`; by default on accelerators if there are any.

    Returns:
        [`~accelerate.PartialState`], *optional*: `None` if this one is alone.
    """
    if number_launched() == 1:
        return None
    import torch
    from accelerate import PartialState

    on_cpu = device.startswith("cpu") if device else not torch.accelerator.is_available()
    return PartialState(cpu=on_cpu)


@contextmanager
def launched(device: str | None = None) -> Iterator[PartialState | None]:
    """The processes that were launched together, for a program's whole work: none of them leaves before the last is
    done.

    Args:
        device (`str`, *optional*): As of [`processes_of_launch`].

    Yields:
        [`~accelerate.PartialState`], *optional*: `None` if this process is alone.
    """
    processes = processes_of_launch(device)
    yield processes
    if processes is not None:
        # Not after an error: the others may wait for this process, and whoever launched them ends them.
        processes.wait_for_everyone()
        processes.destroy_process_group()


def process_rank(processes: Processes | None) -> tuple[int, int]:
    """Which process this is, and of how many: `(0, 1)` for one alone."""
    return (0, 1) if processes is None else (processes.process_index, processes.num_processes)


def writes(processes: Processes | None) -> bool:
    """Whether this process is the one that prints and writes."""
    return process_rank(processes)[0] == 0


def wait(processes: Processes | None) -> None:
    """Wait until all processes are here."""
    if processes is not None:
        processes.wait_for_everyone()


def default_device(processes: Processes | None) -> torch.device:
    """Where this process computes unless it is told otherwise: on an accelerator of its own, or on the CPU."""
    import torch

    found: torch.device | None = getattr(processes, "device", None)
    if found is None and torch.accelerator.is_available():
        found = torch.accelerator.current_accelerator()
    return torch.device("cpu") if found is None else found


def map_across_processes(
    items: Sequence[T], work: Callable[[Sequence[T]], Iterable[R]], processes: Processes | None
) -> Iterable[R]:
    """`work(items)`, with the items shared out among processes.

    Each process works on every n-th item, so that long ones at one end are spread.

    Args:
        items (`Sequence`): The same on all processes.
        work (`Callable`): From items to one result an item, in their order.
        processes (`Processes`, *optional*): The processes, each of which calls this; left out, there is one.

    Returns:
        `Iterable`: the results of all items, in their order, on each process.
    """
    if process_rank(processes)[1] == 1:
        return work(items)
    places = own_share(range(len(items)), processes)
    own = dict(zip(places, work(own_share(items, processes)), strict=True))
    everything: dict[int, R] = {}
    for share in gathered(own, processes):
        everything |= share
    return [everything[place] for place in range(len(items))]


def own_share(items: Sequence[T], processes: Processes | None) -> Sequence[T]:
    """The items that this process works on: every n-th, from its number on."""
    index, number = process_rank(processes)
    return items[index::number]


def gathered(own: T, processes: Processes | None) -> list[T]:
    """What each process gives, in the order of the processes; waits for all of them."""
    if process_rank(processes)[1] == 1:
        return [own]
    from accelerate.utils import gather_object

    return gather_object([own])


def combined(values: np.ndarray, processes: Processes | None) -> np.ndarray:
    """Put together what each process has found.

    Args:
        values (`np.ndarray` of shape `(n,)`, float64): NaN where this process found nothing.
        processes (`Processes`, *optional*): The processes, each of which calls this; left out, there is one.

    Returns:
        `np.ndarray` of shape `(n,)`, float64: for each place, what the first process that has a value found.
    """
    if process_rank(processes)[1] == 1:
        return values
    # Only what this process has goes round.
    own = np.flatnonzero(~np.isnan(values))
    merged = np.full(len(values), np.nan)
    for places, found in gathered((own, values[own]), processes):
        empty = np.isnan(merged[places])
        merged[places[empty]] = found[empty]
    return merged
