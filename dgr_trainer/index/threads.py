"""Parts of one task in threads: compiled kernels run without the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numba
import numpy as np

T = TypeVar("T")

# Steps through the index for which a second thread is worth its start.
_WORTH_A_THREAD = 8192


def number_of_threads(work: int) -> int:
    """Threads that are worth starting for so many steps: at most `numba.config.NUMBA_NUM_THREADS`."""
    return max(1, min(int(numba.config.NUMBA_NUM_THREADS), work // _WORTH_A_THREAD))  # type: ignore[attr-defined]


def in_threads(run: Callable[[int, int], T], bounds: Sequence[int] | np.ndarray, work: int) -> list[T]:
    """Call `run(start, stop)` on each part of a task, in threads where there is much to do.

    Args:
        run (`Callable[[int, int], T]`): the task on one part; the results must not depend on the others.
        bounds (`Sequence[int]`): where the parts start, and where the last one stops.
        work (`int`): steps that all parts take together.

    Returns:
        `list[T]`: the results in the order of the parts.
    """
    starts, stops = [int(bound) for bound in bounds[:-1]], [int(bound) for bound in bounds[1:]]
    threads = min(number_of_threads(work), len(starts))
    if threads <= 1:
        return list(map(run, starts, stops))
    # A pool of its own for each call: threads kept between calls would be missing in a forked process.
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, starts, stops))
