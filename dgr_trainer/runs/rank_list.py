"""One rank list, and the Arrow table of many: checked, sorted and converted once on the way in."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dgr_trainer.data.ids import as_id, text_of_id
from dgr_trainer.data.texts import check_encodable
from dgr_trainer.errors import DGRTypeError, DGRValueError

if TYPE_CHECKING:
    from datasets import Features

SCHEMA = pa.schema({"query_id": pa.string(), "passage_ids": pa.list_(pa.string()), "scores": pa.list_(pa.float64())})
_BATCH = 1000
_LISTS_SAMPLED = 100


def run_features() -> Features:
    """The columns of `SCHEMA`, as `datasets` describes them."""
    from datasets import Features

    return Features.from_arrow_schema(SCHEMA)


class RankList(NamedTuple):
    """The passages of one query, best first.

    Attributes:
        passage_ids (`tuple[str, ...]`): Ids of the passages.
        scores (`np.ndarray` of shape `(len(passage_ids),)`, float64): Their scores, descending.
    """

    passage_ids: tuple[str, ...]
    scores: np.ndarray

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RankList):
            return NotImplemented
        return self.passage_ids == other.passage_ids and np.array_equal(self.scores, other.scores)

    def __ne__(self, other: object) -> bool:
        return not self == other  # That of a tuple compares the arrays with the operator, which gives no truth value.


def spread(scores: np.ndarray) -> float:
    """How far the best of a query's scores is above the median one, which scales margins and temperatures."""
    return float(scores.max() - np.median(scores))


def typical_spread(lists: Iterable[np.ndarray]) -> float:
    """The median spread of the first lists of two scores and more; 0 if there is none.

    Args:
        lists (`Iterable[np.ndarray]`): Scores of each query, in units of the result.
    """
    sampled = islice((scores for scores in lists if len(scores) > 1), _LISTS_SAMPLED)
    return float(np.median([spread(scores) for scores in sampled] or [0.0]))


class ListRow(NamedTuple):
    """A whole list on its way into rankings, not checked.

    Args:
        location (`str`): How errors name its line, row or record; empty if it came from Python.
        query_id (`Any`): Id of the query.
        passage_ids (`Any`): Sequence of the ids of the passages, in any order.
        scores (`Any`): Sequence of their scores.
        run_name (`str`, *optional*): Name of the run, if the record tells it.
    """

    location: str
    query_id: Any
    passage_ids: Any
    scores: Any
    run_name: str | None = None


class HitRow(NamedTuple):
    """One hit on its way into rankings, not checked.

    Args:
        location (`str`): How errors name its line, row or record.
        query_id (`Any`): Id of the query.
        passage_id (`Any`): Id of the passage.
        score (`Any`): Its score.
    """

    location: str
    query_id: Any
    passage_id: Any
    score: Any


class RankTableBuilder:
    """Puts lists and hits into an Arrow table, each list checked, sorted and converted once.

    Lists wait in Python only until there are enough for a batch, since Arrow takes a fifth of the memory. A query
    whose hits are scattered over a file first gets a row for each group of neighbours; they are joined at the end.
    """

    def __init__(self) -> None:
        self._batches: list[pa.Table] = []
        self._waiting: list[tuple[str, list[str], np.ndarray]] = []
        self._rows: dict[str, list[int]] = {}
        self._count = 0
        self._hits_query_id = ""
        self._hits: dict[str, float] = {}

    def add_list(self, row: ListRow) -> None:
        """Add a list as a user or a file gives it.

        Raises:
            TypeError: if an id or a score has the wrong type.
            ValueError: if a score is not finite, a passage occurs twice, or the query has a list already.
        """
        query_id, passage_ids, scores = _checked(row)
        if query_id in self._rows:
            raise DGRValueError(
                f"{row.location}: query {query_id!r} has a second list. Every query has one."
                if row.location
                else f"Query {query_id!r} has more than one rank list. Every query has one."
            )
        self.add_valid(query_id, passage_ids, scores)

    def add_valid(self, query_id: str, passage_ids: list[str], scores: np.ndarray) -> None:
        """Add a list that is known to be valid; it is sorted if it is not."""
        self._rows.setdefault(query_id, []).append(self._count)
        self._count += 1
        self._waiting.append((query_id, *_in_order(passage_ids, scores)))
        if len(self._waiting) == _BATCH:
            self._flush()

    @property
    def empty(self) -> bool:
        """`bool`: Whether nothing was added."""
        return not self._count and not self._hits

    def add_hit(self, query_id: str, passage_id: str, score: float) -> bool:
        """Add a hit with valid ids and a finite score.

        Returns:
            `bool`: `False` if the hits before it are of the same query and the passage is among them.
        """
        if query_id != self._hits_query_id:
            self._close_hits()
            self._hits_query_id = query_id
        if passage_id in self._hits:
            return False
        self._hits[passage_id] = score
        return True

    def add_hit_row(self, row: HitRow) -> None:
        """Add a hit as a file gives it.

        Raises:
            TypeError: if an id has the wrong type.
            ValueError: if an id is invalid, the score is no finite number, or the passage was just added.
        """
        location, score = row.location, row.score
        query_id, passage_id = as_id(row.query_id, "query", location), as_id(row.passage_id, "passage", location)
        if isinstance(score, str):  # As in a cell of a text file.
            score = _number(score)
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
            raise DGRValueError(
                f"{location}: the score of passage {passage_id!r} for query {query_id!r} is {row.score!r}, not a "
                "finite number."
            )
        if not self.add_hit(query_id, passage_id, float(score)):
            raise DGRValueError(f"{location}: passage {passage_id!r} occurs a second time for query {query_id!r}.")

    def table(self, refuse_repeated: Callable[[str], NoReturn] | None = None) -> pa.Table:
        """The table, with the columns of `SCHEMA` and a row for each query in the order of their first hits.

        Args:
            refuse_repeated (`Callable[[str], NoReturn]`, *optional*):
                Called with a query id if its hits are scattered and hold a passage twice; raises the error that names
                the second one's location.

        Raises:
            ValueError: if the scattered hits of a query hold a passage twice.
        """
        self._close_hits()
        self._flush()
        # Not in one chunk: the offsets of its ids have 32 bits, and large runs hold more than 2 GiB of ids.
        table = pa.concat_tables(self._batches)
        return table if self._count == len(self._rows) else self._joined(table, refuse_repeated)

    def _close_hits(self) -> None:
        if self._hits:
            scores = np.fromiter(self._hits.values(), np.float64, len(self._hits))
            self.add_valid(self._hits_query_id, list(self._hits), scores)
        self._hits = {}

    def _flush(self) -> None:
        columns = [list(column) for column in zip(*self._waiting, strict=True)] or [[], [], []]
        arrays = [pa.array(column, type) for column, type in zip(columns, SCHEMA.types, strict=True)]
        self._batches.append(pa.Table.from_arrays(arrays, schema=SCHEMA))
        self._waiting.clear()

    def _joined(self, table: pa.Table, refuse_repeated: Callable[[str], NoReturn] | None) -> pa.Table:
        """The table with one row for each query."""
        builder = RankTableBuilder()
        for query_id, rows in self._rows.items():
            passage_ids = [id for row in rows for id in table.column("passage_ids")[row].as_py()]
            scores = np.concatenate([table.column("scores")[row].values.to_numpy() for row in rows])
            if len(rows) > 1 and len(set(passage_ids)) < len(passage_ids):
                if refuse_repeated is not None:
                    refuse_repeated(query_id)
                raise _repeated(query_id, passage_ids)
            builder.add_valid(query_id, passage_ids, scores)
        return builder.table()


def list_table(rows: Iterable[ListRow]) -> tuple[pa.Table, str | None]:
    """The table of whole lists, and the name of the run if a row tells it."""
    builder, run_name = RankTableBuilder(), None
    for row in rows:
        builder.add_list(row)
        run_name = run_name or row.run_name
    return builder.table(), run_name


def hit_table(read: Callable[[], Iterable[HitRow]]) -> pa.Table:
    """The table of single hits in any order.

    Args:
        read (`Callable[[], Iterable[HitRow]]`): Reads the hits; called again to locate a passage that occurs twice.
    """

    def refuse_repeated(query_id: str) -> NoReturn:
        again = RankTableBuilder()
        for row in read():
            if as_id(row.query_id, "query", row.location) == query_id:
                again.add_hit_row(row)  # Now all hits of the query are neighbours.
        raise DGRValueError(f"Query {query_id!r}: its hits have changed while they were read.")

    builder = RankTableBuilder()
    for row in read():
        builder.add_hit_row(row)
    return builder.table(refuse_repeated)


def is_rank_table(table: pa.Table) -> bool:
    """Whether every list of a table is valid and sorted, so that the table can be used unchanged.

    Args:
        table (`pyarrow.Table`): Columns as in `SCHEMA`.
    """
    query_ids, passage_ids, scores = (table.column(name).combine_chunks() for name in SCHEMA.names)
    lengths = pc.list_value_length(passage_ids)
    if query_ids.null_count or passage_ids.null_count or scores.null_count:
        return False
    if not lengths.equals(pc.list_value_length(scores)):
        return False
    flat_ids, flat_scores = passage_ids.flatten(), scores.flatten()
    if flat_ids.null_count or flat_scores.null_count:
        return False
    values = flat_scores.to_numpy()
    if not np.isfinite(values).all():
        return False
    if len(values) < 2:
        return True
    lists = np.repeat(np.arange(len(table)), lengths.to_numpy())
    same_list = lists[1:] == lists[:-1]
    smaller_id = pc.less(flat_ids[1:], flat_ids[:-1]).to_numpy(zero_copy_only=False)
    descending = (values[1:] < values[:-1]) | ((values[1:] == values[:-1]) & smaller_id)
    if not (descending | ~same_list).all():
        return False
    encoded = flat_ids.dictionary_encode()
    occurrences = lists * len(encoded.dictionary) + encoded.indices.to_numpy()
    occurrences.sort()
    return bool((occurrences[1:] != occurrences[:-1]).all())


def by_rank(table: pa.Table) -> pa.Table:
    """The table of lists whose scores are negative ranks, with the scores of `Rankings.from_order`: from n down to 1.

    Ranks may begin at 0 or 1; where some are missing, the scores have the same gaps.
    """
    scores = table.column("scores").combine_chunks()
    lengths = pc.list_value_length(scores).to_numpy()
    values = scores.flatten().to_numpy()
    last = np.add.accumulate(lengths)[lengths > 0] - 1
    shifted = values - np.repeat(values[last], lengths[lengths > 0]) + 1
    offsets = pa.array(np.concatenate([[0], np.add.accumulate(lengths)]), pa.int32())
    column = pa.ListArray.from_arrays(offsets, pa.array(shifted, pa.float64())).cast(SCHEMA.field("scores").type)
    return table.set_column(table.column_names.index("scores"), SCHEMA.field("scores"), column)


def unzip(query_id: Any, pairs: Any) -> tuple[list[Any], list[Any]]:
    """Ids and scores of a list given as a mapping or as pairs; a `TypeError` names the query if it is neither."""
    if isinstance(pairs, RankList):
        return list(pairs.passage_ids), list(pairs.scores)
    items = list(pairs.items()) if isinstance(pairs, Mapping) else list(pairs)
    for item in items:
        if isinstance(item, str) or not isinstance(item, (tuple, list)) or len(item) != 2:
            raise DGRTypeError(
                f"Query {query_id!r}: a rank list holds {item!r}, not a pair of passage id and score. "
                "Rankings.from_order takes passage ids without scores."
            )
    return [item[0] for item in items], [item[1] for item in items]


def _checked(row: ListRow) -> tuple[str, list[str], np.ndarray]:
    """Query id, passage ids and scores of a valid list; errors begin with its location."""
    try:
        query_id = _text_id(row.query_id, "query", "A rank list")
        ids, scores = row.passage_ids, row.scores
        if ids is None or scores is None or len(ids) != len(scores):
            counts = ["none" if column is None else len(column) for column in (ids, scores)]
            raise DGRValueError(
                f"Query {query_id!r}: {counts[0]} passage ids, but {counts[1]} scores. Every passage has one."
            )
        passage_ids = list(ids)
        if not all(type(id) is str and id.isascii() for id in passage_ids):
            passage_ids = [_text_id(id, "passage", f"Query {query_id!r}") for id in passage_ids]
        values = _finite(query_id, passage_ids, scores)
        if len(set(passage_ids)) != len(passage_ids):
            raise _repeated(query_id, passage_ids)
    except (TypeError, ValueError) as error:
        if not row.location:
            raise
        wrapped = DGRTypeError if isinstance(error, TypeError) else DGRValueError
        raise wrapped(f"{row.location}: {error}") from None
    return query_id, passage_ids, values


def _finite(query_id: str, passage_ids: Sequence[str], scores: Any) -> np.ndarray:
    if not isinstance(scores, np.ndarray) and not all(type(score) is float for score in scores):
        for passage_id, score in zip(passage_ids, scores, strict=True):
            if not hasattr(score, "__float__"):
                raise DGRTypeError(
                    f"Query {query_id!r}: the score of passage {passage_id!r} is {score!r:.60} "
                    f"({type(score).__name__}), not a number. Give it a score, or leave the passage out."
                )
        scores = [float(score) for score in scores]
    values = np.asarray(scores, dtype=np.float64)
    finite = np.isfinite(values)
    if not finite.all():
        wrong = int(np.flatnonzero(~finite)[0])
        raise DGRValueError(
            f"The score of passage {passage_ids[wrong]!r} for query {query_id!r} is {values[wrong]}. Scores have to "
            "be finite."
        )
    return values


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _in_order(passage_ids: list[str], scores: np.ndarray) -> tuple[list[str], np.ndarray]:
    """A list sorted by score, highest first; of equal scores the larger id first."""
    if (scores[1:] < scores[:-1]).all():
        return passage_ids, scores
    pairs = sorted(zip(scores.tolist(), passage_ids, strict=True), reverse=True)
    return [id for _, id in pairs], np.array([score for score, _ in pairs], dtype=np.float64)


def _repeated(query_id: str, passage_ids: Sequence[str]) -> DGRValueError:
    passage_id = next(id for id, count in Counter(passage_ids).items() if count > 1)
    return DGRValueError(f"Passage {passage_id!r} occurs more than once in the list of query {query_id!r}.")


def _text_id(value: object, item: str, location: str) -> str:
    """An id that may hold whitespace, which only files do not allow."""
    text = value if type(value) is str else text_of_id(value, item, location)
    if not text.isascii():
        check_encodable(text, f"{item} id {text!r}", location)
    return text
