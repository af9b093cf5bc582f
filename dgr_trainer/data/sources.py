"""Where data come from: `resolve` turns what the user gave in place of a path into one of five sources.

Corpora, queries, qrels and runs are all found this way. A file is then read by the first format that recognises it;
the formats are listed in `passage_readers`, `query_readers`, `judgement_readers` and `runs.reading`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from dgr_trainer.data.hub import HubSource, SavedDatasetSource, hub_source, is_saved_dataset
from dgr_trainer.data.local_files import local_files
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.atomic import restore_folder
from dgr_trainer.files.compression import plain_name, undamaged
from dgr_trainer.files.delimited import named_rows, tsv_rows
from dgr_trainer.files.lines import existing_file, file_kind, line_location, numbered_lines
from dgr_trainer.files.records import Record, Records, json_object, read_records

IR_DATASETS_PREFIX = "irds:"
Contents = TypeVar("Contents")


@dataclass(frozen=True)
class IrDatasetsSource:
    """A data set of the package ir_datasets.

    Args:
        id (`str`): Its id, such as `beir/scifact/test`.
    """

    id: str


@dataclass(frozen=True)
class FolderSource:
    """A folder that `datasets` did not save, such as a BEIR folder.

    Args:
        path (`pathlib.Path`): The folder.
    """

    path: Path


@dataclass(frozen=True)
class FileSource:
    """A file that is there, or several files of a folder that `hf:` names.

    Args:
        path (`pathlib.Path`): The file.
        columns (`Mapping[str, str]`, *optional*): If the file was named after `hf:`, columns by field.
        more (`tuple[pathlib.Path, ...]`, *optional*): Further files of the same kind.
        folder (`str`, *optional*): Name of the folder, if that is what `hf:` names.
    """

    path: Path
    columns: Mapping[str, str] | None = None
    more: tuple[Path, ...] = ()
    folder: str | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """`tuple[pathlib.Path, ...]`: The file and the further ones."""
        return self.path, *self.more

    @property
    def name(self) -> str:
        """`str`: The name in lower case, without the suffix of a compression."""
        return plain_name(self.path).lower()

    @property
    def kind(self) -> str:
        """`str`: What the name says about the format; see [`file_kind`]."""
        return file_kind(self.path)

    @property
    def named(self) -> bool:
        """`bool`: Whether its columns have to be read by name: the user names some, or there are several files."""
        return bool(self.columns or self.more)

    @property
    def holds_lines(self) -> bool:
        """`bool`: Whether tabs or spaces separate columns, as also in a `.csv` without a comma on its first line."""
        if self.kind == "csv" and not self.named:
            return "," not in next(numbered_lines(self.path), (0, ","))[1]
        return self.kind in ("", "tsv") and not self.named

    @property
    def holds_records(self) -> bool:
        """`bool`: Whether it is a file of records: JSON Lines, a JSON array, CSV, Parquet or Arrow."""
        return self.kind in ("jsonl", "csv", "parquet", "arrow") or (self.named and self.kind == "tsv")

    @cached_property
    def fields(self) -> frozenset[str]:
        """`frozenset[str]`: Fields of the first record; none if it is no file of records, or an empty one."""
        return self.records().peek()[1] if self.holds_records else frozenset()

    @cached_property
    def json_object(self) -> Record | None:
        """`dict`, *optional*: The one JSON object that a `.json` file holds; `None` for any other file."""
        return json_object(self.path) if self.name.endswith(".json") and not self.named else None

    def records(self) -> Records:
        """The records; every call reads the file again. Columns that the user names have the names of their fields."""
        first, *others = (self._records_of(path) for path in self.paths)
        if not others:
            return first
        every = [first, *others]
        return Records(
            chain.from_iterable(
                ((number * len(every) + position, record) for number, record in records.rows)
                for position, records in enumerate(every)
            ),
            lambda number: every[number % len(every)].location(number // len(every)),
        )

    def _records_of(self, path: Path) -> Records:
        if file_kind(path) == "tsv":
            records = Records(named_rows(path, tsv_rows(path)), partial(line_location, path))
        else:
            records = read_records(path)
        return Records(_renamed(records, self.columns), records.location) if self.columns else records


def _renamed(records: Records, columns: Mapping[str, str]) -> Iterator[tuple[int, Record]]:
    first = True
    for number, record in records.rows:
        missing = [column for column in columns.values() if column not in record] if first else ()
        if missing:
            raise DGRValueError(
                f"{records.location(number)}: has no column {missing}; its columns are {list(record)}."
            )
        first = False
        yield number, record | {field: record[column] for field, column in columns.items() if column in record}


Source = HubSource | IrDatasetsSource | SavedDatasetSource | FolderSource | FileSource


class FileFormat(NamedTuple, Generic[Contents]):
    """A format of files of passages, queries, judgements or runs.

    Args:
        name (`str`): Name of the format. The cache of a corpus changes with it.
        recognises (`Callable[[FileSource], bool]`): Whether a file has the format, by its name or its first record.
        read (`Callable[[FileSource], Contents]`): What the file holds, read as it is needed.
        by_name (`bool`, *optional*, defaults to `False`): Whether it finds columns by their names. Only such a format
            reads a file whose columns the user names.
    """

    name: str
    recognises: Callable[[FileSource], bool]
    read: Callable[[FileSource], Contents]
    by_name: bool = False


def named_source(path: str | os.PathLike[str]) -> HubSource | IrDatasetsSource | None:
    """The data set that `hf:NAME` or `irds:ID` names; `None` for a path.

    Raises:
        ValueError: if what follows `hf:` is malformed.
    """
    text = os.fspath(path)
    if text.startswith(IR_DATASETS_PREFIX):
        return IrDatasetsSource(text.removeprefix(IR_DATASETS_PREFIX))
    return hub_source(text)


def resolve(path: str | os.PathLike[str], fields: Iterable[str] = ()) -> Source:
    """Find out what is given in place of a path.

    Args:
        path (`str` or `os.PathLike`): `hf:NAME`, `irds:ID`, or the path of a folder or file.
        fields (`Iterable[str]`, *optional*): Fields whose columns may be named after `hf:NAME`.

    Returns:
        [`HubSource`], [`IrDatasetsSource`], [`SavedDatasetSource`], [`FolderSource`] or [`FileSource`]

    Raises:
        FileNotFoundError: if it is a path and nothing is there.
        ValueError: if it is an archive, a pipe or a device, or what follows `hf:` is malformed.
    """
    named = named_source(path)
    if isinstance(named, HubSource):
        columns = named.columns(fields)
        files = local_files(named)
        folder = Path(named.name).name if Path(named.name).is_dir() else None
        return FileSource(files[0], columns, tuple(files[1:]), folder) if files else named
    if named is not None:
        return named
    path = Path(path)
    restore_folder(path)
    if path.is_dir():
        return SavedDatasetSource(path) if is_saved_dataset(path) else FolderSource(path)
    return FileSource(existing_file(path))


def file_format(file: FileSource, formats: Sequence[FileFormat[Contents]], advice: str) -> FileFormat[Contents]:
    """The first format that recognises a file.

    Args:
        file ([`FileSource`]): The file.
        formats (`Sequence[FileFormat]`): Formats, the more specific ones first.
        advice (`str`): What the error tells the user to do.

    Raises:
        ValueError: if there is none.
    """
    with undamaged(*file.paths):
        for candidate in formats:
            if (candidate.by_name or not file.named) and candidate.recognises(file):
                return candidate
    raise DGRValueError(f"{file.path}: the name does not tell the format. {advice}")
