"""Files of records (JSON Lines, a large JSON array, CSV, Parquet, Arrow), read one record at a time.

JSON arrays have their own parser: ijson is a fifth faster, but it gives no line numbers, reads an object as an empty
array and half a surrogate pair as `?`, and refuses NaN, integers over 64 bits and UTF-16.
"""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.compression import compression, open_bytes, whole
from dgr_trainer.files.delimited import csv_rows, named_rows
from dgr_trainer.files.lines import existing_file, file_kind, json_lines, line_location

Record = dict[str, Any]
_CHUNK = 2**20
_ARROW_ERRORS = (pa.ArrowException, OSError)


@dataclass(frozen=True)
class Records:
    """The records of a file.

    Args:
        rows (`Iterable[tuple[int, dict]]`): Number of a record (its line or row) and the record; read once.
        location (`Callable[[int], str]`): How errors name the record of that number.
    """

    rows: Iterable[tuple[int, Record]]
    location: Callable[[int], str]

    def peek(self) -> tuple[Records, frozenset[str]]:
        """The same records again, since this object is used up, and the fields of the first one."""
        rows = iter(self.rows)
        first = next(rows, None)
        if first is None:
            return self, frozenset()
        return Records(chain([first], rows), self.location), frozenset(first[1])


def read_records(path: str | os.PathLike[str]) -> Records:
    """Read the records of a file as they are needed.

    Args:
        path (`str` or `os.PathLike`):
            `.jsonl`, `.ndjson` or `.json` (JSON Lines, or one array of objects) and `.csv` with a first line of names,
            each also compressed; `.parquet`; `.arrow` or `.feather` (Arrow IPC).

    Returns:
        [`Records`]

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the name does not tell the format; while reading, if the file is malformed.
    """
    path = existing_file(path)
    kind = file_kind(path)
    if kind == "jsonl":
        return json_records(path)
    if kind == "csv":
        return Records(named_rows(path, csv_rows(path)), partial(line_location, path))
    if kind in ("parquet", "arrow"):
        return Records(_table_rows(path, kind), lambda number: f"{path}, row {number}")
    raise DGRValueError(f"{path}: the name does not tell the format. Name it .jsonl, .json, .csv, .parquet or .arrow.")


def json_records(path: str | os.PathLike[str]) -> Records:
    """The records of a JSON file of any name: objects, one a line, or one array of them."""
    path = existing_file(path)
    rows = json_array(path) if _first_character(path) == "[" else json_lines(path)
    return Records(rows, partial(line_location, path))


def json_array(path: str | os.PathLike[str]) -> Iterator[tuple[int, Record]]:
    """Read a JSON array of objects of any size; only a little more than one object is held in memory.

    Args:
        path (`str` or `os.PathLike`): The file, UTF-8 (or UTF-16 with a byte order mark), perhaps compressed.

    Yields:
        `tuple[int, dict]`: Number of the line on which an object begins (from 1) and the object.

    Raises:
        ValueError: if the file is no array of objects, or ends before the array does.
    """
    text = _Window(existing_file(path))
    if text.skip() != "[":
        raise DGRValueError(f"{text.location()}: a JSON array was expected, which begins with '['.")
    text.advance(1)
    first = True
    while True:
        sign = text.skip()
        if sign == "]":
            text.advance(1)
            break
        if not first:
            if sign != ",":
                raise DGRValueError(
                    f"{text.location()}: expected ',' or ']' after an object of the array, not {sign!r}."
                )
            text.advance(1)
            sign = text.skip()
        first = False
        number = text.line
        record = text.value()
        if not isinstance(record, dict):
            raise DGRValueError(f"{line_location(text.path, number)}: the array holds {record!r:.60}, not an object.")
        yield number, record
    rest = text.skip()
    if rest:
        raise DGRValueError(
            f"{text.location()}: more follows after the end of the array. Is this JSON Lines (.jsonl)?"
        )


def json_object(path: str | os.PathLike[str]) -> Record | None:
    """Read the one JSON object that a file holds.

    Args:
        path (`str` or `os.PathLike`): The file, UTF-8 (or UTF-16 with a byte order mark), perhaps compressed.

    Returns:
        `dict`, *optional*: The object; `None` if the file holds an array, or an object on each of several lines.

    Raises:
        ValueError: if it begins like an object but is not JSON.
    """
    path = existing_file(path)
    if _first_character(path) != "{":
        return None
    try:
        with open_bytes(path) as stream, whole(path, [0], "byte"):
            data = stream.read()
            content = json.loads(data.decode(_encoding(data)))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return None
        raise DGRValueError(f"{line_location(path, error.lineno)}: not JSON ({error.msg}).") from None
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise DGRValueError(
            f"{line_location(path, number)}: not UTF-8 ({error.reason}). Convert the file to UTF-8."
        ) from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, DGRValueError):
            raise
        raise DGRValueError(f"{path}: an object that cannot be read ({error}).") from None
    return content if isinstance(content, dict) else None


def read_table(path: str | os.PathLike[str]) -> pa.Table:
    """Read a whole table.

    Args:
        path (`str` or `os.PathLike`): `.parquet`, or `.arrow` or `.feather` (Arrow IPC), which is memory-mapped.

    Raises:
        ValueError: if the file is compressed as a whole, or malformed.
    """
    path = existing_file(path)
    kind = file_kind(path)
    _refuse_compressed_table(path)
    try:
        if kind == "parquet":
            return pa.parquet.read_table(path, partitioning=None)
        with pa.memory_map(str(path)) as source:
            try:
                return pa.ipc.open_file(source).read_all()
            except pa.ArrowInvalid:
                source.seek(0)
                return pa.ipc.open_stream(source).read_all()
    except _ARROW_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # An error of the disk, not of Arrow.
        raise DGRValueError(f"{path}: no whole {kind.capitalize()} file: {error}") from None


class _Window:
    """The part of a JSON text that is being parsed, refilled from the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line = 1
        self._chunks = self._read()
        self._text = ""
        self._position = 0
        self._ended = False
        self._decoder = json.JSONDecoder()

    def location(self) -> str:
        return line_location(self.path, self.line)

    def skip(self) -> str:
        """Skip white space and return the character that follows, or `""` at the end."""
        while True:
            while self._position < len(self._text):
                letter = self._text[self._position]
                if letter not in " \t\r\n":
                    return letter
                self.line += letter == "\n"
                self._position += 1
            if not self._fill():
                return ""

    def advance(self, count: int) -> None:
        self.line += self._text.count("\n", self._position, self._position + count)
        self._position += count

    def value(self) -> Any:
        """Read the JSON value that begins here."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                # An error near the end, or a string that does not end, may only mean that more has to be read.
                open_end = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - 16
                if open_end and self._fill():
                    continue
                line = self.line + self._text.count("\n", self._position, error.pos)
                if open_end:
                    raise DGRValueError(
                        f"{line_location(self.path, line)}: the file ends inside the object that begins on line "
                        f"{self.line}. "
                        "It is cut off: fetch or write it again."
                    ) from None
                raise DGRValueError(f"{line_location(self.path, line)}: not JSON ({error.msg}).") from None
            except (ValueError, RecursionError) as error:  # A number that is too long, or nested too deeply.
                raise DGRValueError(f"{self.location()}: an object that cannot be read ({error}).") from None
            self.advance(end - self._position)
            return value

    def _fill(self) -> bool:
        """Read at least as much as is not yet parsed; `False` at the end of the file."""
        unparsed = self._text[self._position :]
        parts, size = [unparsed], 0
        while not self._ended and size <= len(unparsed):
            part = next(self._chunks, None)
            if part is None:
                self._ended = True
            else:
                parts.append(part)
                size += len(part)
        self._text, self._position = "".join(parts), 0
        return size > 0

    def _read(self) -> Iterator[str]:
        lines = [0]
        with open_bytes(self.path) as stream, whole(self.path, lines):
            decode = codecs.getincrementaldecoder(_encoding(stream.peek(2)))().decode
            while chunk := stream.read(_CHUNK):
                try:
                    text = decode(chunk)
                except UnicodeDecodeError as error:
                    before = lines[0] + chunk[: error.start].count(b"\n") + 1
                    raise DGRValueError(
                        f"{line_location(self.path, before)}: not UTF-8 ({error.reason}). Convert the file to UTF-8."
                    ) from None
                lines[0] += chunk.count(b"\n")
                yield text


def _first_character(path: Path) -> str:
    with open_bytes(path) as stream, whole(path, [0]):
        head = stream.read(4096)
    return head.decode(_encoding(head), "ignore").lstrip()[:1]


def _encoding(head: bytes) -> str:
    """The encoding of a JSON text by its first bytes."""
    return "utf-16" if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _table_rows(path: Path, kind: str) -> Iterator[tuple[int, Record]]:
    _refuse_compressed_table(path)
    number = 0
    try:
        for batch in _parquet_batches(path) if kind == "parquet" else _arrow_batches(path):
            for record in batch.to_pylist():
                number += 1
                yield number, record
    except (*_ARROW_ERRORS, UnicodeDecodeError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # An error of the disk, not of Arrow.
        raise DGRValueError(
            f"{path}: no whole {kind.capitalize()} file: {error} It was read up to row {number}."
        ) from None


def _refuse_compressed_table(path: Path) -> None:
    if compression(path):
        raise DGRValueError(f"{path}: a table compressed as a whole is not read in parts. Decompress it first.")


def _parquet_batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.parquet.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=1000)


def _arrow_batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as source:
        try:
            file = pa.ipc.open_file(source)
            batches: Iterable[pa.RecordBatch] = (file.get_batch(at) for at in range(file.num_record_batches))
        except pa.ArrowInvalid:
            source.seek(0)
            batches = pa.ipc.open_stream(source)
        for batch in batches:
            for start in range(0, batch.num_rows, 1000):
                yield batch.slice(start, 1000)
