"""Files of passages and rows of datasets, read passage by passage, and the list of file formats."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from dgr_trainer.data.columns import PASSAGE_COLUMNS, header_columns, warn_of_header
from dgr_trainer.data.formats import huggingface, kilt
from dgr_trainer.data.passages import FIELDS, NumberedPassages, passage_row
from dgr_trainer.data.record_fields import advice, record_fields
from dgr_trainer.data.sources import FileFormat, FileSource
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.lines import line_location, numbered_lines

_DPR_HEADER = ["id", "text", "title"]
_NEEDED = (("id",), ("text", "title"))


def record_passages(file: FileSource) -> NumberedPassages:
    """The passages of a file of records (JSON Lines, a JSON array, CSV, Parquet, Arrow; see [`read_records`]).

    Its fields are `id`, `title`, `text`, `pseudo_queries`, `docid`, or have one of the other names in
    `PASSAGE_COLUMNS`. All but the id may be missing, and other fields (BEIR's `metadata`) are ignored, but a file
    whose first record has neither `title` nor `text` is refused.
    """
    records = file.records()

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        first = True
        for number, values in record_fields(records, PASSAGE_COLUMNS, [("id",)], "a passage", advice(file, _ADVICE)):
            location = records.location(number)
            if first and "title" not in values and "text" not in values:
                raise DGRValueError(
                    f"{location}: a passage needs a title or a text ({', '.join(PASSAGE_COLUMNS['text'])}). The "
                    f"fields found are {sorted(file.fields)}. {advice(file, _ADVICE)}"
                )
            if first and file.kind in ("csv", "tsv") and "pseudo_queries" in values:
                raise DGRValueError(f"{location}: {_NO_LISTS}")
            first = False
            yield number, passage_row(location, **{name: values.get(name) for name in FIELDS})

    return NumberedPassages(rows(), records.location, os.fspath(file.path))


def tsv_passages(file: FileSource, *, quoted: bool | None = None) -> NumberedPassages:
    """The passages of a tab-separated file.

    A first line that names a column of ids and one of titles or texts, by the names in `PASSAGE_COLUMNS`, is a header
    and gives the order of the columns. Without a header, two columns are `id`, `text` (MS MARCO), and three are `id`,
    `title`, `text`; a first line that looks like a header of other names is warned of.

    Args:
        file ([`FileSource`]): The file.
        quoted (`bool`, *optional*):
            Whether double quotes around a cell are removed, and `""` inside is one quote. By default they are if the
            header is that of DPR's `psgs_w100.tsv` (`id`, `text`, `title`); otherwise quotes are text, as in MS MARCO.
    """

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        columns: Sequence[str] | None = None
        unknown_header: Sequence[str] | None = None
        strip_quotes = bool(quoted)
        for number, line in numbered_lines(file.path):
            location = line_location(file.path, number)
            cells = line.split("\t")
            if columns is None:
                header = header_columns(location, cells, PASSAGE_COLUMNS, _NEEDED)
                if header is not None and "pseudo_queries" in header:
                    raise DGRValueError(f"{location}: {_NO_LISTS}")
                if header is not None:
                    field_at = {position: field for field, position in header.items()}
                    columns = [field_at.get(at, cell.strip()) for at, cell in enumerate(cells)]
                    names = [cell.strip().lower() for cell in cells]
                    strip_quotes = names == _DPR_HEADER if quoted is None else quoted
                    continue
                columns = _columns_without_header(location, cells)
                unknown_header = cells
            elif unknown_header is not None:
                warn_of_header(location, unknown_header, cells, ("id", "text"))
                unknown_header = None
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
    FileFormat("TSV with or without a header", lambda file: file.kind == "tsv", tsv_passages),
    FileFormat("KILT pages", kilt.is_knowledge_source, kilt.pages),
    FileFormat("records", lambda file: file.holds_records, record_passages, by_name=True),
)
"""File formats of passages: the first that recognises a file reads it."""


_ADVICE = "Name the ones to use in place of the path: hf:PATH,id=FIELD,text=FIELD."
_NO_LISTS = "a list of pseudo_queries does not fit a cell. Use a JSON Lines file."


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
