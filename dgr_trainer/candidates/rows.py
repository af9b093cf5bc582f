"""Candidates as rows of Arrow: one row a query, flat columns for its passages, identifiers and tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from dgr_trainer.candidates.matched import Candidate, MatchedIdentifier
from dgr_trainer.errors import DGRValueError
from dgr_trainer.identifier_weights import ORIGINS
from dgr_trainer.identifiers import VIEWS

_ROWS_PER_BATCH = 512
ROW_SCHEMA = pa.schema(
    {
        "query_id": pa.string(),
        "passage_ids": pa.list_(pa.string()),
        "scores": pa.list_(pa.float64()),
        "num_identifiers": pa.list_(pa.int32()),  # One per candidate; the columns below have one value per identifier.
        "views": pa.list_(pa.int8()),  # Position in `VIEWS`.
        "lengths": pa.list_(pa.int32()),
        "counts": pa.list_(pa.int64()),
        "credits": pa.list_(pa.float32()),
        "origins": pa.list_(pa.int8()),  # Position in `ORIGINS`.
        "tokens": pa.list_(pa.int32()),  # One per token.
    }
)
_VIEW_NUMBERS = {view: number for number, view in enumerate(VIEWS)}
_ORIGIN_NUMBERS = {origin: number for number, origin in enumerate(ORIGINS)}


class IdentifierColumns(NamedTuple):
    """Identifiers as columns, in the types of the columns of candidates.

    Attributes:
        views (`np.ndarray` of int8): Positions of the views in `VIEWS`.
        lengths (`np.ndarray` of int32): Numbers of tokens.
        counts (`np.ndarray` of int64): Occurrences in the corpus.
        credits (`np.ndarray` of float32): Their scores.
        origins (`np.ndarray` of int8): Positions of their origins in `ORIGINS`.
        tokens (`np.ndarray` of int32): The tokens of all, one after the other.
    """

    views: np.ndarray
    lengths: np.ndarray
    counts: np.ndarray
    credits: np.ndarray
    origins: np.ndarray
    tokens: np.ndarray


def identifier_columns(identifiers: Sequence[MatchedIdentifier]) -> IdentifierColumns:
    """Identifiers as columns. Raises a `ValueError` if one has an unknown view."""
    unknown = sorted({identifier.view for identifier in identifiers} - set(VIEWS))
    if unknown:
        raise DGRValueError(f"There are identifiers of unknown views {unknown}; views are {list(VIEWS)}.")
    return IdentifierColumns(
        np.array([_VIEW_NUMBERS[identifier.view] for identifier in identifiers], dtype=np.int8),
        np.array([len(identifier.ids) for identifier in identifiers], dtype=np.int32),
        np.array([identifier.count for identifier in identifiers], dtype=np.int64),
        np.array([identifier.score for identifier in identifiers], dtype=np.float32),
        np.array([_ORIGIN_NUMBERS[identifier.origin] for identifier in identifiers], dtype=np.int8),
        np.array([token for identifier in identifiers for token in identifier.ids], dtype=np.int32),
    )


def pack(query_id: str, candidates: Sequence[Candidate]) -> pa.RecordBatch:
    """Pack the candidates of one query into a row; raises what [`Candidates.from_lists`] raises."""
    identifiers = [identifier for candidate in candidates for identifier in candidate.identifiers]
    unknown = sorted({identifier.view for identifier in identifiers} - set(VIEWS))
    if unknown:
        raise DGRValueError(f"Query {query_id!r} has identifiers of unknown views {unknown}; views are {list(VIEWS)}.")
    return row_of(
        query_id,
        [candidate.passage_id for candidate in candidates],
        [float(candidate.score) for candidate in candidates],
        [len(candidate.identifiers) for candidate in candidates],
        identifier_columns(identifiers),
    )


def row_of(
    query_id: str,
    passage_ids: Sequence[str],
    scores: Sequence[float],
    num_identifiers: Sequence[int],
    identifiers: IdentifierColumns,
) -> pa.RecordBatch:
    """Make the row of one query.

    Args:
        query_id (`str`): The query.
        passage_ids (`Sequence[str]`): Its candidates, best first.
        scores (`Sequence[float]`): Their scores.
        num_identifiers (`Sequence[int]`): How many identifiers each has.
        identifiers ([`IdentifierColumns`]): The identifiers of all candidates.

    Raises:
        ValueError: as `Candidates.from_lists` does.
    """
    if len(set(passage_ids)) < len(passage_ids):
        raise DGRValueError(f"A passage occurs twice among the candidates of query {query_id!r}.")
    if not np.isfinite(scores).all():
        raise DGRValueError(f"A candidate of query {query_id!r} has a score that is not a finite number.")
    if not identifiers.lengths.all():
        raise DGRValueError(f"Query {query_id!r} has an identifier without tokens.")
    lists: list[Any] = [
        list(passage_ids),
        np.array(scores, dtype=np.float64),
        np.array(num_identifiers, dtype=np.int32),
        *identifiers,
    ]
    columns = [pa.array([query_id], pa.string())]
    for values, field in zip(lists, list(ROW_SCHEMA)[1:], strict=True):
        array = pa.array(values, field.type.value_type)
        columns.append(pa.ListArray.from_arrays(pa.array([0, len(array)], pa.int32()), array, type=field.type))
    return pa.RecordBatch.from_arrays(columns, schema=ROW_SCHEMA)


def unpack(row: Mapping[str, Any], position: int, max_identifiers: int | None) -> Candidate:
    """The candidate at a position of a row.

    Args:
        row (`Mapping[str, Any]`): The values of each column, and where the identifiers of each candidate
            (`identifier_starts`) and the tokens of each identifier (`token_starts`) begin.
        position (`int`): The position, from 0.
        max_identifiers (`int`, *optional*): Number of identifiers to return, those credited first.
    """
    start, end = row["identifier_starts"][position : position + 2].tolist()
    if max_identifiers is not None:
        end = min(end, start + max_identifiers)
    bounds = row["token_starts"][start : end + 1].tolist()
    tokens = row["tokens"][bounds[0] : bounds[-1]].tolist()
    views = row["views"][start:end].tolist()
    counts = row["counts"][start:end].tolist()
    scores = row["credits"][start:end].tolist()
    origins = row["origins"][start:end].tolist()
    identifiers = tuple(
        MatchedIdentifier(
            VIEWS[views[i]],
            tuple(tokens[bounds[i] - bounds[0] : bounds[i + 1] - bounds[0]]),
            counts[i],
            scores[i],
            ORIGINS[origins[i]],
        )
        for i in range(end - start)
    )
    return Candidate(row["passage_ids"][position], float(row["scores"][position]), identifiers)


def write_rows(file: Path, rows: Iterable[pa.RecordBatch]) -> None:
    """Write rows to a file, as a stream of Arrow."""
    with pa.ipc.new_stream(str(file), ROW_SCHEMA) as stream:
        for table in tables_of(rows):
            stream.write_table(table)


def tables_of(rows: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield rows in tables of many."""
    remaining = iter(rows)
    while batch := list(islice(remaining, _ROWS_PER_BATCH)):
        yield pa.Table.from_batches(batch, schema=ROW_SCHEMA).combine_chunks()
