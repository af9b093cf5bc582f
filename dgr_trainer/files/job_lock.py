"""The lock of a job: of the processes that want to write the same files, one holds it and the others learn which.

The lock belongs to the operating system (`flock`), which releases it when its process ends, however it ends: nothing
that a killed process or a power failure leaves on the disk ever blocks the next job. A note beside the lock says who
holds it.
"""

from __future__ import annotations

import errno
import inspect
import json
import logging
import os
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}
# Newer versions use files as locks where there is no flock, and those outlive their process.
_NO_FALLBACK: dict[str, Any] = (
    {"fallback_to_soft": False} if "fallback_to_soft" in inspect.signature(FileLock.__init__).parameters else {}
)
_SECONDS_BETWEEN_TRIES = 0.05
_NOTE_TRIES = 20


class JobLock:
    """A lock beside the files that it protects. Lock and note are deleted when it is released.

    Locks exclude other processes, and other locks of the same process. They hold on local disks and on network disks
    that pass on `flock`. On a disk without `flock`, nothing is locked, and a warning says so.

    Args:
        path (`str` or `os.PathLike`): The file of the lock; the note has `.json` after its name.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self.note = self.path.with_name(f"{self.path.name}.json")
        self._lock: FileLock | None = None
        self._file: IO[bytes] | None = None

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock."""
        return self._lock is not None

    def acquire(self, seconds: float = 0.0) -> bool:
        """Try to get the lock.

        Args:
            seconds (`float`, *optional*, defaults to 0): How long to try.

        Returns:
            `bool`: Whether this process may go on: it holds the lock now, or the disk has no locks.

        Raises:
            OSError: if the file cannot be written.
        """
        end = time.monotonic() + seconds
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while not self._try():
            if time.monotonic() >= end:
                return False
            time.sleep(_SECONDS_BETWEEN_TRIES)
        if not self.is_held:
            return True
        holder = {"process": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now(UTC):%F %T} UTC"}
        self.note.write_text(json.dumps(holder) + "\n", encoding="utf-8")
        return True

    def release(self) -> None:
        """Give the lock back, if this process holds it."""
        if self._lock is None or self._file is None:
            return
        if self._is_at_path(self._file):  # Otherwise the folder was replaced, and these are the files of another job.
            self.note.unlink(missing_ok=True)
            with suppress(PermissionError):  # Windows deletes no open file.
                self.path.unlink(missing_ok=True)
        self._lock.release()
        self._file.close()
        self._lock = self._file = None

    def delete_if_left(self) -> None:
        """Delete the files of a process that was killed while it held the lock, where that is possible."""
        with suppress(OSError):  # The folder may be read-only.
            if self.path.exists() and self.acquire():
                self.release()

    def holder(self) -> str:
        """Who holds the lock, for messages, such as `process 17 on gpu1 since 2026-01-31 09:30:00 UTC`."""
        note = self._read_note()
        for _ in range(_NOTE_TRIES):
            if note is not None and _may_be_alive(note):
                return f"process {note['process']} on {note['host']} since {note['since']}"
            time.sleep(_SECONDS_BETWEEN_TRIES)  # The holder has not written its note yet.
            note = self._read_note()
        if note is None:
            return "another process, which left no note"
        return f"a process started by process {note['process']} on {note['host']}, which held it since {note['since']}"

    def _try(self) -> bool:
        """Lock the file that is at the path, which the last holder may delete after it was opened here.

        Returns:
            `bool`: Whether nobody else holds the lock.
        """
        while True:
            lock, file = FileLock(self.path, **_NO_FALLBACK), open(self.path, "ab")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                file.close()
                return False
            except (NotImplementedError, OSError) as error:
                file.close()
                if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                    raise
                self.path.unlink(missing_ok=True)
                logger.warning(
                    "The file system of %s has no locks (flock), so nothing keeps other jobs from writing to the same "
                    "files. Start one at a time.",
                    self.path.parent,
                )
                return True
            # While it is open, no other file gets its number: so if it is at the path now, it was all the time.
            if self._is_at_path(file):
                self._lock, self._file = lock, file
                return True
            lock.release()
            file.close()

    def _is_at_path(self, file: IO[bytes]) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _read_note(self) -> dict[str, Any] | None:
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            return {name: note[name] for name in ("process", "host", "since")}
        except (OSError, ValueError, TypeError, KeyError):
            return None


def _may_be_alive(note: dict[str, Any]) -> bool:
    if note["host"] != socket.gethostname() or not isinstance(note["process"], int) or os.name == "nt":
        return True
    try:
        os.kill(note["process"], 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True
