"""Long work that can be resumed: a file that grows by one record with every finished chunk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

import pyarrow as pa

from dgr_trainer.errors import DGRValueError


class ChunkFormat(Protocol):
    """How a [`ResumeLog`] stores its records: first the settings, then one record per chunk."""

    def encode_settings(self, settings: Mapping[str, Any]) -> bytes:
        """The first record."""

    def encode(self, chunk: Any) -> bytes:
        """The record of a chunk."""

    def records(self, path: Path, start: int = 0) -> Iterator[tuple[Any, int]]:
        """Yield the complete records of a file, each with the offset of its end, up to one that was cut short.

        Args:
            path (`pathlib.Path`): The file.
            start (`int`, *optional*, defaults to 0): Offset of the first record to read.
        """

    def decode_settings(self, record: Any) -> Mapping[str, Any]:
        """The settings of the first record. Raises a `ValueError` if it holds none."""

    def decode(self, record: Any) -> Any:
        """The chunk of any other record."""


class JSONLines:
    """Chunks are JSON values, one per line of a text file."""

    def encode_settings(self, settings: Mapping[str, Any]) -> bytes:
        """See [`ChunkFormat`]."""
        return self.encode({"settings": dict(settings)})

    def encode(self, chunk: Any) -> bytes:
        """See [`ChunkFormat`]."""
        return json.dumps(chunk, ensure_ascii=False).encode("utf-8") + b"\n"

    def records(self, path: Path, start: int = 0) -> Iterator[tuple[bytes, int]]:
        """See [`ChunkFormat`]."""
        end = start
        with open(path, "rb") as file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                end += len(line)
                yield line, end

    def decode_settings(self, record: bytes) -> Mapping[str, Any]:
        """See [`ChunkFormat`]."""
        first = json.loads(record)
        if not isinstance(first, dict) or not isinstance(first.get("settings"), dict):
            raise DGRValueError("The first line holds no settings.")
        settings: dict[str, Any] = first["settings"]
        return settings

    def decode(self, record: bytes) -> Any:
        """See [`ChunkFormat`]."""
        return json.loads(record)


class ArrowStream:
    """Chunks are record batches; the file is an Arrow IPC stream with the settings in the metadata of its schema.

    Args:
        schema ([`~pyarrow.Schema`]): The schema of every chunk, without dictionary-encoded columns.
    """

    # Every message of an Arrow stream starts with it.
    _CONTINUATION = b"\xff\xff\xff\xff"

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema

    def encode_settings(self, settings: Mapping[str, Any]) -> bytes:
        """See [`ChunkFormat`]."""
        schema = self.schema.with_metadata({"settings": json.dumps(dict(settings))})
        return bytes(schema.serialize())

    def encode(self, chunk: pa.RecordBatch) -> bytes:
        """See [`ChunkFormat`]."""
        return bytes(chunk.serialize())

    def records(self, path: Path, start: int = 0) -> Iterator[tuple[pa.ipc.Message, int]]:
        """See [`ChunkFormat`]."""
        with pa.OSFile(str(path)) as file:
            file.seek(start)
            if not self._CONTINUATION.startswith(file.read(len(self._CONTINUATION))):
                raise DGRValueError("The file is not an Arrow stream.")
            file.seek(start)
            while True:
                try:
                    message = pa.ipc.read_message(file)
                except (EOFError, pa.ArrowInvalid):
                    return
                except OSError as error:
                    if error.errno is not None:  # A failure to read, not a message that was cut short.
                        raise
                    return
                yield message, file.tell()

    def decode_settings(self, record: pa.ipc.Message) -> Mapping[str, Any]:
        """See [`ChunkFormat`]."""
        if record.type != "schema":
            raise DGRValueError("The stream does not start with a schema.")
        schema = pa.ipc.read_schema(record)
        if schema.remove_metadata() != self.schema or b"settings" not in (schema.metadata or {}):
            raise DGRValueError("The stream holds other columns or no settings.")
        settings: dict[str, Any] = json.loads(schema.metadata[b"settings"])
        return settings

    def decode(self, record: pa.ipc.Message) -> pa.RecordBatch:
        """See [`ChunkFormat`]."""
        return pa.ipc.read_record_batch(record, self.schema)


class ResumeLog:
    """A file of finished chunks, which are never held in memory together. Use as a context manager.

    The first record holds the settings that the chunks depend on. A record that a crash cut short is dropped.

    Args:
        path (`str` or `os.PathLike`): The file; created if it does not exist.
        settings (`Mapping[str, Any]`): What the chunks depend on, in JSON types.
        chunk_format ([`ChunkFormat`], *optional*): How chunks are stored; by default as [`JSONLines`].
        read_only (`bool`, *optional*, defaults to `False`): Leave the file as it is, which has to exist.

    Attributes:
        count (`int`): Number of finished chunks.

    Raises:
        ValueError: if the file holds chunks that were made with other settings, or is not such a file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        settings: Mapping[str, Any],
        chunk_format: ChunkFormat | None = None,
        *,
        read_only: bool = False,
    ) -> None:
        self.path = Path(path)
        self._format: ChunkFormat = JSONLines() if chunk_format is None else chunk_format
        self._bounds: list[int] = []  # Offsets of the start of each chunk, and of the end of the last one.
        self._file: IO[bytes] | None = None
        if read_only:
            self._check(dict(settings))
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self._check(dict(settings))
        self._file = open(self.path, "ab")
        self._file.truncate(self._bounds[-1] if self._bounds else 0)
        if not self._bounds:
            self._write(self._format.encode_settings(settings))

    @property
    def count(self) -> int:
        """Number of finished chunks."""
        return max(len(self._bounds) - 1, 0)

    def chunks(self) -> Iterator[Any]:
        """Yield the finished chunks, in order, read from the file."""
        for number in range(self.count):
            yield self.chunk(number)

    def chunk(self, number: int) -> Any:
        """Read a chunk, by its number in the order of the file."""
        record, _ = next(self._format.records(self.path, self._bounds[number]))
        return self._format.decode(record)

    def add(self, chunk: Any) -> None:
        """Append a chunk. It is on the disk when this returns."""
        self._write(self._format.encode(chunk))

    def remove(self) -> None:
        """Delete the file once the work is complete."""
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _write(self, record: bytes) -> None:
        assert self._file is not None
        self._file.write(record)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._bounds.append((self._bounds[-1] if self._bounds else 0) + len(record))

    def _check(self, settings: dict[str, Any]) -> None:
        """Compare the settings and find the complete chunks."""
        records = self._format.records(self.path)
        try:
            first = next(records, None)
            recorded = {} if first is None else self._format.decode_settings(first[0])
        except ValueError:
            raise DGRValueError(
                f"{self.path} does not say how it was made, so it cannot be resumed. Delete it, or give another path."
            ) from None
        if first is None:
            return
        for name, value in settings.items():
            if recorded.get(name) != value:
                raise DGRValueError(
                    f"{self.path} was made with {name}={recorded.get(name)!r}, but now it is {value!r}, so this work "
                    "cannot be resumed. Delete the file, or give another path."
                )
        self._bounds = [first[1], *(end for _, end in records)]

    def __enter__(self) -> ResumeLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
