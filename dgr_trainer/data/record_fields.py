"""The fields of records, found by their usual names, record by record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dgr_trainer.data.columns import Usual, usual_columns
from dgr_trainer.data.sources import FileSource
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.records import Records

_KEPT = 1000


def record_fields(
    records: Records, usual: Usual, needed: Sequence[Sequence[str]], what: str, hint: str = ""
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read records and give their values the names of fields.

    Args:
        records ([`Records`]): The records.
        usual (`Mapping[str, Sequence[str]]`): Usual names of the columns by field.
        needed (`Sequence[Sequence[str]]`): Groups of fields, of each of which every record needs one.
        what (`str`): What a record is, for the error, such as `"a query"`.
        hint (`str`, *optional*): What the error tells the user to do, if it is not to name the columns.

    Yields:
        `tuple[int, dict[str, Any]]`: Number of a record and its values by field; other columns are left out.

    Raises:
        ValueError: if a record lacks a needed field.
    """
    # Most files have the same columns in every record.
    chosen_by_columns: dict[tuple[str, ...], dict[str, str]] = {}
    for number, record in records.rows:
        columns = tuple(record)
        chosen = chosen_by_columns.get(columns)
        if chosen is None:
            chosen = usual_columns(columns, usual)
            for group in needed:
                if not any(field in chosen for field in group):
                    raise DGRValueError(
                        f"{records.location(number)}: {_missing(usual, group, what)}. The fields found are "
                        f"{sorted(record)}. {hint or _naming(needed)}"
                    )
            if len(chosen_by_columns) == _KEPT:
                chosen_by_columns.clear()
            chosen_by_columns[columns] = chosen
        yield number, {field: record[column] for field, column in chosen.items()}


def advice(file: FileSource, text: str) -> str:
    """What the error about a missing field tells the user to do."""
    return f"The first line has to name the columns. {text}" if file.kind in ("csv", "tsv") else text


def file_has(file: FileSource, usual: Usual, fields: Sequence[str]) -> bool:
    """Whether the first record of a file has all of the fields."""
    return set(fields) <= set(usual_columns(sorted(file.fields), usual))


def _missing(usual: Usual, group: Sequence[str], what: str) -> str:
    names = " or ".join(f"{field} ({', '.join(usual[field])})" for field in group)
    return f"{what} needs {names}"


def _naming(needed: Sequence[Sequence[str]]) -> str:
    example: Mapping[str, str] = {group[0]: "COLUMN" for group in needed}
    settings = ",".join(f"{field}={column}" for field, column in example.items())
    return f"Name the ones to use in place of the path: hf:PATH,{settings}."
