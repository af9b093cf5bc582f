"""Text files of columns that their first line names: comma-separated and tab-separated. All values are strings."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.lines import line_location, numbered_lines

_LONGEST_CELL = 2**31 - 1


def csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Read the rows of a comma-separated file, the header among them.

    Cells may be in double quotes, with `""` for a quote; then they may hold commas and line ends. Lines without
    characters between rows are skipped.

    Args:
        path (`pathlib.Path`): The file, read by [`numbered_lines`].

    Yields:
        `tuple[int, list[str]]`: Number of the line on which a row ends (from 1) and its cells.

    Raises:
        ValueError: if quotes are misplaced, or a row has more or fewer cells than the first.
    """
    if csv.field_size_limit() < _LONGEST_CELL:
        csv.field_size_limit(_LONGEST_CELL)  # By default a cell of more than 128 KiB is an error.
    # Blank lines may be part of a quoted text.
    reader = csv.reader((f"{line}\n" for _, line in numbered_lines(path, blank=True)), strict=True)
    columns: list[str] | None = None
    begin = 1
    try:
        for cells in reader:
            begin = reader.line_num + 1
            if not cells:
                continue
            columns = columns or cells
            if len(cells) != len(columns):
                raise DGRValueError(
                    f"{line_location(path, reader.line_num)}: {len(cells)} columns, but {len(columns)} are expected "
                    f"({', '.join(columns)}). Put text that holds commas or line ends in double quotes."
                )
            yield reader.line_num, cells
    except csv.Error as error:
        raise DGRValueError(
            f"{line_location(path, reader.line_num)}: not a line of comma-separated text ({error}); the row begins on "
            f"line {begin}. Check its quotes, or use a JSON Lines file."
        ) from None


def tsv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Read the rows of a tab-separated file, the header among them, if there is one; quotes are text.

    Args:
        path (`pathlib.Path`): The file, read by [`numbered_lines`].

    Yields:
        `tuple[int, list[str]]`: Number of the line (from 1) and its cells.

    Raises:
        ValueError: if a row has more or fewer cells than the first.
    """
    width = 0
    for number, line in numbered_lines(path):
        cells = line.split("\t")
        width = width or len(cells)
        if len(cells) != width:
            raise DGRValueError(
                f"{line_location(path, number)}: {len(cells)} columns, but the first line has {width}. Text must hold "
                "no tabs and no line ends; a JSON Lines file can hold both."
            )
        yield number, cells


def named_rows(path: Path, rows: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, dict[str, str]]]:
    """Turn rows into records by the names in the first one.

    Raises:
        ValueError: if two columns have the same name.
    """
    columns: list[str] | None = None
    for number, cells in rows:
        if columns is None:
            columns = unique_names(line_location(path, number), cells)
        else:
            yield number, dict(zip(columns, cells, strict=True))


def unique_names(location: str, cells: Sequence[str]) -> list[str]:
    """The names in a header. Raises a `ValueError` if one occurs twice, so that a column would be lost."""
    names = [cell.strip() for cell in cells]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise DGRValueError(
            f"{location}: two columns have the name {twice!r}. The first line has to name each column differently."
        )
    return names
