"""Where data come from: `resolve` turns what the user gave in place of a path into one of five sources.

Corpora, queries, qrels and runs are all found this way. A file is then read by the first format that recognises it;
the formats are listed in `passage_readers`, `query_readers`, `judgement_readers` and `runs.reading`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from dgr_trainer.data.hub import HubSource, SavedDatasetSource, hub_source, is_saved_dataset
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.atomic import restore_folder
from dgr_trainer.files.compression import plain_name
from dgr_trainer.files.lines import existing_file, file_kind
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
    """A file that is there.

    Args:
        path (`pathlib.Path`): The file.
    """

    path: Path

    @property
    def name(self) -> str:
        """`str`: The name in lower case, without the suffix of a compression."""
        return plain_name(self.path).lower()

    @property
    def kind(self) -> str:
        """`str`: What the name says about the format; see [`file_kind`]."""
        return file_kind(self.path)

    @property
    def holds_records(self) -> bool:
        """`bool`: Whether it is a file of records: JSON Lines, a JSON array, Parquet or Arrow."""
        return self.kind in ("jsonl", "parquet", "arrow")

    @cached_property
    def fields(self) -> frozenset[str]:
        """`frozenset[str]`: Fields of the first record; none if it is no file of records, or an empty one."""
        return self.records().peek()[1] if self.holds_records else frozenset()

    @cached_property
    def json_object(self) -> Record | None:
        """`dict`, *optional*: The one JSON object that a `.json` file holds; `None` for any other file."""
        return json_object(self.path) if self.name.endswith(".json") else None

    def records(self) -> Records:
        """The records; every call reads the file again."""
        return read_records(self.path)


Source = HubSource | IrDatasetsSource | SavedDatasetSource | FolderSource | FileSource


class FileFormat(NamedTuple, Generic[Contents]):
    """A format of files of passages, queries, judgements or runs.

    Args:
        name (`str`): Name of the format. The cache of a corpus changes with it.
        recognises (`Callable[[FileSource], bool]`): Whether a file has the format, by its name or its first record.
        read (`Callable[[FileSource], Contents]`): What the file holds, read as it is needed.
    """

    name: str
    recognises: Callable[[FileSource], bool]
    read: Callable[[FileSource], Contents]


def named_source(path: str | os.PathLike[str]) -> HubSource | IrDatasetsSource | None:
    """The data set that `hf:NAME` or `irds:ID` names; `None` for a path.

    Raises:
        ValueError: if what follows `hf:` is malformed.
    """
    text = os.fspath(path)
    if text.startswith(IR_DATASETS_PREFIX):
        return IrDatasetsSource(text.removeprefix(IR_DATASETS_PREFIX))
    return hub_source(text)


def resolve(path: str | os.PathLike[str]) -> Source:
    """Find out what is given in place of a path.

    Args:
        path (`str` or `os.PathLike`): `hf:NAME`, `irds:ID`, or the path of a folder or file.

    Returns:
        [`HubSource`], [`IrDatasetsSource`], [`SavedDatasetSource`], [`FolderSource`] or [`FileSource`]

    Raises:
        FileNotFoundError: if it is a path and nothing is there.
        ValueError: if it is an archive, a pipe or a device, or what follows `hf:` is malformed.
    """
    named = named_source(path)
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
    for candidate in formats:
        if candidate.recognises(file):
            return candidate
    raise DGRValueError(f"{file.path}: the name does not tell the format. {advice}")
