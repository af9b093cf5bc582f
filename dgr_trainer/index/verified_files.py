"""Which files of an index are known to be undamaged: their checksum was verified, and they were not touched since.

A file is recognised by its size, its inode number and the time of its last change. Writing to it or copying it changes
one of these, so that its checksum is verified again the next time the index is opened.
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
# Two changes within this time may have the same time stamp.
_TICK_NS = 20_000_000

FileState = tuple[int, int, int]


def file_state(file: Path) -> FileState:
    """The size, time of last change (nanoseconds) and inode number by which a file is recognised."""
    status = os.stat(file)
    return status.st_size, status.st_mtime_ns, status.st_ino


def read_verified(folder: Path) -> dict[str, FileState]:
    """The files of an index whose checksum was verified, with their state then; empty if there is no such record."""
    try:
        states = json.loads((folder / VERIFIED).read_text(encoding="utf-8"))
        return {name: (int(size), int(changed), int(inode)) for name, (size, changed, inode) in states.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write_verified(folder: Path, states: Mapping[str, FileState]) -> None:
    """Record which files were verified; skipped if the folder is not writable."""
    newest = max((changed for _, changed, _ in states.values()), default=0)
    # Wait, so that any later change gets a later time stamp.
    time.sleep(min(_TICK_NS, max(0, newest + _TICK_NS - time.time_ns())) / 1e9)
    try:
        with atomic_write(folder / VERIFIED) as stream:
            json.dump(dict(sorted(states.items())), stream)
            stream.write("\n")
    except OSError as error:
        logger.debug("Cannot record in %s which files were verified (%s).", folder, error)
