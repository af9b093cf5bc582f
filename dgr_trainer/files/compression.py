"""Compressed files: read and written according to their names, with clear errors if one is damaged."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.atomic import atomic_write

_MAGIC = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd", ".bz2": b"BZh", ".xz": b"\xfd7zXZ\x00"}
_NAMES = {".gz": "gzip", ".zst": "Zstandard", ".bz2": "bzip2", ".xz": "XZ"}
SUFFIXES = tuple(_NAMES)
_CHUNK = 2**20


class DamagedFileError(DGRValueError):
    """A compressed file is cut off or damaged."""


def compression(path: str | os.PathLike[str]) -> str:
    """The compression of a file by its name: `".gz"`, `".zst"`, `".bz2"`, `".xz"` or `""`."""
    suffix = Path(path).suffix.lower()
    return suffix if suffix in SUFFIXES else ""


def plain_name(path: str | os.PathLike[str]) -> str:
    """The name of a file without the suffix of a compression."""
    name = Path(path).name
    return name[: len(name) - len(compression(path))]


def name_as_text(path: str | os.PathLike[str]) -> str:
    """A path as text that can be written, whatever the encoding of the process; what is no UTF-8 is replaced."""
    return os.fsencode(path).decode("utf-8", "replace")


def open_bytes(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a file for reading bytes, decompressing it.

    Args:
        path (`str` or `os.PathLike`):
            The file; gzip if its name ends in `.gz`, Zstandard if in `.zst`, bzip2 if in `.bz2`, XZ if in `.xz`. It
            may hold several compressed parts one after the other.
    """
    suffix = compression(path)
    if not suffix:
        return open(path, "rb")
    return io.BufferedReader(cast(io.RawIOBase, _OPENERS[suffix](os.fspath(path))))


_OPENERS: dict[str, Callable[[str], Any]] = {
    ".gz": lambda path: gzip.open(path, "rb"),
    ".zst": lambda path: pa.CompressedInputStream(pa.OSFile(path), "zstd"),
    ".bz2": lambda path: bz2.open(path, "rb"),
    ".xz": lambda path: lzma.open(path, "rb"),
}


@contextmanager
def atomic_text(path: str | os.PathLike[str]) -> Iterator[IO[str]]:
    r"""Open a text file that replaces `path` only after everything was written; see [`atomic_write`].

    Args:
        path (`str` or `os.PathLike`):
            The file; compressed if its name ends in `.gz`, `.zst`, `.bz2` or `.xz`. Equal texts give equal bytes.

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
    if suffix == ".bz2":
        return bz2.BZ2File(raw, "wb")
    if suffix == ".xz":
        return lzma.LZMAFile(raw, "wb")
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
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        suffix = compression(path)
        if not suffix or (isinstance(error, OSError) and error.errno is not None):
            raise  # An error of the disk, not of the decompressor.
        name = _NAMES[suffix]
        if progress[0] == 0 and not _begins_as(path, suffix):
            raise DamagedFileError(
                f"{os.fspath(path)}: the name ends in {suffix}, but this is no {name} file. Name it without {suffix}, "
                "or fetch it again."
            ) from None
        cut = isinstance(error, EOFError) or "Truncated" in str(error)
        raise DamagedFileError(
            f"{os.fspath(path)}: the {name} file is {'cut off' if cut else 'damaged'} after {unit} {progress[0]} "
            f"({error}). Fetch or write it again."
        ) from None


@contextmanager
def undamaged(*paths: str | os.PathLike[str]) -> Iterator[None]:
    """Before an error about what compressed files hold is told, make sure that the files are as they were written.

    A damaged byte often decompresses to other text, which is malformed somewhere, while the checksum that shows the
    damage comes at the end of the file.

    Args:
        paths (`str` or `os.PathLike`): The files that are read in the block.

    Raises:
        ValueError: if reading failed and a file is damaged or cut off; otherwise the error of the block.
    """
    try:
        yield
    except DamagedFileError:
        raise
    except (ValueError, TypeError, RecursionError) as error:
        for path in filter(compression, paths):
            try:
                with open_bytes(path) as stream, whole(path, [0], "byte"):
                    while stream.read(_CHUNK):
                        pass
            except DamagedFileError as damage:
                raise DamagedFileError(
                    f"{os.fspath(path)}: the {_NAMES[compression(path)]} file is damaged: its checksum is not that of "
                    f"its contents, or it ends too early ({damage.__context__}). That is why it could not be read "
                    f"({error}). Fetch or write it again."
                ) from None
        raise


def _begins_as(path: str | os.PathLike[str], suffix: str) -> bool:
    with open(path, "rb") as file:
        return file.read(len(_MAGIC[suffix])) == _MAGIC[suffix]
