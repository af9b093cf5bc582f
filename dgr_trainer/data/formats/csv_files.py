"""Passages in comma-separated files whose first line names the columns, as spreadsheets and pandas write them."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

from dgr_trainer.data.passages import FIELDS, ID_NAMES, NumberedPassages, passage_row
from dgr_trainer.data.sources import FileSource
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.lines import line_location, numbered_lines


def recognises(file: FileSource) -> bool:
    """Whether the name ends in `.csv`."""
    return file.name.endswith(".csv")


def passages(file: FileSource) -> NumberedPassages:
    """Read passages: columns `id` (or `_id`), `title` or `text` or both, and perhaps `docid`, in any order.

    Cells may be in double quotes, with `""` for a quote; then they may hold commas and line ends. Other columns are
    ignored.

    Args:
        file ([`FileSource`]): The file.

    Returns:
        [`NumberedPassages`]: The number of a passage is that of the line on which it ends. Reading them raises a
        `ValueError` if the header lacks a column or a line is malformed.
    """
    location = partial(line_location, file.path)

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        columns: list[str] | None = None
        reader = csv.reader(_lines(file), strict=True)
        try:
            for cells in reader:
                if not cells:
                    continue
                if columns is None:
                    columns = _header(location(reader.line_num), cells)
                    continue
                if len(cells) != len(columns):
                    raise DGRValueError(
                        f"{location(reader.line_num)}: {len(cells)} columns, but {len(columns)} are expected "
                        f"({', '.join(columns)}). Put text that holds commas or line ends in double quotes."
                    )
                values = dict(zip(columns, cells, strict=True))
                fields = {name: values.get(name) for name in FIELDS}
                yield reader.line_num, passage_row(location(reader.line_num), **fields)
        except csv.Error as error:
            raise DGRValueError(
                f"{location(reader.line_num)}: not a line of comma-separated text ({error}). Check its quotes, or use "
                "a JSON Lines file."
            ) from None

    return NumberedPassages(rows(), location, os.fspath(file.path))


def _lines(file: FileSource) -> Iterator[str]:
    """All lines with their ends; blank ones, which `numbered_lines` skips, may be part of a quoted text."""
    last = 0
    for number, line in numbered_lines(file.path):
        yield from ["\n"] * (number - last - 1)
        yield line + "\n"
        last = number


def _header(location: str, cells: list[str]) -> list[str]:
    names = ["id" if name in ID_NAMES else name for name in (cell.strip().lower() for cell in cells)]
    if "id" not in names or not {"title", "text"} & set(names):
        raise DGRValueError(
            f"{location}: the first line has to name the columns, an id and a title or a text among them, but it is "
            f"{cells}. Name the ones to use in place of the path: hf:PATH,id=COLUMN,text=COLUMN."
        )
    if "pseudo_queries" in names:
        raise DGRValueError(f"{location}: a list of pseudo_queries does not fit a cell. Use a JSON Lines file.")
    return names
