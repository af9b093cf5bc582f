"""Scores that survive everything: an append-only store of the score of each query and passage under a model.

A folder of one sub-folder a model, in which every writer appends blocks to a shard of its own. A block that was cut
short by a crash is not read. When writers have finished, shards are merged into one file, in one step.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import struct
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

import numpy as np

from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.atomic import atomic_write

try:
    import fcntl
except ImportError:  # Windows refuses to delete a file that is open, which serves as well.
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

KEY = np.dtype("S16")
_RECORD = np.dtype([("key", KEY), ("score", "<f8")])
_HEAD = struct.Struct("<4sII")  # magic, number of records, checksum of the records
_MAGIC = b"dgrS"
_SUFFIX = ".scores"
_MERGED = "merged" + _SUFFIX
_RECORDS_A_BLOCK = 1 << 20
_SECONDS_TO_DISK = 5.0  # A killed process loses nothing; a machine that loses its power, at most so much.


def content_key(query: bytes, passage: bytes) -> bytes:
    """The 16 bytes under which the score of a query and a passage is kept: a hash of what the model reads of them."""
    digest = hashlib.blake2b(len(query).to_bytes(8, "little"), digest_size=16)
    digest.update(query)
    digest.update(passage)
    return digest.digest()


class ScoreStore:
    """The scores of one model in a folder that may hold those of several. Use as a context manager.

    Args:
        path (`str` or `os.PathLike`): the folder; made if it is not there.
        settings (`Mapping[str, object]`): what scores depend on beside query and passage (weights, templates,
            precision), in JSON types. Other settings are another sub-folder: scores are never mixed.

    Raises:
        NotADirectoryError: if `path` is a file.
        ValueError: if a file of the folder is no file of scores.
    """

    def __init__(self, path: str | os.PathLike[str], settings: Mapping[str, object]):
        root = Path(path)
        if root.exists() and not root.is_dir():
            raise NotADirectoryError(f"{root} is a file, but scores are kept in a folder. Give the path of a folder.")
        text = json.dumps(dict(settings), sort_keys=True, indent=2, ensure_ascii=False)
        self.folder = root / hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "settings.json").is_file():
            with atomic_write(self.folder / "settings.json") as file:
                file.write(text + "\n")
        self._shard: int | None = None
        self._synchronised = time.monotonic()
        found = self._read_all()
        self._keys, first = np.unique(found["key"], return_index=True)
        self._scores = found["score"][first]

    def __len__(self) -> int:
        return len(self._keys)

    def scores(self, keys: np.ndarray) -> np.ndarray:
        """Look up scores among those that were there when the store was opened.

        Args:
            keys (`np.ndarray` of shape `(n,)`, 16 bytes each): what `content_key` gave.

        Returns:
            `np.ndarray` of shape `(n,)`, float64: the scores, NaN where there is none.
        """
        if not len(self._keys):
            return np.full(len(keys), np.nan)
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[places] == keys, self._scores[places], np.nan)

    def add(self, keys: np.ndarray, scores: np.ndarray) -> None:
        """Append scores as one block, which a later reader finds whole or not at all.

        Args:
            keys (`np.ndarray` of shape `(n,)`, 16 bytes each): what `content_key` gave.
            scores (`np.ndarray` of shape `(n,)`, float64): finite scores.
        """
        if self._shard is None:
            self._open_shard()
        assert self._shard is not None
        records = np.empty(len(keys), dtype=_RECORD)
        records["key"], records["score"] = keys, scores
        whole = os.lseek(self._shard, 0, os.SEEK_CUR)
        try:
            _write(self._shard, _block(records))
        except BaseException:
            os.ftruncate(self._shard, whole)
            os.lseek(self._shard, whole, os.SEEK_SET)
            raise
        if time.monotonic() - self._synchronised > _SECONDS_TO_DISK:
            os.fsync(self._shard)
            self._synchronised = time.monotonic()

    def merge(self) -> None:
        """Put all shards that nobody writes to into one file. Whatever stops it, no score is lost."""
        self.close()
        held: list[tuple[Path, int]] = []
        try:
            for path in sorted(self.folder.glob(f"*{_SUFFIX}")):
                if path.name != _MERGED and (descriptor := _lock(path)) is not None:
                    held.append((path, descriptor))
            if not held:
                return
            parts = [_read(path) for path in (self.folder / _MERGED, *(path for path, _ in held)) if path.exists()]
            records = np.concatenate(parts)
            keys, first = np.unique(records["key"], return_index=True)
            with atomic_write(self.folder / _MERGED, "wb") as file:
                for start in range(0, len(keys), _RECORDS_A_BLOCK):
                    file.write(_block(records[first[start : start + _RECORDS_A_BLOCK]]))
            for path, _ in held:
                path.unlink(missing_ok=True)
        finally:
            for _, descriptor in held:
                os.close(descriptor)

    def close(self) -> None:
        """Write everything to the disk and let others merge it."""
        if self._shard is not None:
            os.fsync(self._shard)
            os.close(self._shard)
            self._shard = None

    def __enter__(self) -> ScoreStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_shard(self) -> None:
        while True:
            path = self.folder / f"{uuid.uuid4().hex}{_SUFFIX}"
            shard = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o644)
            if fcntl is not None:
                fcntl.flock(shard, fcntl.LOCK_EX)
            if path.exists():
                self._shard = shard
                return
            os.close(shard)  # Another process has merged it before it was locked.

    def _read_all(self) -> np.ndarray:
        while True:
            paths = sorted(self.folder.glob(f"*{_SUFFIX}"), key=lambda path: (path.name != _MERGED, path.name))
            try:
                return np.concatenate([np.empty(0, _RECORD), *(_read(path) for path in paths)])
            except FileNotFoundError:
                continue  # Another process has merged it meanwhile.


def _block(records: np.ndarray) -> bytes:
    payload = records.tobytes()
    return _HEAD.pack(_MAGIC, len(records), zlib.crc32(payload)) + payload


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _read(path: Path) -> np.ndarray:
    return np.concatenate([np.empty(0, _RECORD), *_blocks(path)])


def _blocks(path: Path) -> Iterator[np.ndarray]:
    data = path.read_bytes()
    if not _MAGIC.startswith(data[:4].rstrip(b"\0")):
        raise DGRValueError(f"{path} is no file of scores. Move it away, or give another folder.")
    place = 0
    while place + _HEAD.size <= len(data):
        magic, count, checksum = _HEAD.unpack_from(data, place)
        payload = data[place + _HEAD.size : place + _HEAD.size + count * _RECORD.itemsize]
        whole = magic == _MAGIC and len(payload) == count * _RECORD.itemsize and zlib.crc32(payload) == checksum
        if not whole:
            break
        yield np.frombuffer(payload, _RECORD)
        place += _HEAD.size + len(payload)
    if place < len(data):
        logger.warning("%s was cut short; its last %d bytes are not used.", path, len(data) - place)


def _lock(path: Path) -> int | None:
    """A descriptor that holds a shard which nobody writes to; `None` if somebody does, or it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, PermissionError):
        return None
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
    return descriptor
