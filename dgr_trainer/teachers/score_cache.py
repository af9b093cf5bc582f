"""A cache on disk for the scores that models give to pairs of query and passage: one SQLite file per model.

Scores are committed about once a second, so a killed process loses a second of work at most, and several processes may
read and write at the same time without waiting for each other.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np

from dgr_trainer.errors import DGRValueError

KEY = np.dtype("S16")
_SECONDS_PER_COMMIT = 1.0
_SECONDS_TO_WAIT = 60.0  # for other processes that write to the same file
_KEYS_PER_LOOKUP = 30_000  # SQLite takes at most 32,766 parameters
# The rollback journal also works on network disks, which the write-ahead log does not. FULL costs a few syncs a
# second, and every committed score survives a power failure.
_SCHEMA = """
PRAGMA journal_mode = DELETE;
PRAGMA synchronous = FULL;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS settings (json TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS scores (key BLOB PRIMARY KEY, score REAL NOT NULL) WITHOUT ROWID;
COMMIT;
"""


def content_key(query: bytes, passage: bytes) -> bytes:
    """Return the key of a score: a hash, 16 bytes long, of what the model reads of the query and the passage."""
    digest = hashlib.blake2b(len(query).to_bytes(8, "little"), digest_size=16)
    digest.update(query)
    digest.update(passage)
    return digest.digest()


class ScoreCache:
    """The cached scores of one model, in a folder that may contain those of several models. Use as a context manager.

    Args:
        path (`str` or `os.PathLike`): Folder of the cache; created if it does not exist.
        settings (`Mapping[str, object]`): What scores depend on besides query and passage (weights, templates,
            precision), in JSON types. Other settings get another file: scores are never mixed.

    Raises:
        NotADirectoryError: if `path` is a file.
        OSError: if the file cannot be read or written.
        ValueError: if the folder was written by a version before SQLite, or its file is damaged.
    """

    def __init__(self, path: str | os.PathLike[str], settings: Mapping[str, object]):
        folder = Path(path)
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"{folder} is a file, but a cache of scores is a folder. Give another path.")
        if old := next(folder.glob("*/*.scores"), None):
            raise DGRValueError(
                f"{folder} contains scores in a format that is no longer read, such as {old.relative_to(folder)}. "
                "Delete the folder or give another one; the scores are then computed again."
            )
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(dict(settings), sort_keys=True, ensure_ascii=False)
        self.file = folder / f"{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}.sqlite3"
        with _clear_errors(self.file):
            # Without an isolation level, transactions begin and end only where the code says so.
            self._connection = sqlite3.connect(self.file, timeout=_SECONDS_TO_WAIT, isolation_level=None)
            try:
                self._connection.executescript(_SCHEMA)
                self._connection.execute("INSERT OR IGNORE INTO settings VALUES (?)", (text,))
            except BaseException:
                self._connection.close()
                raise
        self._pending: list[tuple[bytes, float]] = []
        self._committed = time.monotonic()

    def __len__(self) -> int:
        self.commit()
        with _clear_errors(self.file):
            return int(self._connection.execute("SELECT count(*) FROM scores").fetchone()[0])

    def scores(self, keys: np.ndarray) -> np.ndarray:
        """Look up scores.

        Args:
            keys (`np.ndarray` of shape `(n,)`, 16 bytes each): Results of `content_key`.

        Returns:
            `np.ndarray` of shape `(n,)`, float64: The scores, NaN for a key that has none.
        """
        self.commit()
        blobs = keys.tolist()
        known: dict[bytes, float] = {}
        with _clear_errors(self.file):
            for start in range(0, len(blobs), _KEYS_PER_LOOKUP):
                chunk = blobs[start : start + _KEYS_PER_LOOKUP]
                marks = ",".join("?" * len(chunk))
                known.update(self._connection.execute(f"SELECT key, score FROM scores WHERE key IN ({marks})", chunk))
        return np.array([known.get(blob, np.nan) for blob in blobs], dtype=np.float64)

    def add(self, keys: np.ndarray, scores: np.ndarray) -> None:
        """Add scores. They are committed together with those of the same second; known keys keep their score.

        Args:
            keys (`np.ndarray` of shape `(n,)`, 16 bytes each): Results of `content_key`.
            scores (`np.ndarray` of shape `(n,)`, float64): Finite scores.
        """
        self._pending += zip(keys.tolist(), scores.tolist(), strict=True)
        if time.monotonic() - self._committed >= _SECONDS_PER_COMMIT:
            self.commit()

    def commit(self) -> None:
        """Write what was added in one transaction: other readers find all of it or nothing."""
        if self._pending:
            with _clear_errors(self.file):
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    self._connection.executemany("INSERT OR IGNORE INTO scores VALUES (?, ?)", sorted(self._pending))
                    self._connection.execute("COMMIT")
                except BaseException:
                    # Some errors, such as a full disk, have ended the transaction already.
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
            self._pending = []
        self._committed = time.monotonic()

    def close(self) -> None:
        """Commit what was added and close the file."""
        try:
            self.commit()
        finally:
            self._connection.close()

    def __enter__(self) -> ScoreCache:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def _clear_errors(file: Path) -> Iterator[None]:
    """Raise the errors of SQLite as errors that name the file and say what to do."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OSError(
            f"The cache of scores {file} cannot be used: {error}. Check the free space and permissions of its disk, "
            "and whether another process holds it."
        ) from error
    except sqlite3.DatabaseError as error:
        raise DGRValueError(
            f"The cache of scores {file} is damaged or is not one: {error}. Delete it; its scores are then computed "
            "again."
        ) from error
