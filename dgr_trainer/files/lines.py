"""Text files read line by line, plain or compressed; every error names its file and line."""

from __future__ import annotations

import codecs
import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.compression import open_bytes, plain_name, whole


def line_location(path: str | os.PathLike[str], number: int) -> str:
    """How errors name a line: `PATH, line 3`."""
    return f"{os.fspath(path)}, line {number}"


def existing_file(path: str | os.PathLike[str]) -> Path:
    """Check that a path is a regular file and no archive; the error says what was found instead."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, but a file is needed. It holds: {listing(path)}.")
    if path.exists() and not path.is_file():
        raise DGRValueError(
            f"{path} is a pipe or a device, but a file is needed that can be read more than once. Write one."
        )
    if not path.is_file():
        there = f" Its folder holds: {listing(path.parent)}." if path.parent.is_dir() else " Nor is its folder."
        raise FileNotFoundError(f"{path} is not there.{there}")
    if plain_name(path).lower().endswith((".tar", ".tgz", ".zip", ".7z", ".rar")):
        raise DGRValueError(f"{path} is an archive of files. Unpack it (tar -xf, unzip), and give the file inside.")
    return path


def listing(folder: Path, limit: int = 12) -> str:
    """The names in a folder, sorted and shortened, for errors."""
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    if not names:
        return "nothing"
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def numbered_lines(path: str | os.PathLike[str], *, blank: bool = False) -> Iterator[tuple[int, str]]:
    """Read the lines of a text file that are not blank.

    Lines end with a line feed, or with a carriage return and a line feed. Other carriage returns are text.

    Args:
        path (`str` or `os.PathLike`):
            A UTF-8 file, or UTF-16 if it begins with that byte order mark; compressed if its name says so (see
            [`open_bytes`]). A byte order mark is skipped.
        blank (`bool`, *optional*, defaults to `False`): Whether to yield blank lines, too, as empty strings.

    Yields:
        `tuple[int, str]`: Number of the line (from 1) and the line without its line end.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line is not in that encoding, lines end with carriage returns alone, or a compressed file is
            cut off or damaged.
    """
    path = existing_file(path)
    done = [0]
    with open_bytes(path) as stream, whole(path, done):
        wide = stream.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        lines: Iterable[bytes | str] = io.TextIOWrapper(stream, "utf-16", newline="\n") if wide else stream
        iterator = iter(lines)
        while True:
            try:
                raw = next(iterator)
                line = raw if isinstance(raw, str) else raw.decode("utf-8")
            except StopIteration:
                return
            except UnicodeDecodeError as error:
                wanted = "UTF-16, which it begins as" if wide else "UTF-8"
                raise DGRValueError(
                    f"{line_location(path, done[0] + 1)}: not {wanted} ({error}). Convert the file to UTF-8."
                ) from None
            done[0] += 1
            if done[0] == 1:
                line = line.removeprefix("\ufeff")
                _check_first(path, line)
            line = line.removesuffix("\n").rstrip("\r")
            if line.strip():
                yield done[0], line
            elif blank:
                yield done[0], ""


def _check_first(path: Path, line: str) -> None:
    """Raise `ValueError` if the first line shows that the file is no text or has other line ends."""
    if 3 * line.count("\x00") > len(line):
        raise DGRValueError(
            f"{line_location(path, 1)}: holds a zero byte for every letter, as UTF-8 does not. UTF-16 needs a byte "
            "order mark, and UTF-32 is not read: convert the file to UTF-8."
        )
    inside = line.rstrip("\r").count("\r")
    if not line.endswith("\n") and (inside > 1 or (inside and line.endswith("\r"))):
        raise DGRValueError(
            f"{line_location(path, 1)}: is all of the file, and holds carriage returns. If they end its lines, "
            "convert them: tr '\\r' '\\n'."
        )


def json_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read a JSON Lines file: one JSON object a line.

    Args:
        path (`str` or `os.PathLike`): The file, read by [`numbered_lines`].

    Yields:
        `tuple[int, dict]`: Number of the line (from 1) and the object.

    Raises:
        ValueError: if a line is no JSON object.
    """
    for number, line in numbered_lines(path):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:  # A ValueError that is no JSONDecodeError: a number too long.
            form = "A JSON Lines file holds one JSON object a line."
            if line.strip() == "{":
                form += " This one is written over several lines: write it on one."
            raise DGRValueError(f"{line_location(path, number)}: not JSON ({error}). {form}") from None
        if not isinstance(record, dict):
            raise DGRValueError(
                f"{line_location(path, number)}: holds a JSON {type(record).__name__}, not an object. "
                "A JSON Lines file holds one JSON object a line."
            )
        yield number, record


def file_kind(path: str | os.PathLike[str]) -> str:
    """The format of a file by its name: `"jsonl"`, `"csv"`, `"tsv"`, `"parquet"`, `"arrow"` or `""`.

    The suffix of a compression at the end is ignored.
    """
    name = plain_name(path).lower()
    for kind, endings in _KINDS.items():
        if name.endswith(endings):
            return kind
    return ""


_KINDS = {
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "csv": (".csv",),
    "tsv": (".tsv", ".txt"),
    "parquet": (".parquet",),
    "arrow": (".arrow", ".feather"),
}
