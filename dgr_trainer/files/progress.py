"""Progress bars of steps that cannot count their work: they keep moving, and say what is being done."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm

_SECONDS = 1.0


@contextmanager
def kept_moving(bar: Any, doing: str = "") -> Iterator[None]:
    """Redraw a bar every second, so that its time runs while a step takes long.

    Args:
        bar (`tqdm.tqdm`): The bar. What it says can be changed meanwhile, `bar.set_postfix_str(..., refresh=False)`.
        doing (`str`, *optional*, defaults to `""`): What it says at first.

    Yields:
        `None`: while the bar is redrawn.
    """
    if bar.disable:
        yield
        return
    before, stopped = bar.postfix or "", threading.Event()
    bar.set_postfix_str(doing, refresh=False)

    def redraw() -> None:
        wait = max(_SECONDS, bar.delay)
        while not stopped.wait(wait):
            bar.refresh()
            bar.last_print_t = time.time()  # tqdm clears only a bar that it knows as drawn.
            wait = _SECONDS

    thread = threading.Thread(target=redraw, name="progress bar", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        bar.set_postfix_str(before, refresh=False)


@contextmanager
def elapsed_time(doing: str, *, shown: bool = True) -> Iterator[None]:
    """Show what is being done and for how long, if it takes longer than two seconds.

    Args:
        doing (`str`): The step.
        shown (`bool`, *optional*, defaults to `True`): Whether to show it.

    Yields:
        `None`: while the step runs.
    """
    with (
        tqdm(desc=doing, bar_format="{desc}: {elapsed}", delay=2, disable=not shown) as bar,
        kept_moving(bar),
    ):
        yield
