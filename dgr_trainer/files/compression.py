"""Compressed files: read and written according to their names, with clear errors if one is damaged."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.atomic import atomic_write

SUFFIXES = (".gz", ".zst")


def compression(path: str | os.PathLike[str]) -> str:
    """The compression of a file by its name: `".gz"`, `".zst"` or `""`."""
    suffix = Path(path).suffix.lower()
    return suffix if suffix in SUFFIXES else ""


def plain_name(path: str | os.PathLike[str]) -> str:
    """The name of a file without the suffix of a compression."""
    name = Path(path).name
    return name[: len(name) - len(compression(path))]


def open_bytes(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a file for reading bytes, decompressing it.

    Args:
        path (`str` or `os.PathLike`):
            The file; gzip if its name ends in `.gz`, Zstandard if in `.zst`. It may hold several compressed parts one
            after the other.
    """
    suffix = compression(path)
    if suffix == ".zst":
        return io.BufferedReader(cast(io.RawIOBase, pa.CompressedInputStream(pa.OSFile(os.fspath(path)), "zstd")))
    if suffix == ".gz":
        return io.BufferedReader(cast(io.RawIOBase, gzip.open(path, "rb")))
    return open(path, "rb")


@contextmanager
def atomic_text(path: str | os.PathLike[str]) -> Iterator[IO[str]]:
    r"""Open a text file that replaces `path` only after everything was written; see [`atomic_write`].

    Args:
        path (`str` or `os.PathLike`):
            The file; compressed if its name ends in `.gz` or `.zst`. Equal texts give equal bytes.

    Yields:
        `IO[str]`: A file open for writing UTF-8 with `\n` line ends.
    """
    suffix = compression(path)
    if not suffix:
        with atomic_write(path) as file:
            yield file
        return
    with atomic_write(path, "wb") as raw, _compressor(raw, suffix) as stream:
        with io.TextIOWrapper(stream, encoding="utf-8", newline="\n") as text:
            yield text


def _compressor(raw: IO[bytes], suffix: str) -> Any:
    if suffix == ".gz":
        return gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0)
    # Arrow closes what it writes to, so it gets a separate handle.
    return pa.CompressedOutputStream(os.fdopen(os.dup(raw.fileno()), "wb"), "zstd")


@contextmanager
def whole(path: str | os.PathLike[str], progress: list[int], unit: str = "line") -> Iterator[None]:
    """Turn errors of decompression into errors that name the file and the last complete line.

    Args:
        path (`str` or `os.PathLike`): The file that is read in the block.
        progress (`list[int]`): One number, that of the last complete line; the block keeps it up to date.
        unit (`str`, *optional*, defaults to `"line"`): What the number counts.

    Raises:
        ValueError: if the file is cut off, damaged, or not compressed as its name says.
    """
    try:
        yield
    except (EOFError, zlib.error, OSError) as error:
        suffix = compression(path)
        if not suffix or (isinstance(error, OSError) and error.errno is not None):
            raise  # An error of the disk, not of the decompressor.
        name = {".gz": "gzip", ".zst": "Zstandard"}[suffix]
        if progress[0] == 0 and ("Not a gzipped file" in str(error) or "Unknown frame descriptor" in str(error)):
            raise DGRValueError(
                f"{os.fspath(path)}: the name ends in {suffix}, but this is no {name} file. Name it without {suffix}, "
                "or fetch it again."
            ) from None
        cut = isinstance(error, EOFError) or "Truncated" in str(error)
        raise DGRValueError(
            f"{os.fspath(path)}: the {name} file is {'cut off' if cut else 'damaged'} after {unit} {progress[0]} "
            f"({error}). Fetch or write it again."
        ) from None
