"""Files of pseudo-queries: records (docTTTTTquery, InPars), lines in the order of a collection, MINDER's pickle."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np

from dgr_trainer.data.columns import PASSAGE_COLUMNS
from dgr_trainer.data.ids import as_id
from dgr_trainer.data.texts import as_text
from dgr_trainer.errors import DGRTypeError, DGRValueError
from dgr_trainer.files.compression import plain_name
from dgr_trainer.files.lines import existing_file, file_kind, line_location, numbered_lines
from dgr_trainer.files.plain_pickle import read_plain_pickle
from dgr_trainer.files.records import Record, read_records

PathLike = str | os.PathLike[str]
Rows = Iterator[tuple[str, Sequence[str]]]

_LIST_NAMES = ("pseudo_queries", "predicted_queries", "queries", "generated_queries")
_SINGLE_NAME = "query"


def file_rows(paths: Sequence[PathLike], ids: Iterable[str] | None, best: int | None) -> Rows:
    """Read the pseudo-queries of files; see [`read_pseudo_queries`] for formats and arguments.

    Yields:
        `tuple[str, Sequence[str]]`: Passage id and queries; an id may occur several times.
    """
    if best is not None and best < 1:
        raise DGRValueError(f"best is {best}, but at least one query has to be kept.")
    samples: list[Path] = []
    for path in map(existing_file, paths):
        if plain_name(path).lower().endswith((".pkl", ".pickle")):
            yield from _pickle_rows(path)
        elif file_kind(path) not in ("", "tsv"):
            yield from _record_rows(path, best)
        else:
            samples.append(path)
    if samples:
        if ids is None:
            raise DGRValueError(
                f"{samples[0]}: the lines of a text file belong to the passages of a collection, in its order. Give "
                "the ids of the passages (ids=corpus.ids), or a file of records with ids (.jsonl)."
            )
        yield from _sample_rows(samples, ids)


def _record_rows(path: Path, best: int | None) -> Rows:
    records = read_records(path)
    threshold = None if best is None else _threshold(path, best)
    left = best
    for number, record in records.rows:
        location = records.location(number)
        id_name = next((name for name in PASSAGE_COLUMNS["id"] if name in record), None)
        name = next((name for name in (*_LIST_NAMES, _SINGLE_NAME) if name in record), None)
        if id_name is None or name is None:
            raise DGRValueError(
                f"{location}: a passage id ({', '.join(PASSAGE_COLUMNS['id'])}) and queries "
                f"({', '.join(_LIST_NAMES)}, or one {_SINGLE_NAME}) are needed. The fields found are {sorted(record)}."
            )
        if threshold is not None and left is not None:
            if left == 0 or _mean_log_prob(location, record) < threshold:
                continue
            left -= 1
        queries = [record[name]] if name == _SINGLE_NAME else record[name]
        yield as_id(record[id_name], "passage", location), check_queries(location, queries)


def _threshold(path: Path, best: int) -> float:
    """The lowest mean log-probability among the `best` highest ones of a file."""
    records = read_records(path)
    means = np.fromiter((_mean_log_prob(records.location(number), record) for number, record in records.rows), float)
    return float(np.partition(means, -best)[-best]) if best < len(means) else -np.inf


def _mean_log_prob(location: str, record: Record) -> float:
    values = record.get("log_probs")
    if not isinstance(values, list) or not values or not all(isinstance(value, (int, float)) for value in values):
        raise DGRValueError(
            f"{location}: log_probs is {values!r:.60}, but a list of numbers is needed to choose the best."
        )
    return float(np.mean(values))


def _sample_rows(paths: Sequence[Path], ids: Iterable[str]) -> Rows:
    """The lines of several files for each passage, in the order of the ids."""
    missing = object()
    columns = [(line for _, line in numbered_lines(path, blank=True)) for path in paths]
    for count, (id, *lines) in enumerate(zip_longest(ids, *columns, fillvalue=missing), start=1):
        for path, line in zip(paths, lines, strict=True):
            if id is missing:
                if line is missing or not line:  # Blank lines at the end belong to nobody.
                    continue
                raise DGRValueError(f"{line_location(path, count)}: the collection has only {count - 1} passages.")
            if line is missing:
                raise DGRValueError(
                    f"{path}: ends after line {count - 1}, but the collection has more passages. Each line is the "
                    "query of one passage, in the order of the collection."
                )
            if "\t" in str(line):
                raise DGRValueError(
                    f"{line_location(path, count)}: holds a tab. A text file has one query on each line, that of the "
                    "passage at the same place of the collection, and no ids. If these are columns of ids and "
                    "queries, write JSON Lines with 'id' and 'query'; if the query holds a tab, put a space there."
                )
        if id is not missing:
            yield str(id), [str(line) for line in lines]


def _pickle_rows(path: Path) -> Rows:
    content = read_plain_pickle(path)
    if not isinstance(content, dict):
        raise DGRValueError(
            f"{path}: holds a {type(content).__name__}, but a dict of passage ids and queries is needed."
        )
    for id, queries in content.items():
        location = f"{path}, passage {id!r}"
        yield (
            as_id(id, "passage", location),
            check_queries(location, list(queries) if isinstance(queries, tuple) else queries),
        )


def check_queries(location: str, queries: object) -> list[str]:
    """The queries, if they are a list of strings; otherwise an error that says where they were found."""
    if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
        raise DGRTypeError(f"{location}: the queries are {queries!r:.80}, but they have to be a list of strings.")
    return [as_text(query, "pseudo-query", location) for query in queries]
