"""Runs the parts of one task in threads: compiled kernels run without the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numba
import numpy as np

T = TypeVar("T")

# One thread is started for this many steps through the index.
_STEPS_PER_THREAD = 8192


def number_of_threads(work: int) -> int:
    """How many threads to start for this many steps, at most `numba.config.NUMBA_NUM_THREADS`."""
    return max(1, min(int(numba.config.NUMBA_NUM_THREADS), work // _STEPS_PER_THREAD))  # type: ignore[attr-defined]


def run_in_threads(run: Callable[[int, int], T], bounds: Sequence[int] | np.ndarray, work: int) -> list[T]:
    """Call `run(start, stop)` on each part of a task, in threads if there is enough work.

    Args:
        run (`Callable[[int, int], T]`): runs the task on one part, independently of the others.
        bounds (`Sequence[int]`): where each part starts, and where the last one stops.
        work (`int`): number of steps of all parts together.

    Returns:
        `list[T]`: the results in the order of the parts.
    """
    starts, stops = [int(bound) for bound in bounds[:-1]], [int(bound) for bound in bounds[1:]]
    threads = min(number_of_threads(work), len(starts))
    if threads <= 1:
        return list(map(run, starts, stops))
    # A new pool for each call: a forked process would not have the threads of a pool kept between calls.
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, starts, stops))


def in_parts(run: Callable[[int, int], T], size: int, work: int, weights: np.ndarray | None = None) -> list[T]:
    """Call `run(start, stop)` on a whole batch, or in threads on parts of about equal weight."""
    parts = min(number_of_threads(work), max(size, 1))
    if weights is None or parts == 1:
        bounds = np.linspace(0, size, parts + 1).astype(np.int64)
    else:
        bounds = np.searchsorted(np.cumsum(weights), np.linspace(0, work, parts + 1))
        bounds[-1] = size
    return run_in_threads(run, bounds, work)
