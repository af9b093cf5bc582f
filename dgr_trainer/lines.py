"""Text files read line by line: UTF-8, plain or gzipped, every error with its file and line."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def place(path: str | os.PathLike[str], number: int) -> str:
    """How errors name a line: `corpus.jsonl, line 3` with the whole path."""
    return f"{os.fspath(path)}, line {number}"


def existing_file(path: str | os.PathLike[str]) -> Path:
    """The path of a file that is there; otherwise an error that says what was found instead."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, but a file is needed. It holds: {listing(path)}.")
    if not path.is_file():
        there = f" Its folder holds: {listing(path.parent)}." if path.parent.is_dir() else " Nor is its folder."
        raise FileNotFoundError(f"{path} is not there.{there}")
    return path


def listing(folder: Path, limit: int = 12) -> str:
    """The names in a folder, sorted and cut, for errors."""
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    if not names:
        return "nothing"
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def numbered_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """Read the lines of a text file that are not blank.

    Args:
        path (`str` or `os.PathLike`): a UTF-8 file, gzipped if its name ends in `.gz`. A byte order mark is skipped.

    Yields:
        `tuple[int, str]`: number of the line (from 1) and the line without its line end.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line is not UTF-8.
    """
    path = existing_file(path)
    with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{place(path, number)}: not UTF-8 ({error}). Convert the file to UTF-8.") from None
            if number == 1:
                line = line.removeprefix("\ufeff")
            line = line.rstrip("\r\n")
            if line.strip():
                yield number, line


def json_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read a JSON Lines file: one JSON object a line.

    Args:
        path (`str` or `os.PathLike`): the file, as [`numbered_lines`] reads it.

    Yields:
        `tuple[int, dict]`: number of the line (from 1) and the object.

    Raises:
        ValueError: if a line is no JSON object.
    """
    for number, line in numbered_lines(path):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{place(path, number)}: not JSON ({error}). A JSON Lines file holds one JSON object a line."
            ) from None
        if not isinstance(record, dict):
            raise ValueError(
                f"{place(path, number)}: holds a JSON {type(record).__name__}, not an object. "
                "A JSON Lines file holds one JSON object a line."
            )
        yield number, record


def file_kind(path: str | os.PathLike[str]) -> str:
    """What the name of a file says about its format: `"jsonl"`, `"tsv"` or `""`; a `.gz` at the end is ignored."""
    name = Path(path).name.lower().removesuffix(".gz")
    if name.endswith((".jsonl", ".ndjson", ".json")):
        return "jsonl"
    return "tsv" if name.endswith((".tsv", ".txt")) else ""
