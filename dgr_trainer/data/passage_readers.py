"""Files of passages and rows of datasets, read passage by passage, and the list of file formats."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from dgr_trainer.data.formats import csv_files, huggingface, kilt
from dgr_trainer.data.passages import FIELDS, ID_NAMES, NumberedPassages, passage_row
from dgr_trainer.data.sources import FileFormat, FileSource
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.lines import line_location, numbered_lines

_DPR_COLUMNS = ["id", "text", "title"]


def record_passages(file: FileSource) -> NumberedPassages:
    """The passages of a file of records (JSON Lines, a JSON array, Parquet, Arrow; see [`read_records`]).

    Its fields are `id` (or `_id`), `title`, `text`, `pseudo_queries`, `docid`. All but the id may be missing, and
    other fields (BEIR's `metadata`) are ignored, but a file whose first record has neither `title` nor `text` is
    refused.
    """
    records = file.records()

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        first = True
        for number, record in records.rows:
            location = records.location(number)
            id_name = next((name for name in ID_NAMES if name in record), None)
            if id_name is None:
                raise DGRValueError(
                    f"{location}: no field 'id' or '_id'. The fields found are {sorted(record)}. Name the one to use "
                    "in place of the path: hf:PATH,id=FIELD."
                )
            if first and "title" not in record and "text" not in record:
                raise DGRValueError(
                    f"{location}: no field 'title' and no field 'text'. The fields found are {sorted(record)}. Name "
                    "the one to use in place of the path: hf:PATH,text=FIELD."
                )
            first = False
            values = {name: record.get(name) for name in FIELDS[1:]}
            yield number, passage_row(location, id=record[id_name], **values)

    return NumberedPassages(rows(), records.location, os.fspath(file.path))


def tsv_passages(file: FileSource, *, quoted: bool | None = None) -> NumberedPassages:
    """The passages of a tab-separated file.

    A first line that names a column `id` (or `_id`) and a column `title` or `text` is a header and gives the order of
    the columns. Without a header, two columns are `id`, `text` (MS MARCO), and three are `id`, `title`, `text`.

    Args:
        file ([`FileSource`]): The file.
        quoted (`bool`, *optional*):
            Whether double quotes around a cell are removed, and `""` inside is one quote. By default they are if the
            header is that of DPR's `psgs_w100.tsv` (`id`, `text`, `title`); otherwise quotes are text, as in MS MARCO.
    """

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        columns: list[str] | None = None
        strip_quotes = bool(quoted)
        for number, line in numbered_lines(file.path):
            location = line_location(file.path, number)
            cells = line.split("\t")
            if columns is None:
                header = _header(cells)
                columns = header or _columns_without_header(location, cells)
                if "pseudo_queries" in columns:
                    raise DGRValueError(
                        f"{location}: a list of pseudo_queries does not fit a cell. Use a JSON Lines file."
                    )
                if header:
                    strip_quotes = columns == _DPR_COLUMNS if quoted is None else quoted
                    continue
            if len(cells) != len(columns):
                raise DGRValueError(
                    f"{location}: {len(cells)} columns, but {len(columns)} are expected ({', '.join(columns)}). "
                    "Text must hold no tabs and no line ends; a JSON Lines file can hold both."
                )
            values = dict(zip(columns, map(_unquote, cells) if strip_quotes else cells, strict=True))
            yield number, passage_row(location, id=values["id"], **{name: values.get(name) for name in FIELDS[1:]})

    return NumberedPassages(rows(), partial(line_location, file.path), os.fspath(file.path))


def dataset_passages(dataset: Any, columns: Mapping[str, str]) -> NumberedPassages:
    """The passages of a `datasets.Dataset` or `IterableDataset`, whose column `columns[field]` holds the field."""

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, row in huggingface.rows(dataset, columns):
            values = {name: row.get(name) for name in FIELDS}
            yield number, passage_row(f"row {number} of the dataset", **values)

    return NumberedPassages(rows(), lambda number: f"row {number}", "the dataset")


FORMATS: tuple[FileFormat[NumberedPassages], ...] = (
    FileFormat("CSV", csv_files.recognises, csv_files.passages),
    FileFormat("TSV", lambda file: file.kind == "tsv", tsv_passages),
    FileFormat("KILT pages", kilt.is_knowledge_source, kilt.pages),
    FileFormat("records", lambda file: file.holds_records, record_passages),
)
"""File formats of passages: the first that recognises a file reads it."""


def _header(cells: Sequence[str]) -> list[str] | None:
    """The columns that a header names; `None` if the cells are no header."""
    names = ["id" if name in ID_NAMES else name for name in (cell.strip().lower() for cell in cells)]
    return names if "id" in names and ("text" in names or "title" in names) else None


def _columns_without_header(location: str, cells: Sequence[str]) -> list[str]:
    if len(cells) == 2:
        return ["id", "text"]
    if len(cells) == 3:
        return ["id", "title", "text"]
    raise DGRValueError(
        f"{location}: {len(cells)} columns. Without a header, a file has two (id, text) or three (id, title, text); "
        "with any others its first line has to name them, separated by tabs."
    )


def _unquote(cell: str) -> str:
    if len(cell) >= 2 and cell.startswith('"') and cell.endswith('"'):
        return cell[1:-1].replace('""', '"')
    return cell
