"""One rank list, and many of them checked, sorted and packed into an Arrow table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Features, List, Value

from dgr_trainer.data.ids import as_id
from dgr_trainer.errors import DGRTypeError, DGRValueError

FEATURES = Features(
    {"query_id": Value("string"), "passage_ids": List(Value("string")), "scores": List(Value("float64"))}
)
_SCHEMA = pa.schema([(name, FEATURES.arrow_schema.field(name).type) for name in FEATURES])


class RankList(NamedTuple):
    """The passages of one query, best first.

    Args:
        passage_ids (`tuple[str, ...]`): ids of the passages.
        scores (`np.ndarray` of shape `(len(passage_ids),)`, float64): their scores, descending.
    """

    passage_ids: tuple[str, ...]
    scores: np.ndarray

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RankList):
            return NotImplemented
        return self.passage_ids == other.passage_ids and np.array_equal(self.scores, other.scores)


class Hits:
    """Gathers hits, in whatever order they come, into a list for each query.

    What is gathered waits in Arrow, which takes a fifth of the memory of Python strings.
    """

    def __init__(self) -> None:
        self._parts: dict[str, list[tuple[pa.Array, np.ndarray]]] = {}
        self._query_id = ""
        self._scores: dict[str, float] = {}

    def add(self, query_id: str, passage_id: str, score: float) -> bool:
        """Take a hit; `False` if the last hits were of the same query and the passage is among them."""
        if query_id != self._query_id:
            self._close()
            self._query_id = query_id
        if passage_id in self._scores:
            return False
        self._scores[passage_id] = score
        return True

    def add_checked(self, where: str, query_id: Any, passage_id: Any, score: Any) -> None:
        """Take a hit as it was found in a record; an error says where, if it is not one."""
        query, passage = as_id(query_id, "query", where), as_id(passage_id, "passage", where)
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
            raise DGRValueError(
                f"{where}: the score of passage {passage!r} for query {query!r} is {score!r}, not a finite number."
            )
        if not self.add(query, passage, float(score)):
            raise DGRValueError(f"{where}: passage {passage!r} occurs a second time for query {query!r}.")

    def lists(self) -> Iterator[tuple[str, list[str], np.ndarray]]:
        """For each query its id, the ids of its passages and their scores, in the order in which they came."""
        self._close()
        for query_id, group in self._parts.items():
            ids = [id for part, _ in group for id in part.to_pylist()]
            yield query_id, ids, np.concatenate([scores for _, scores in group])

    def _close(self) -> None:
        if self._scores:
            values = np.fromiter(self._scores.values(), dtype=np.float64, count=len(self._scores))
            part = pa.array(list(self._scores), pa.string()), values
            self._parts.setdefault(self._query_id, []).append(part)
        self._scores = {}


def unzip(query_id: Any, pairs: Any) -> tuple[list[Any], list[Any]]:
    """Ids and scores of a list given as a mapping or as pairs; a `TypeError` names the query if it is neither."""
    items = list(pairs.items()) if isinstance(pairs, Mapping) else list(pairs)
    for item in items:
        if isinstance(item, str) or not isinstance(item, (tuple, list)) or len(item) != 2:
            raise DGRTypeError(
                f"Query {query_id!r}: a rank list holds {item!r}, not a pair of passage id and score. "
                "Rankings.from_order takes passage ids without scores."
            )
    return [item[0] for item in items], [item[1] for item in items]


def rank_table(lists: Iterable[tuple[Any, Sequence[Any], Sequence[Any] | np.ndarray]]) -> pa.Table:
    """Rank lists, checked and sorted, as a table."""
    batches: list[pa.Table] = []
    waiting: list[tuple[str, list[str], np.ndarray]] = []

    def close() -> None:
        columns = [list(column) for column in zip(*waiting, strict=True)] or [[], [], []]
        arrays = [pa.array(column, type) for column, type in zip(columns, _SCHEMA.types, strict=True)]
        batches.append(pa.Table.from_arrays(arrays, schema=_SCHEMA))
        waiting.clear()

    for row in lists:
        waiting.append(sorted_list(*row))
        if len(waiting) == 1000:
            close()
    close()
    return pa.concat_tables(batches).combine_chunks() if len(batches) > 1 else batches[0]


def sorted_list(query_id: Any, ids: Any, scores: Any) -> tuple[str, list[str], np.ndarray]:
    """One rank list, checked and in order: highest score first, of equals the larger id first."""
    query = _text_id(query_id, "query id")
    if ids is None or scores is None or len(ids) != len(scores):
        counts = ["none" if values is None else len(values) for values in (ids, scores)]
        raise DGRValueError(
            f"Query {query!r}: {counts[0]} passage ids, but {counts[1]} scores. Every passage has one."
        )
    names = [_text_id(value, f"passage id of query {query!r}") for value in ids]
    if not isinstance(scores, np.ndarray):
        for score in scores:
            if not hasattr(score, "__float__"):
                raise DGRTypeError(f"Query {query!r}: the score {score!r} ({type(score).__name__}) is not a number.")
        scores = [float(score) for score in scores]
    values = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(values).all():
        wrong = int(np.flatnonzero(~np.isfinite(values))[0])
        raise DGRValueError(
            f"The score of passage {names[wrong]!r} for query {query!r} is {values[wrong]}. Scores have to be finite."
        )
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DGRValueError(f"Passage {twice!r} occurs more than once in the list of query {query!r}.")
    order = sorted(range(len(names)), key=lambda index: (values[index], names[index]), reverse=True)
    return query, [names[index] for index in order], values[order]


def _text_id(value: object, of: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return str(int(value))
    raise DGRTypeError(f"A {of} is {value!r} ({type(value).__name__}), but ids are strings.")
