"""Pseudo-queries of passages, read from files: published ones, or those that a model wrote."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dgr_trainer.data.formats.pseudo_query_files import file_rows
from dgr_trainer.data.ids import IdColumn
from dgr_trainer.errors import DGRKeyError, DGRValueError
from dgr_trainer.files.arrow_rows import dataset_from_rows
from dgr_trainer.files.compression import undamaged

if TYPE_CHECKING:
    from datasets import Dataset, Features

PathLike = str | os.PathLike[str]


def _features() -> Features:
    from datasets import Features, List, Value

    return Features({"id": Value("string"), "pseudo_queries": List(Value("string"))})


class PseudoQueries(Mapping[str, tuple[str, ...]]):
    """Pseudo-queries by passage id, memory-mapped; for [`Corpus.with_pseudo_queries`].

    Args:
        dataset (`datasets.Dataset`):
            Columns `id` and `pseudo_queries` (list of strings). The queries of several rows with the same id are
            joined.

    Raises:
        ValueError: if the dataset has other columns.
    """

    def __init__(self, dataset: Dataset) -> None:
        if dataset.features != _features():
            raise DGRValueError(
                f"Pseudo-queries need the columns {dict(_features())}, but got {dict(dataset.features)}. "
                "read_pseudo_queries reads them from files."
            )
        self.dataset = dataset
        self._queries = dataset.data.column("pseudo_queries")
        self._ids = IdColumn(dataset.data.column("id"))
        self._repeated = self._ids.duplicates()

    def __getitem__(self, id: str) -> tuple[str, ...]:
        position = self._ids.find(id)
        if position is None:
            raise DGRKeyError(f"Passage {id!r} has no pseudo-queries.")
        rows = self._repeated.get(id, [position])
        return tuple(dict.fromkeys(query for row in rows for query in self._queries[row].as_py()))

    def __iter__(self) -> Iterator[str]:
        later = {position for positions in self._repeated.values() for position in positions[1:]}
        return (id for position, id in enumerate(self._ids) if position not in later)

    def __len__(self) -> int:
        return len(self._ids) - sum(len(positions) - 1 for positions in self._repeated.values())

    def __contains__(self, id: object) -> bool:
        return id in self._ids

    def __repr__(self) -> str:
        return f"PseudoQueries({len(self)} passages)"


def read_pseudo_queries(
    paths: PathLike | Sequence[PathLike], ids: Iterable[str] | None = None, *, best: int | None = None
) -> PseudoQueries:
    """Read pseudo-queries from files.

    Formats:

    - JSON Lines (or a table, `.parquet` or `.arrow`) with the id of a passage (`id`, or another name that a corpus may
      have) and a list of `pseudo_queries`, `predicted_queries`, `queries` or `generated_queries`: what
      [`PseudoQueryGenerator`] writes, and the published docTTTTTquery expansions.
    - The same with one `query`, and perhaps `log_probs`: InPars.
    - docTTTTTquery's samples: text files with the query of one passage on each line, in the order of the collection.
      They need `ids`; several files are several samples.
    - A pickle (`.pkl`, `.pickle`) of a dict of passage ids and lists of queries: MINDER. It is read as data: a pickle
      that would run code is refused.

    Files may be compressed (`.gz`, `.zst`, `.bz2`, `.xz`).

    Args:
        paths (`str`, `os.PathLike` or a sequence of them): The files.
        ids (`Iterable[str]`, *optional*): Ids of the passages in the order of the files' lines, such as `corpus.ids`.
        best (`int`, *optional*):
            Number of records to keep, those with the highest mean of `log_probs` (InPars keeps 10,000). By default
            all.

    Returns:
        [`PseudoQueries`]

    Raises:
        TypeError, ValueError: if something is malformed, lines and passages differ in number, or there is no query.

    Example:

    ```python
    corpus = corpus.with_pseudo_queries(read_pseudo_queries("minder-pid2query.pkl"))
    ```
    """
    files = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not files:
        raise DGRValueError("No file of pseudo-queries was given.")

    def rows() -> Iterator[dict[str, Any]]:
        for id, queries in file_rows(files, ids, best):
            kept = [query for query in queries if query.strip()]
            if kept:
                yield {"id": id, "pseudo_queries": kept}

    with undamaged(*files):
        dataset = dataset_from_rows(rows(), _features(), description="Reading pseudo-queries")
    if not len(dataset):
        raise DGRValueError(f"{', '.join(map(str, files))}: there is no pseudo-query in it.")
    return PseudoQueries(dataset)
