"""Streams rows into a memory-mapped dataset, so that large data are never held as Python objects."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from tqdm.auto import tqdm

if TYPE_CHECKING:
    from datasets import Dataset, Features
    from datasets.arrow_writer import ArrowWriter


def dataset_from_rows(
    rows: Iterable[Mapping[str, Any]], features: Features, *, description: str | None = None
) -> Dataset:
    """Write rows to an Arrow file and open it memory-mapped.

    Unlike `Dataset.from_generator` it caches nothing under a hash of the generator, so a changed input never yields a
    stale copy. The file is in the temporary folder of `datasets` (under `TMPDIR`) and is deleted when the process
    ends; keep a dataset with `save_to_disk`.

    Args:
        rows (`Iterable[Mapping[str, Any]]`): Consumed once, in order.
        features (`datasets.Features`): Columns and their types.
        description (`str`, *optional*): Label of a progress bar; `None` shows none.

    Returns:
        `datasets.Dataset`: One row for each item.
    """
    from datasets import Dataset

    with _written(features) as (path, writer):
        for row in tqdm(rows, desc=description, unit=" rows", disable=description is None):
            writer.write(dict(row))
    return Dataset.from_file(str(path))


def dataset_from_tables(tables: Iterable[pa.Table], features: Features) -> Dataset:
    """Write tables to an Arrow file, one after the other, and open it as `dataset_from_rows` does."""
    from datasets import Dataset

    with _written(features) as (path, writer):
        for table in tables:
            writer.write_table(table)
    return Dataset.from_file(str(path))


@contextmanager
def _written(features: Features) -> Iterator[tuple[Path, ArrowWriter]]:
    from datasets.arrow_writer import ArrowWriter
    from datasets.fingerprint import get_temporary_cache_files_directory

    path = Path(get_temporary_cache_files_directory()) / f"{uuid.uuid4().hex}.arrow"
    try:
        with ArrowWriter(features=features, path=str(path)) as writer:
            yield path, writer
            writer.finalize()
    except BaseException:
        path.unlink(missing_ok=True)
        raise
