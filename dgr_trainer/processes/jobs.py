"""A job: the processes that were launched together, of which one writes what they work on together."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from dgr_trainer.errors import DGRRuntimeError
from dgr_trainer.files.job_lock import JobLock
from dgr_trainer.processes import Processes, gather, is_main_process, num_launched, process_rank, wait

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Processes that wait for each other give up after minutes, so those that wait for a lock meet more often.
_SECONDS_PER_TRY = 20.0
_SECONDS_PER_REMINDER = 600.0


@contextmanager
def job_lock(
    path: str | os.PathLike[str], what: str, processes: Processes | None, *, wait_for_others: bool = False
) -> Iterator[None]:
    """Let one job at a time write something. Each process of the job calls this.

    The first process holds the lock, and every other one its own, with its number after the name: if the first one is
    killed, another job cannot start before all others have ended, too.

    Args:
        path (`str` or `os.PathLike`): File of the lock.
        what (`str`): What is written, for messages.
        processes ([`Processes`], *optional*): The processes of the job.
        wait_for_others (`bool`, *optional*, defaults to `False`): Whether to wait for another job to end.

    Raises:
        RuntimeError: in every process of the job, if another job holds the lock.
        OSError: if the lock cannot be written.
    """
    path = Path(path)
    number, count = process_rank(processes)
    lock = JobLock(path if number == 0 else path.with_name(f"{path.name}-{number}"))
    with ExitStack() as held:
        # The first process goes first: when it has its lock, no other job holds any.
        for turn in (number == 0, number != 0)[: min(count, 2)]:
            _acquire(lock, what, held, processes, turn, wait_for_others)
        yield
        if number != 0:
            held.close()
        wait(processes)  # The first process is the last to release its lock.


def _acquire(
    lock: JobLock, what: str, held: ExitStack, processes: Processes | None, my_turn: bool, wait_for_others: bool
) -> None:
    """Get the locks of the processes whose turn it is; the others learn how it went."""
    seconds, reminded = (1.0 if wait_for_others else 0.0), -_SECONDS_PER_REMINDER

    def holder() -> str | None:
        return _other_holder(lock, held, seconds, is_main_process(processes)) if my_turn else None

    while holders := [one for one in gather(in_every_process(holder, processes), processes) if one is not None]:
        if not wait_for_others:
            advice = "Start it again when the other one has ended, or give another path."
            if processes is None and num_launched() > 1:
                advice += " If the other one was launched together with this one, give both the accelerator."
            raise DGRRuntimeError(
                f"{what} is being written by {holders[0]}, so this process cannot write it at the same time. {advice}"
            )
        if is_main_process(processes) and time.monotonic() - reminded >= _SECONDS_PER_REMINDER:
            logger.warning("%s is being written by %s. Waiting until it has ended.", what, holders[0])
            reminded = time.monotonic()
        seconds = _SECONDS_PER_TRY


def _other_holder(lock: JobLock, held: ExitStack, seconds: float, is_first: bool) -> str | None:
    """Get a lock, and see that no process of an earlier job is left. Returns the other process if there is one."""
    if not lock.is_held:
        if not lock.acquire(seconds):
            return lock.holder()
        held.callback(lock.release)
    if is_first:
        for left in _locks_of_others(lock.path):
            if not left.acquire(seconds):
                return left.holder()
            left.release()
    return None


def _locks_of_others(path: Path) -> list[JobLock]:
    """The locks of all processes of a job but the first, where their files are there."""
    pattern = re.compile(rf"{re.escape(path.name)}-\d+")
    return [JobLock(file) for file in sorted(path.parent.iterdir()) if pattern.fullmatch(file.name)]


def delete_left_locks(path: str | os.PathLike[str]) -> None:
    """Delete the files of the locks of a job that was killed when all was written, where that is possible.

    Args:
        path (`str` or `os.PathLike`): File of the lock, as for [`job_lock`].
    """
    path = Path(path)
    for lock in (*_locks_of_others(path), JobLock(path)):
        lock.delete_if_left()


def in_every_process(action: Callable[[], T], processes: Processes | None) -> T:
    """Do something in every process of a job; an error in one of them is raised in all, so that none waits forever.

    Args:
        action (`Callable[[], T]`): What to do.
        processes ([`Processes`], *optional*): The processes, each of which calls this.

    Returns:
        `T`: What `action` returned in this process.

    Raises:
        RuntimeError: if it failed in another process.
    """
    failure: Exception | None = None
    try:
        result = action()
    except Exception as error:
        failure = error
    messages = gather(None if failure is None else f"{type(failure).__name__}: {failure}", processes)
    if failure is not None:
        raise failure
    failed = [(number, message) for number, message in enumerate(messages) if message is not None]
    if failed:
        raise DGRRuntimeError(f"Process {failed[0][0]} of this job has failed: {failed[0][1]}")
    return result
