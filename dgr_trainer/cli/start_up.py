"""Starts commands fast: no garbage collection while modules are imported and a model is loaded."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused_collection() -> Iterator[None]:
    """Make objects that stay until the command ends, without looking among them for garbage.

    The imports of torch and transformers make a million objects, which the collector would walk through several times.
    What was made is left out of later collections, too, until `gc.unfreeze` is called.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
