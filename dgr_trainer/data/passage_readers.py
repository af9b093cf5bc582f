"""Corpus files, passage by passage: files of records, tab-separated text, and rows of a dataset."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from dgr_trainer.data.formats import huggingface
from dgr_trainer.data.passages import FIELDS, ID_NAMES, PassageRows, passage_row
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.lines import location, numbered_lines
from dgr_trainer.files.records import read_records

_DPR_COLUMNS = ["id", "text", "title"]


def record_rows(path: str | os.PathLike[str]) -> PassageRows:
    """The passages of a file of records (JSON Lines, a JSON array, Parquet, Arrow; see [`read_records`]).

    Its fields are `id` (or `_id`), `title`, `text`, `pseudo_queries`, `docid`. All but the id may be missing, and
    other fields (BEIR's `metadata`) are ignored, but a file whose first record has neither `title` nor `text` is
    refused.
    """
    records = read_records(path)

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        first = True
        for number, record in records.rows:
            where = records.location(number)
            names = [name for name in ID_NAMES if name in record]
            if not names:
                raise DGRValueError(
                    f"{where}: no field 'id' or '_id'. The fields found are {sorted(record)}. Name the one to use in "
                    "place of the path: hf:PATH,id=FIELD."
                )
            if first and "title" not in record and "text" not in record:
                raise DGRValueError(
                    f"{where}: no field 'title' and no field 'text'. The fields found are {sorted(record)}. Name the "
                    "one to use in place of the path: hf:PATH,text=FIELD."
                )
            first = False
            values = {name: record.get(name) for name in FIELDS[1:]}
            yield number, passage_row(where, id=record[names[0]], **values)

    return PassageRows(rows(), records.location, os.fspath(path))


def tsv_rows(path: str | os.PathLike[str], *, quoted: bool | None = None) -> PassageRows:
    """The passages of a tab-separated file.

    A first line that names a column `id` (or `_id`) and a column `title` or `text` is a header: it tells the columns,
    in any order. Without a header, two columns are `id`, `text` (MS MARCO), and three are `id`, `title`, `text`.

    Args:
        path (`str` or `os.PathLike`): the file.
        quoted (`bool`, *optional*): whether a cell in double quotes is meant without them, `""` inside being one
            quote. By default it is if the header is that of DPR's `psgs_w100.tsv` (`id`, `text`, `title`); else
            quotes are text (as in MS MARCO).
    """

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        columns: list[str] | None = None
        strip_quotes = bool(quoted)
        for number, line in numbered_lines(path):
            where = location(path, number)
            cells = line.split("\t")
            if columns is None:
                header = tsv_header(cells)
                columns = header or _columns_without_header(where, cells)
                if "pseudo_queries" in columns:
                    raise DGRValueError(
                        f"{where}: a list of pseudo_queries does not fit a cell. Use a JSON Lines file."
                    )
                if header:
                    strip_quotes = columns == _DPR_COLUMNS if quoted is None else quoted
                    continue
            if len(cells) != len(columns):
                raise DGRValueError(
                    f"{where}: {len(cells)} columns, but {len(columns)} are expected ({', '.join(columns)}). "
                    "Text must hold no tabs and no line ends; a JSON Lines file can hold both."
                )
            values = dict(zip(columns, map(_unquote, cells) if strip_quotes else cells, strict=True))
            yield number, passage_row(where, id=values["id"], **{name: values.get(name) for name in FIELDS[1:]})

    return PassageRows(rows(), partial(location, path), os.fspath(path))


def dataset_rows(dataset: Any, columns: Mapping[str, str]) -> PassageRows:
    """The passages of a `datasets.Dataset` or `IterableDataset`, whose column `columns[field]` holds the field."""

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, row in huggingface.rows(dataset, columns):
            values = {name: row.get(name) for name in FIELDS}
            yield number, passage_row(f"row {number} of the dataset", **values)

    return PassageRows(rows(), lambda number: f"row {number}", "the dataset")


def tsv_header(cells: Sequence[str]) -> list[str] | None:
    """The columns that a header names, or `None` if the cells are no header."""
    names = ["id" if name in ID_NAMES else name for name in (cell.strip().lower() for cell in cells)]
    return names if "id" in names and ("text" in names or "title" in names) else None


def _columns_without_header(where: str, cells: Sequence[str]) -> list[str]:
    if len(cells) == 2:
        return ["id", "text"]
    if len(cells) == 3:
        return ["id", "title", "text"]
    raise DGRValueError(
        f"{where}: {len(cells)} columns. Without a header, a file has two (id, text) or three (id, title, text); "
        "with any others its first line has to name them, separated by tabs."
    )


def _unquote(cell: str) -> str:
    if len(cell) >= 2 and cell.startswith('"') and cell.endswith('"'):
        return cell[1:-1].replace('""', '"')
    return cell
