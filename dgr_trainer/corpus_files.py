"""Corpus files, passage by passage: files of records, tab-separated text, and rows of a dataset."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from dgr_trainer.formats import huggingface
from dgr_trainer.ids import as_id
from dgr_trainer.lines import numbered_lines, place
from dgr_trainer.records import read_records

ID_NAMES = ("id", "_id")
FIELDS = ("id", "title", "text", "pseudo_queries", "docid")
_DPR_COLUMNS = ["id", "text", "title"]


@dataclass(frozen=True)
class PassageRows:
    """Passages on their way into a corpus.

    Args:
        rows (`Iterable[tuple[int, dict]]`): number of the passage in its source and its values, by [`FIELDS`].
        place (`Callable[[int], str]`): how errors name the passage of that number.
        name (`str`): what the source is called in messages.
    """

    rows: Iterable[tuple[int, dict[str, Any]]]
    place: Callable[[int], str]
    name: str


def passage_row(
    where: str, *, id: object, title: object, text: object, pseudo_queries: object, docid: object
) -> dict[str, Any]:
    """Check the values of one passage and give them their types.

    Args:
        where (`str`): where the passage was found, for errors.
        id (`object`): string or integer.
        title, text (`object`): string or `None` (no title, no text).
        pseudo_queries (`object`): list of strings or `None`; blank ones are left out.
        docid (`object`): string, integer or `None`.

    Raises:
        TypeError: if a value is of another type.
        ValueError: if the id is empty or holds whitespace.
    """
    for name, value in (("title", title), ("text", text)):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{where}: the {name} is {value!r} ({type(value).__name__}), but it has to be a string.")
    if pseudo_queries is None:
        pseudo_queries = ()
    elif isinstance(pseudo_queries, str) or not isinstance(pseudo_queries, Sequence):
        raise TypeError(
            f"{where}: pseudo_queries is a {type(pseudo_queries).__name__}, but it has to be a list of strings."
        )
    for query in pseudo_queries:
        if not isinstance(query, str):
            raise TypeError(f"{where}: pseudo_queries holds {query!r} ({type(query).__name__}), not only strings.")
    if docid is not None and (isinstance(docid, bool) or not isinstance(docid, (str, int))):
        raise TypeError(f"{where}: the docid is {docid!r} ({type(docid).__name__}), but it has to be a string.")
    return {
        "id": as_id(id, "passage", where),
        "title": title or "",
        "text": text or "",
        "pseudo_queries": [query for query in pseudo_queries if query.strip()],
        "docid": None if docid is None or docid == "" else str(docid),
    }


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
            where = records.place(number)
            names = [name for name in ID_NAMES if name in record]
            if not names:
                raise ValueError(
                    f"{where}: no field 'id' or '_id'. The fields found are {sorted(record)}. Name the one to use in "
                    "place of the path: hf:PATH,id=FIELD."
                )
            if first and "title" not in record and "text" not in record:
                raise ValueError(
                    f"{where}: no field 'title' and no field 'text'. The fields found are {sorted(record)}. Name the "
                    "one to use in place of the path: hf:PATH,text=FIELD."
                )
            first = False
            values = {name: record.get(name) for name in FIELDS[1:]}
            yield number, passage_row(where, id=record[names[0]], **values)

    return PassageRows(rows(), records.place, os.fspath(path))


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
            where = place(path, number)
            cells = line.split("\t")
            if columns is None:
                header = tsv_header(cells)
                columns = header or _columns_without_header(where, cells)
                if "pseudo_queries" in columns:
                    raise ValueError(f"{where}: a list of pseudo_queries does not fit a cell. Use a JSON Lines file.")
                if header:
                    strip_quotes = columns == _DPR_COLUMNS if quoted is None else quoted
                    continue
            if len(cells) != len(columns):
                raise ValueError(
                    f"{where}: {len(cells)} columns, but {len(columns)} are expected ({', '.join(columns)}). "
                    "Text must hold no tabs and no line ends; a JSON Lines file can hold both."
                )
            values = dict(zip(columns, map(_unquote, cells) if strip_quotes else cells, strict=True))
            yield number, passage_row(where, id=values["id"], **{name: values.get(name) for name in FIELDS[1:]})

    return PassageRows(rows(), partial(place, path), os.fspath(path))


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
    raise ValueError(
        f"{where}: {len(cells)} columns. Without a header, a file has two (id, text) or three (id, title, text); "
        "with any others its first line has to name them, separated by tabs."
    )


def _unquote(cell: str) -> str:
    if len(cell) >= 2 and cell.startswith('"') and cell.endswith('"'):
        return cell[1:-1].replace('""', '"')
    return cell
