"""Rankings: the rank lists of a run, a teacher or a fusion, by query id."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dgr_trainer.data.columns import RUN_COLUMNS
from dgr_trainer.data.formats.huggingface import chosen_columns, column_names, rows
from dgr_trainer.data.ids import as_id
from dgr_trainer.errors import DGRKeyError, DGRTypeError, DGRValueError
from dgr_trainer.files.compression import atomic_text, undamaged
from dgr_trainer.files.records import json_records
from dgr_trainer.runs.json_runs import list_rows, negative_rank
from dgr_trainer.runs.rank_list import (
    SCHEMA,
    HitRow,
    ListRow,
    RankList,
    RankTableBuilder,
    by_rank,
    hit_table,
    is_rank_table,
    list_table,
    run_features,
    unzip,
)
from dgr_trainer.runs.trec import read_trec_run

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]


class Rankings(Mapping[str, RankList]):
    """Rank lists by query id.

    A list is sorted by score, highest first. Of passages with the same score, the one with the larger id (as a string)
    comes first, as in trec_eval, so that ranks do not depend on the order of a file or a dict. The lists are kept in
    Arrow, which takes about a fifth of the memory of Python strings, and become a [`RankList`] when they are accessed.

    Args:
        lists (`Mapping[str, Mapping[str, float] | Iterable[tuple[str, float]]]`):
            Scores by query id and passage id. A list may be empty: nothing was found.
        name (`str`, *optional*): Name of the run or teacher.

    Raises:
        TypeError: if an id is no string (or integer) or a score no number.
        ValueError: if a score is NaN or infinite, or a passage occurs twice in a list; query and passage are named.

    Example:

    ```python
    >>> from dgr_trainer import Rankings
    >>> rankings = Rankings({"q1": {"p1": 0.5, "p2": 2.5, "p3": 0.5}})
    >>> rankings["q1"].passage_ids
    ('p2', 'p3', 'p1')

    ```
    """

    def __init__(
        self, lists: Mapping[str, Mapping[str, float] | Iterable[tuple[str, float]]], name: str | None = None
    ) -> None:
        if not isinstance(lists, Mapping):
            raise DGRTypeError(
                f"Rankings take a mapping of query ids to rank lists, but got a {type(lists).__name__}. "
                "Rankings.from_trec, from_jsonl and from_dataset read other forms."
            )
        table, _ = list_table(ListRow("", query_id, *unzip(query_id, pairs)) for query_id, pairs in lists.items())
        self._set_table(table, name)

    def _set_table(self, table: pa.Table, name: str | None) -> None:
        self._table = table
        self._rows: dict[str, int] = {}
        for row, query_id in enumerate(table.column("query_id").to_pylist()):
            if query_id in self._rows:
                raise DGRValueError(f"Query {query_id!r} has more than one rank list. Every query has one.")
            self._rows[query_id] = row
        self.name = name

    @classmethod
    def _from_table(cls, table: pa.Table, name: str | None) -> Rankings:
        """Rankings of a table whose lists are valid and sorted."""
        rankings = cls.__new__(cls)
        rankings._set_table(table, name)
        return rankings

    @classmethod
    def _from_rows(cls, rows: Iterable[ListRow], name: str | None = None, default_name: str | None = None) -> Rankings:
        """Rankings of lists that a file or a dataset holds; the rows may tell the name."""
        table, run_name = list_table(rows)
        return cls._from_table(table, name or run_name or default_name)

    @classmethod
    def from_order(cls, lists: Mapping[str, Sequence[str]], name: str | None = None) -> Rankings:
        """Make rankings of a teacher that gives an order and no scores.

        Args:
            lists (`Mapping[str, Sequence[str]]`):
                Passage ids by query id, best first. Of n passages the first gets the score n, the last gets 1.
            name (`str`, *optional*): Name of the teacher.
        """
        for query_id, ids in lists.items():
            if isinstance(ids, (str, Mapping)) or not isinstance(ids, Sequence):
                raise DGRTypeError(
                    f"Query {query_id!r}: a {type(ids).__name__}, not a list of passage ids, best first."
                )
        return cls._from_rows(
            (ListRow("", query_id, ids, np.arange(len(ids), 0, -1)) for query_id, ids in lists.items()), name
        )

    # Reading

    @classmethod
    def from_trec(cls, path: PathLike, name: str | None = None) -> Rankings:
        """Read a TREC run: six columns between whitespace, `query Q0 passage rank score tag`, on each line.

        Lists are ordered by the scores, as in trec_eval; if some ranks contradict the scores, a warning counts them.

        Args:
            path (`str` or `os.PathLike`): The run, which may be compressed (`.gz`, `.zst`, `.bz2`, `.xz`).
            name (`str`, *optional*, defaults to the tag on the first line): Name of the run.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if a line is malformed, all ranks contradict the scores, a passage occurs twice for a query, or
                the file is empty.
        """
        with undamaged(path):
            tag, table = read_trec_run(path)
        return cls._from_table(table, name or tag)

    @classmethod
    def from_jsonl(cls, path: PathLike, name: str | None = None) -> Rankings:
        """Read what [`~Rankings.to_jsonl`] wrote: `query_id`, `passage_ids`, `scores` on each line.

        The file may also hold one array of such objects.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if a line is malformed or a query occurs twice.
        """
        with undamaged(path):
            return cls._from_rows(list_rows(json_records(path)), name)

    @classmethod
    def from_dataset(
        cls,
        dataset: Dataset | IterableDataset,
        name: str | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> Rankings:
        """Make rankings of a dataset, which may be streamed.

        A row is a rank list, with the columns `query_id`, `passage_ids` (list) and `scores` (list), or one hit:
        `query_id` (or `qid`, `q_id`), `passage_id` (or `docno`, `doc_id`, `docid`, `pid`) and `score` (or `rank`). If
        the lists are sorted as [`Rankings`] sorts them, the dataset is used unchanged, memory-mapped if it was;
        otherwise the lists are sorted in memory.

        Args:
            dataset (`datasets.Dataset` or `datasets.IterableDataset`): The rows.
            name (`str`, *optional*): Name of the run.
            columns (`Mapping[str, str]`, *optional*):
                Column of a field that has another name in the dataset, for example `{"query_id": "topic"}`.

        Raises:
            TypeError: if `dataset` is no dataset, or a value has the wrong type.
            ValueError: if a column is missing, or a list is invalid.
        """
        from datasets import Dataset

        chosen = chosen_columns(dataset, columns, RUN_COLUMNS, needed=("query_id",))
        hit = ("passage_id", "score" if "score" in chosen or "rank" not in chosen else "rank")
        fields = hit if "passage_id" in chosen else ("passage_ids", "scores")
        missing = [field for field in fields if field not in chosen]
        if missing:
            raise DGRValueError(
                f"The dataset has no column {missing}; its columns are {column_names(dataset)}. A run has passage_ids "
                "and scores (lists), or passage_id and score or rank (a row a hit)."
            )
        chosen = {field: chosen[field] for field in ("query_id", *fields)}
        if fields == ("passage_id", "score"):
            return cls._from_table(hit_table(lambda: _hit_rows(rows(dataset, chosen))), name)
        if fields == ("passage_id", "rank"):
            return cls._from_table(by_rank(hit_table(lambda: _rank_rows(rows(dataset, chosen)))), name)

        if isinstance(dataset, Dataset) and list(chosen.values()) == SCHEMA.names:
            plain = dataset.select_columns(SCHEMA.names).with_format("arrow")
            if plain.features == run_features() and all(map(is_rank_table, plain.iter(batch_size=1000))):
                return cls._from_table(plain[:], name)
        return cls._from_rows(_list_rows(rows(dataset, chosen)), name)

    # Mapping

    def __getitem__(self, query_id: str) -> RankList:
        row = self._rows.get(query_id)
        if row is None:
            example = f", such as {next(iter(self))!r}" if self else ""
            raise DGRKeyError(f"No rank list for query {query_id!r}: there are {len(self)}{example}.")
        scores = np.array(self._table.column("scores")[row].values, dtype=np.float64)
        return RankList(tuple(self._table.column("passage_ids")[row].as_py()), scores)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, query_id: object) -> bool:
        return query_id in self._rows

    def __repr__(self) -> str:
        return f"Rankings({len(self)} rank lists{f', name={self.name!r}' if self.name else ''})"

    # Writing

    def to_trec(self, path: PathLike, tag: str | None = None) -> None:
        """Write a TREC run, whole or not at all. Reading it back gives the same scores to the last bit.

        Programs that keep scores in 32 bits (trec_eval does) may see ties where these differ in later digits.

        Args:
            path (`str` or `os.PathLike`): The file; compressed if its name ends in `.gz` or `.zst`.
            tag (`str`, *optional*, defaults to the name of the rankings, or `dgr-trainer`): The last column.

        Raises:
            ValueError: if the tag or an id is empty or holds whitespace.
        """
        tag = tag or self.name or "dgr-trainer"
        if tag.split() != [tag]:
            raise DGRValueError(
                f"The tag {tag!r} holds whitespace, at which run files are split. Give one without: tag=..."
            )
        empty = 0
        with atomic_text(path) as file:
            for query_id, (passage_ids, scores) in self.items():
                as_id(query_id, "query", "run")
                empty += not passage_ids
                for rank, (passage_id, score) in enumerate(zip(passage_ids, scores.tolist(), strict=True), start=1):
                    as_id(passage_id, "passage", f"run, query {query_id!r}")
                    file.write(f"{query_id} Q0 {passage_id} {rank} {score!r} {tag}\n")
        if empty:
            logger.warning("%s: %d of %d queries have an empty list and are not in the run.", path, empty, len(self))

    def to_jsonl(self, path: PathLike) -> None:
        """Write JSON Lines, whole or not at all: `query_id`, `passage_ids`, `scores`, and the name as `run`.

        A name that ends in `.gz` or `.zst` makes a compressed file.
        """
        with atomic_text(path) as file:
            for query_id, (passage_ids, scores) in self.items():
                record = {"query_id": query_id, "passage_ids": list(passage_ids), "scores": scores.tolist()}
                file.write(json.dumps(record | ({"run": self.name} if self.name else {}), ensure_ascii=False) + "\n")

    def to_dataset(self) -> Dataset:
        """A dataset with the columns `query_id`, `passage_ids`, `scores`; nothing is copied."""
        from datasets import Dataset

        return Dataset(self._table.select(SCHEMA.names).cast(run_features().arrow_schema))

    def to_run(self) -> dict[str, dict[str, float]]:
        """Scores by query id and passage id, the form that pytrec_eval and ranx use."""
        return {query_id: dict(zip(ids, scores.tolist(), strict=True)) for query_id, (ids, scores) in self.items()}

    # Derived rankings

    def top(self, k: int) -> Rankings:
        """The first `k` passages of every list."""
        if k < 1:
            raise DGRValueError(f"k is {k}, but at least one passage of a list has to be kept.")
        columns = [pc.list_slice(self._table.column(name), 0, k) for name in ("passage_ids", "scores")]
        table = pa.Table.from_arrays([self._table.column("query_id"), *columns], names=SCHEMA.names)
        return self._from_table(table, self.name)

    def without_identical_ids(self) -> Rankings:
        """The lists without the passage that has the id of the query, as BEIR's `ignore_identical_ids` does.

        For corpora whose passages are the queries (ArguAna, duplicate questions), where each query finds itself.
        """
        kept_lists = RankTableBuilder()
        changed = False
        for query_id, (passage_ids, scores) in self.items():
            if query_id in passage_ids:
                changed = True
                own = passage_ids.index(query_id)
                passage_ids, scores = passage_ids[:own] + passage_ids[own + 1 :], np.delete(scores, own)
            kept_lists.add_valid(query_id, list(passage_ids), scores)
        return self._from_table(kept_lists.table(), self.name) if changed else self

    def check_corpus(self, ids: Container[str]) -> Rankings:
        """Remove passages that are not in a corpus; one warning counts them.

        A query whose passages are all unknown is removed as well.

        Args:
            ids (`Corpus` or `Container[str]`): The corpus, or the ids in it.

        Raises:
            ValueError: if most passages are unknown, so that the rankings are of another corpus.
        """
        kept_lists = RankTableBuilder()
        lists, unknown, total, example = 0, 0, 0, ""
        for query_id, (passage_ids, scores) in self.items():
            is_known = [passage_id in ids for passage_id in passage_ids]
            total += len(is_known)
            if not all(is_known):
                unknown += len(is_known) - sum(is_known)
                example = example or passage_ids[is_known.index(False)]
            if any(is_known) or not is_known:
                lists += 1
                kept_ids = [id for id, kept in zip(passage_ids, is_known, strict=True) if kept]
                kept_lists.add_valid(query_id, kept_ids, scores[is_known])
        if not unknown:
            return self
        problem = f"{unknown} of {total} ranked passages are not in the corpus, such as {example!r}"
        if 2 * unknown > total:
            raise DGRValueError(f"{problem}. Were these rankings made for this corpus, and with these ids?")
        lost = len(self) - lists
        logger.warning("%s. They were dropped%s.", problem, f", and with them {lost} whole lists" if lost else "")
        return self._from_table(kept_lists.table(), self.name)


def as_rankings(rankings: Mapping[str, RankList] | Mapping[str, Mapping[str, float]]) -> Rankings:
    """Rankings of a mapping of scores; rankings are returned unchanged."""
    if isinstance(rankings, Rankings):
        return rankings
    return Rankings(cast(Mapping[str, Mapping[str, float]], rankings))


def _list_rows(numbered_rows: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[ListRow]:
    """The lists of a dataset with a list in each row."""
    for number, row in numbered_rows:
        for field in ("passage_ids", "scores"):
            if row[field] is not None and not isinstance(row[field], list):
                raise DGRTypeError(f"row {number}: {field} is {row[field]!r:.60}, but it has to be a list.")
        yield ListRow(f"row {number}", row["query_id"], row["passage_ids"], row["scores"])


def _hit_rows(numbered_rows: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[HitRow]:
    """The hits of a dataset with a hit in each row."""
    for number, row in numbered_rows:
        yield HitRow(f"row {number}", row["query_id"], row["passage_id"], row["score"])


def _rank_rows(numbered_rows: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[HitRow]:
    """The hits of a dataset whose rows have a rank and no score; the score is minus the rank."""
    for number, row in numbered_rows:
        location = f"row {number}"
        yield HitRow(location, row["query_id"], row["passage_id"], negative_rank(location, row["rank"]))
