"""The table of a saved `datasets.Dataset`, memory-mapped without importing `datasets`, which takes a second."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class SavedTable:
    """What `Dataset.save_to_disk` wrote.

    Args:
        files (`Sequence[tuple[pathlib.Path, pyarrow.Table]]`): The absolute paths of its files and their memory-mapped
            tables, in order.
        state (`Mapping[str, Any]`): What `datasets` writes to `state.json`.
    """

    files: Sequence[tuple[Path, pa.Table]]
    state: Mapping[str, Any]

    @property
    def table(self) -> pa.Table:
        """`pyarrow.Table`: All rows."""
        return pa.concat_tables([table for _, table in self.files])

    def dataset(self) -> Dataset:
        """The same mapped tables as a dataset, as `datasets.load_from_disk` opens it."""
        from datasets import Dataset
        from datasets.table import MemoryMappedTable, concat_tables

        mapped = [MemoryMappedTable(table, str(path)) for path, table in self.files]
        dataset = Dataset(concat_tables(mapped), fingerprint=self.state["_fingerprint"])
        # As load_from_disk calls it: the fingerprint, by which cached results are found, depends on the arguments.
        return dataset.with_format(
            type=self.state["_format_type"],
            format_kwargs=self.state["_format_kwargs"],
            columns=self.state["_format_columns"],
            output_all_columns=self.state["_output_all_columns"],
        )


def open_saved_table(folder: Path) -> SavedTable:
    """Open a folder that `Dataset.save_to_disk` wrote.

    Raises:
        OSError: if a file is missing.
        ValueError: if a file is damaged, or describes something else.
    """
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    # A pickle names the files, also after the process has gone to another folder.
    files = [folder.absolute() / file["filename"] for file in state["_data_files"]]
    return SavedTable([(file, _mapped(file)) for file in files], state)


def _mapped(file: Path) -> pa.Table:
    with pa.ipc.open_stream(pa.memory_map(str(file))) as stream:
        return stream.read_all()


class TableRows:
    """Single rows of a table of many chunks, found without a walk over all chunks.

    Args:
        table (`pyarrow.Table`): The table.
    """

    def __init__(self, table: pa.Table) -> None:
        self._batches = table.to_batches()
        self._ends = np.cumsum([batch.num_rows for batch in self._batches])

    def take(self, positions: Sequence[int]) -> Iterator[pa.RecordBatch]:
        """Yield the rows at some positions, each as a batch of its own that copies nothing."""
        numbers = np.searchsorted(self._ends, positions, side="right").tolist()
        for position, number in zip(positions, numbers, strict=True):
            batch = self._batches[number]
            yield batch.slice(position - int(self._ends[number]) + batch.num_rows, 1)
