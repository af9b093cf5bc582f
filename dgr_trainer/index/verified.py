"""Which files of an index are undamaged: those that were compared with their checksums and not touched since.

A file is known by its size, its number on the disk and the time of its last change. Whatever writes to it or copies it
changes one of them, so that it is compared again when the index is opened next.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

from dgr_trainer.files.atomic import atomic_write

logger = logging.getLogger(__name__)

VERIFIED = "verified.json"
# Changes closer together than this may carry the same time.
_TICK_NS = 20_000_000

State = tuple[int, int, int]


def state_of(file: Path) -> State:
    """By what a file is known."""
    found = os.stat(file)
    return found.st_size, found.st_mtime_ns, found.st_ino


def read_verified(folder: Path) -> dict[str, State]:
    """The files of an index that were compared, and by what they were known then; none if that is not written down."""
    try:
        known = json.loads((folder / VERIFIED).read_text(encoding="utf-8"))
        return {name: (int(size), int(changed), int(number)) for name, (size, changed, number) in known.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write_verified(folder: Path, files: Mapping[str, State]) -> None:
    """Write down which files were compared, unless nothing can be written there."""
    newest = max((changed for _, changed, _ in files.values()), default=0)
    # Later changes have to carry a later time.
    time.sleep(min(_TICK_NS, max(0, newest + _TICK_NS - time.time_ns())) / 1e9)
    try:
        with atomic_write(folder / VERIFIED) as stream:
            json.dump(dict(sorted(files.items())), stream)
            stream.write("\n")
    except OSError as error:
        logger.debug("Which files of %s are undamaged cannot be written down (%s).", folder, error)
