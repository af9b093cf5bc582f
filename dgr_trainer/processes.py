"""Work shared by several processes that `accelerate launch` or `torchrun` started together.

Functions take `None` where there is only one process.
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
    """The part of [`~accelerate.Accelerator`] and [`~accelerate.PartialState`] that this library uses."""

    @property
    def process_index(self) -> int: ...  # noqa: D102

    @property
    def num_processes(self) -> int: ...  # noqa: D102

    def wait_for_everyone(self) -> None: ...  # noqa: D102


def num_launched() -> int:
    """Number of processes that were launched together, this one included."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def require_single_process(command: str) -> None:
    """Raise a `ValueError` if several processes were launched for a command that works in one."""
    if num_launched() > 1:
        raise DGRValueError(
            f"{num_launched()} processes were launched, but {command} works in one. Run the command without "
            "`accelerate launch` or `torchrun`."
        )


def launched_processes(device: str | None = None) -> PartialState | None:
    """Connect to the processes that were launched together with this one.

    Args:
        device (`str`, *optional*): Where they compute, such as `"cpu"`; by default on accelerators if there are any.

    Returns:
        [`~accelerate.PartialState`], *optional*: `None` if there is only this one.
    """
    if num_launched() == 1:
        return None
    import torch
    from accelerate import PartialState

    on_cpu = device.startswith("cpu") if device else not torch.accelerator.is_available()
    return PartialState(cpu=on_cpu)


@contextmanager
def process_group(device: str | None = None) -> Iterator[PartialState | None]:
    """Connect to the processes launched together for the whole run of a program; leave when all are done.

    Args:
        device (`str`, *optional*): See [`launched_processes`].

    Yields:
        [`~accelerate.PartialState`], *optional*: `None` if there is only this process.
    """
    processes = launched_processes(device)
    yield processes
    if processes is not None:
        # Not after an error: the others may be waiting for this process, and the launcher ends them.
        processes.wait_for_everyone()
        processes.destroy_process_group()


def process_rank(processes: Processes | None) -> tuple[int, int]:
    """Number of this process and number of all processes: `(0, 1)` if there is only one."""
    return (0, 1) if processes is None else (processes.process_index, processes.num_processes)


def is_main_process(processes: Processes | None) -> bool:
    """Whether this is the process that prints and writes files."""
    return process_rank(processes)[0] == 0


def wait(processes: Processes | None) -> None:
    """Wait until all processes get here."""
    if processes is not None:
        processes.wait_for_everyone()


def default_device(processes: Processes | None) -> torch.device:
    """The device of this process by default: its own accelerator, or the CPU."""
    import torch

    device: torch.device | None = getattr(processes, "device", None)
    if device is None and torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator()
    return torch.device("cpu") if device is None else device


def map_across_processes(
    items: Sequence[T], work: Callable[[Sequence[T]], Iterable[R]], processes: Processes | None
) -> Iterable[R]:
    """`work(items)`, with the items divided among processes.

    Each process works on every n-th item, so that long items at one end are spread over all of them.

    Args:
        items (`Sequence`): The items, the same in all processes.
        work (`Callable`): Takes items and returns one result per item, in their order.
        processes (`Processes`, *optional*): The processes, each of which calls this function.

    Returns:
        `Iterable`: the results of all items, in their order, in each process.
    """
    if process_rank(processes)[1] == 1:
        return work(items)
    numbers = share_of_process(range(len(items)), processes)
    results = dict(zip(numbers, work(share_of_process(items, processes)), strict=True))
    all_results: dict[int, R] = {}
    for results_of_process in gather(results, processes):
        all_results |= results_of_process
    return [all_results[number] for number in range(len(items))]


def share_of_process(items: Sequence[T], processes: Processes | None) -> Sequence[T]:
    """The items that this process works on: every n-th, starting with its rank."""
    rank, num_processes = process_rank(processes)
    return items[rank::num_processes]


def gather(value: T, processes: Processes | None) -> list[T]:
    """Collect the value of each process, in the order of the processes. Waits for all of them."""
    if process_rank(processes)[1] == 1:
        return [value]
    from accelerate.utils import gather_object

    values: list[T] = gather_object([value])
    return values


def merge_results(results: np.ndarray, processes: Processes | None) -> np.ndarray:
    """Merge the results that the processes have computed.

    Args:
        results (`np.ndarray` of shape `(n,)`, float64): Results of this process, NaN where it has none.
        processes (`Processes`, *optional*): The processes, each of which calls this function.

    Returns:
        `np.ndarray` of shape `(n,)`, float64: each result of the first process that has it, NaN where none does.
    """
    if process_rank(processes)[1] == 1:
        return results
    # Only the results that a process has are sent.
    known = np.flatnonzero(~np.isnan(results))
    merged = np.full(len(results), np.nan)
    for numbers, values in gather((known, results[known]), processes):
        missing = np.isnan(merged[numbers])
        merged[numbers[missing]] = values[missing]
    return merged
