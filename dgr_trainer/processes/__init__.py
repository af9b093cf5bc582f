"""Work shared by several processes that `accelerate launch` or `torchrun` started together.

Functions take `None` where there is only one process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast, get_args

import numpy as np

from dgr_trainer.errors import DGRValueError

if TYPE_CHECKING:
    import torch
    from accelerate import PartialState

T = TypeVar("T")
R = TypeVar("R")

ResultsOn = Literal["main", "all"]
"""Which of several processes get the results of their common work: `"main"` (the main one gets all of them, the others
none) or `"all"` (each gets all of them)."""


def check_results_on(results_on: str) -> None:
    """Raise a `ValueError` if a setting is none of [`ResultsOn`]."""
    if results_on not in get_args(ResultsOn):
        raise DGRValueError(
            f"results_on is {results_on!r}. Give 'main' (all results in the main process, none in the others) or "
            "'all' (all results in every process)."
        )


class Processes(Protocol):
    """The part of [`~accelerate.Accelerator`] and [`~accelerate.PartialState`] that this library uses."""

    @property
    def process_index(self) -> int: ...  # noqa: D102

    @property
    def num_processes(self) -> int: ...  # noqa: D102

    def wait_for_everyone(self) -> None: ...  # noqa: D102


def gets_results(processes: Processes | None, results_on: ResultsOn) -> bool:
    """Whether this process is one of those that get the results; see [`ResultsOn`]."""
    return results_on == "all" or is_main_process(processes)


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
    items: Sequence[T],
    work: Callable[[Sequence[T]], Iterable[R]],
    processes: Processes | None,
    *,
    block: int = 1,
    results_on: ResultsOn = "all",
    results_per_message: int = 64,
) -> Iterable[R]:
    """`work(items)`, with the items divided among processes.

    Each process works on every n-th block of items, so that long items at one end are spread over all of them. While
    they work, processes send their results and forget them, so that only the processes that keep results need the
    memory for them.

    Args:
        items (`Sequence`): The items, the same in all processes.
        work (`Callable`): Takes items and returns one result per item, in their order.
        processes (`Processes`, *optional*): The processes, each of which calls this function.
        block (`int`, *optional*, defaults to 1): Number of consecutive items that stay together in one process.
        results_on (`str`, *optional*, defaults to `"all"`): Which processes get results; see [`ResultsOn`].
        results_per_message (`int`, *optional*, defaults to 64): How many results a process sends together.

    Returns:
        `Iterable`: the results, in the order of the items; nothing in a process that gets none.
    """
    check_results_on(results_on)
    number, count = process_rank(processes)
    if count == 1:
        return work(items)
    found = iter(work(share_of_process(items, processes, block)))
    positions = [share_of_process(range(len(items)), processes, block, of=other) for other in range(count)]
    results: list[Any] = [None] * (len(items) if gets_results(processes, results_on) else 0)
    for start in range(0, len(positions[0]), results_per_message):  # No process has more than the first.
        piece = list(islice(found, len(positions[number][start : start + results_per_message])))
        pieces = gather(piece, processes) if results_on == "all" else gather_on_main(piece, processes)
        for other, values in enumerate(pieces):
            for position, value in zip(positions[other][start : start + results_per_message], values, strict=True):
                results[position] = value
    next(found, None)  # So that a generator closes what it has opened.
    return results


def share_of_process(
    items: Sequence[T], processes: Processes | None, block: int = 1, of: int | None = None
) -> Sequence[T]:
    """The items that a process works on: every n-th block of them, starting with its number.

    Args:
        items (`Sequence`): All items.
        processes (`Processes`, *optional*): The processes.
        block (`int`, *optional*, defaults to 1): Number of consecutive items that stay together.
        of (`int`, *optional*, defaults to this process): Number of the process.

    Returns:
        `Sequence`: its items.
    """
    number, count = process_rank(processes)
    number = number if of is None else of
    if block == 1:
        return items[number::count]
    starts = range(number * block, len(items), count * block)
    return [items[position] for start in starts for position in range(start, min(start + block, len(items)))]


def gather(value: T, processes: Processes | None) -> list[T]:
    """Collect the value of each process, in the order of the processes. Waits for all of them."""
    if process_rank(processes)[1] == 1:
        return [value]
    from accelerate.utils import gather_object

    values: list[T] = gather_object([value])
    return values


def gather_on_main(value: T, processes: Processes | None) -> list[T]:
    """Collect the value of each process in the main one; the others get an empty list. Waits for all of them."""
    number, count = process_rank(processes)
    if count == 1:
        return [value]
    import torch

    values: list[Any] | None = [None] * count if number == 0 else None
    torch.distributed.gather_object(value, values, dst=0)
    return values or []


def from_main(value: T, processes: Processes | None) -> T:
    """The main process's value, in every process."""
    if process_rank(processes)[1] == 1:
        return value
    from accelerate.utils import broadcast_object_list

    values: list[Any] = [value]
    broadcast_object_list(values)
    return cast(T, values[0])


def merge_results(
    results: np.ndarray, processes: Processes | None, results_on: ResultsOn = "all"
) -> np.ndarray | None:
    """Merge the results that the processes have computed.

    Args:
        results (`np.ndarray` of shape `(n,)`, float64): Results of this process, NaN where it has none.
        processes (`Processes`, *optional*): The processes, each of which calls this function.
        results_on (`str`, *optional*, defaults to `"all"`): `"all"` or `"main"`; see [`ResultsOn`].

    Returns:
        `np.ndarray` of shape `(n,)`, float64: each result of the first process that has it, NaN where none does;
        `None` in a process that gets no results.
    """
    if process_rank(processes)[1] == 1:
        return results
    # Only the results that a process has are sent.
    known = np.flatnonzero(~np.isnan(results))
    own = known, results[known]
    pieces = gather(own, processes) if results_on == "all" else gather_on_main(own, processes)
    if not gets_results(processes, results_on):
        return None
    merged = np.full(len(results), np.nan)
    for numbers, values in pieces:
        missing = np.isnan(merged[numbers])
        merged[numbers[missing]] = values[missing]
    return merged
