"""Work on chunks in this process or in several, with the results in the order of the chunks."""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from dgr_trainer.errors import DGRRuntimeError, DGRValueError

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")
# Chunks that are given out before their results are taken, for each process.
_AHEAD = 4
_work: Callable[[Any], Any]


def map_chunks(work: Callable[[Chunk], Result], chunks: Iterable[Chunk], num_proc: int | None) -> Iterator[Result]:
    """Yield `work(chunk)` of each chunk, in order.

    Args:
        work (`Callable`): Called with each chunk. It may hold anything, since processes are forked; its result
            is pickled.
        chunks (`Iterable`): Read only a little further than the results are.
        num_proc (`int`, *optional*): Number of processes; by default, and for 1, this process does the work.

    Raises:
        DGRValueError: if processes cannot be forked on this platform.
        DGRRuntimeError: if a process ends before its work is done, for example for lack of memory.
    """
    check_num_proc(num_proc)
    if num_proc is None or num_proc == 1:
        yield from map(work, chunks)
        return
    if "fork" not in multiprocessing.get_all_start_methods():
        raise DGRValueError(f"num_proc={num_proc}: this platform cannot fork processes. Leave num_proc out.")
    context = multiprocessing.get_context("fork")
    pending: deque[Future[Result]] = deque()
    remaining = iter(chunks)
    with _serial_tokenizers(), ProcessPoolExecutor(num_proc, context, _begin, (work,)) as pool:
        try:
            while True:
                pending.extend(
                    pool.submit(_do, chunk) for chunk in islice(remaining, num_proc * _AHEAD - len(pending))
                )
                if not pending:
                    return
                yield pending.popleft().result()
        except BrokenProcessPool:
            raise DGRRuntimeError(
                f"One of the {num_proc} processes ended before its work was done, perhaps for lack of memory. Use "
                "fewer with num_proc."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def check_num_proc(num_proc: int | None) -> None:
    """Check a number of processes, such as before long work that ends with them.

    Raises:
        ValueError: if it is below 1.
    """
    if num_proc is not None and num_proc < 1:
        raise DGRValueError(f"num_proc={num_proc}: give the number of processes, at least 1, or leave it out.")


def _begin(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work
    end_with_parent()
    # Work makes many objects and hardly any cycles: looking for these often takes a tenth to a quarter of the time.
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


def end_with_parent() -> None:
    """End this process when its parent has: one that was killed could not say so, and work would be waited for."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _do(chunk: Any) -> Any:
    return _work(chunk)


@contextmanager
def _serial_tokenizers() -> Iterator[None]:
    """Tokenizers use one thread in each process, and do not warn of the fork."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
