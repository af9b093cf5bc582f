"""Rankings: for every query a rank list, as a run, a teacher or a fusion of them gives it."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from tqdm.auto import tqdm

from dgr_trainer.atomic import atomic_write
from dgr_trainer.ids import as_id
from dgr_trainer.lines import json_lines, numbered_lines, place
from dgr_trainer.rank_lists import FEATURES, RankList, rank_table, sorted_list, unzip

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]


class Rankings(Mapping[str, RankList]):
    """Rank lists by query id.

    A list is sorted by score, highest first. Of passages with the same score, the one with the larger id (as a string)
    comes first, as in trec_eval, so that ranks do not depend on the order of a file or a dict. The lists are kept in
    Arrow, which takes about a fifth of the memory of Python strings, and become a [`RankList`] when asked for.

    Args:
        lists (`Mapping[str, Mapping[str, float] | Iterable[tuple[str, float]]]`): for each query id, the score of each
            passage id. A list may be empty: nothing was found.
        name (`str`, *optional*): name of the run or teacher.

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
            raise TypeError(
                f"Rankings take a mapping of query ids to rank lists, but got a {type(lists).__name__}. "
                "Rankings.from_trec, from_jsonl and from_dataset read other forms."
            )
        self._take(rank_table((query_id, *unzip(query_id, pairs)) for query_id, pairs in lists.items()), name)

    def _take(self, table: pa.Table, name: str | None) -> None:
        self._table = table
        self._rows: dict[str, int] = {}
        for row, query_id in enumerate(table.column("query_id").to_pylist()):
            if query_id in self._rows:
                raise ValueError(f"Query {query_id!r} has more than one rank list. Every query has one.")
            self._rows[query_id] = row
        self.name = name

    @classmethod
    def _of(cls, lists: Iterable[tuple[Any, Sequence[Any], Sequence[Any] | np.ndarray]], name: str | None) -> Rankings:
        return cls._over(rank_table(lists), name)

    @classmethod
    def _over(cls, table: pa.Table, name: str | None) -> Rankings:
        rankings = cls.__new__(cls)
        rankings._take(table, name)
        return rankings

    @classmethod
    def from_order(cls, lists: Mapping[str, Sequence[str]], name: str | None = None) -> Rankings:
        """Rankings of a teacher that gives an order and no scores: passage ids by query id, best first.

        Of n passages the first gets the score n, the last gets 1.
        """
        for query_id, ids in lists.items():
            if isinstance(ids, (str, Mapping)) or not isinstance(ids, Sequence):
                raise TypeError(f"Query {query_id!r}: a {type(ids).__name__}, not a list of passage ids, best first.")
        return cls._of(((query_id, ids, np.arange(len(ids), 0, -1)) for query_id, ids in lists.items()), name)

    # Reading

    @classmethod
    def from_trec(cls, path: PathLike, name: str | None = None) -> Rankings:
        """Read a TREC run: six columns between whitespace, `query Q0 passage rank score tag`, on each line.

        Lists are ordered by the scores; the ranks are only checked to be integers, as in trec_eval.

        Args:
            path (`str` or `os.PathLike`): the run, which may be gzipped (`.gz`).
            name (`str`, *optional*, defaults to the tag on the first line): name of the run.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if a line is malformed, a passage occurs twice for a query, or the file is empty.
        """
        parts: dict[str, list[tuple[pa.Array, np.ndarray]]] = {}
        current = ""
        scores: dict[str, float] = {}

        def close() -> None:
            if scores:
                values = np.fromiter(scores.values(), dtype=np.float64, count=len(scores))
                parts.setdefault(current, []).append((pa.array(list(scores), pa.string()), values))

        for number, line in tqdm(numbered_lines(path), desc="Reading run", unit=" lines", delay=5):
            cells = line.split()
            score = _trec_score(path, number, cells)
            query_id, passage_id = cells[0], cells[2]
            if query_id != current:
                close()
                current, scores = query_id, {}
            if passage_id in scores:
                raise ValueError(
                    f"{place(path, number)}: passage {passage_id!r} occurs a second time for query {query_id!r}. "
                    "A run has each passage once a query."
                )
            scores[passage_id] = score
            name = name or cells[5]
        close()
        if not parts:
            raise ValueError(f"{os.fspath(path)}: the run is empty.")
        lists = (
            (query_id, [id for ids, _ in group for id in ids.to_pylist()], np.concatenate([part[1] for part in group]))
            for query_id, group in parts.items()
        )
        return cls._of(lists, name)

    @classmethod
    def from_jsonl(cls, path: PathLike, name: str | None = None) -> Rankings:
        """Read what [`~Rankings.to_jsonl`] wrote: `query_id`, `passage_ids`, `scores` on each line.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if a line is malformed or a query occurs twice.
        """

        def lists() -> Iterator[tuple[Any, Any, Any]]:
            nonlocal name
            for number, record in tqdm(json_lines(path), desc="Reading rank lists", unit=" lists", delay=5):
                where = place(path, number)
                missing = [field for field in FEATURES if field not in record]
                if missing:
                    raise ValueError(f"{where}: no field {missing}. The fields found are {sorted(record)}.")
                if not isinstance(record["passage_ids"], list) or not isinstance(record["scores"], list):
                    raise ValueError(f"{where}: passage_ids and scores have to be lists.")
                name = name or record.get("run")
                try:
                    yield sorted_list(record["query_id"], record["passage_ids"], record["scores"])
                except (TypeError, ValueError) as error:
                    raise type(error)(f"{where}: {error}") from None

        table = rank_table(lists())
        return cls._over(table, name)

    @classmethod
    def from_dataset(cls, dataset: Dataset, name: str | None = None) -> Rankings:
        """Rankings over a dataset with the columns `query_id`, `passage_ids` (list) and `scores` (list).

        If the lists are sorted as [`Rankings`] sorts them, the dataset is used as it is, memory-mapped if it was;
        else the lists are sorted in memory.

        Raises:
            TypeError: if `dataset` is no `datasets.Dataset`.
            ValueError: if a column is missing.
        """
        if not isinstance(dataset, Dataset):
            raise TypeError(f"Got a {type(dataset).__name__}, but a datasets.Dataset is needed.")
        missing = [field for field in FEATURES if field not in dataset.column_names]
        if missing:
            raise ValueError(f"The dataset has no column {missing}; its columns are {dataset.column_names}.")
        plain = dataset.select_columns(list(FEATURES)).with_format(None)

        def lists() -> Iterator[tuple[Any, Any, Any]]:
            for batch in plain.iter(batch_size=1000):
                yield from zip(batch["query_id"], batch["passage_ids"], batch["scores"], strict=True)

        if plain.features == FEATURES and all(sorted_list(*row)[1] == row[1] for row in lists()):
            return cls._over(plain.with_format("arrow")[:], name)
        return cls._of(lists(), name)

    # Mapping

    def __getitem__(self, query_id: str) -> RankList:
        row = self._rows.get(query_id)
        if row is None:
            example = f", such as {next(iter(self))!r}" if self else ""
            raise KeyError(f"No rank list for query {query_id!r}: there are {len(self)}{example}.")
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
            path (`str` or `os.PathLike`): the file.
            tag (`str`, *optional*, defaults to the name of the rankings, or `dgr-trainer`): the last column.

        Raises:
            ValueError: if the tag or an id is empty or holds whitespace.
        """
        tag = tag or self.name or "dgr-trainer"
        if tag.split() != [tag]:
            raise ValueError(
                f"The tag {tag!r} holds whitespace, at which run files are split. Give one without: tag=..."
            )
        empty = 0
        with atomic_write(path) as file:
            for query_id, (passage_ids, scores) in self.items():
                as_id(query_id, "query", "run")
                empty += not passage_ids
                for rank, (passage_id, score) in enumerate(zip(passage_ids, scores.tolist(), strict=True), start=1):
                    as_id(passage_id, "passage", f"run, query {query_id!r}")
                    file.write(f"{query_id} Q0 {passage_id} {rank} {score!r} {tag}\n")
        if empty:
            logger.warning("%s: %d of %d queries have an empty list and are not in the run.", path, empty, len(self))

    def to_jsonl(self, path: PathLike) -> None:
        """Write JSON Lines, whole or not at all: `query_id`, `passage_ids`, `scores`, and the name as `run`."""
        with atomic_write(path) as file:
            for query_id, (passage_ids, scores) in self.items():
                record = {"query_id": query_id, "passage_ids": list(passage_ids), "scores": scores.tolist()}
                file.write(json.dumps(record | ({"run": self.name} if self.name else {}), ensure_ascii=False) + "\n")

    def to_dataset(self) -> Dataset:
        """A dataset with the columns `query_id`, `passage_ids`, `scores`; nothing is copied."""
        return Dataset(self._table.select(list(FEATURES)).cast(FEATURES.arrow_schema))

    def to_run(self) -> dict[str, dict[str, float]]:
        """Scores by query id and passage id, as pytrec_eval and others take them."""
        return {query_id: dict(zip(ids, scores.tolist(), strict=True)) for query_id, (ids, scores) in self.items()}

    # Other rankings of these

    def top(self, k: int) -> Rankings:
        """The first `k` passages of every list."""
        if k < 1:
            raise ValueError(f"k is {k}, but at least one passage of a list has to be kept.")
        return self._of(((query_id, ids[:k], scores[:k]) for query_id, (ids, scores) in self.items()), self.name)

    def check_corpus(self, ids: Container[str]) -> Rankings:
        """The rankings without passages that are unknown; what is dropped is counted in one warning.

        A query all of whose passages are unknown is dropped with them.

        Args:
            ids (`Corpus` or `Container[str]`): what is known.

        Raises:
            ValueError: if most passages are unknown: the rankings are of another corpus.
        """
        lists: list[tuple[str, list[str], np.ndarray]] = []
        unknown, total, example = 0, 0, ""
        for query_id, (passage_ids, scores) in self.items():
            known = [passage_id in ids for passage_id in passage_ids]
            total += len(known)
            if not all(known):
                unknown += len(known) - sum(known)
                example = example or passage_ids[known.index(False)]
            if any(known) or not known:
                lists.append(
                    (query_id, [id for id, kept in zip(passage_ids, known, strict=True) if kept], scores[known])
                )
        if not unknown:
            return self
        found = f"{unknown} of {total} ranked passages are not in the corpus, such as {example!r}"
        if 2 * unknown > total:
            raise ValueError(f"{found}. Were these rankings made for this corpus, and with these ids?")
        lost = len(self) - len(lists)
        logger.warning("%s. They were dropped%s.", found, f", and with them {lost} whole lists" if lost else "")
        return self._of(lists, self.name)


def _trec_score(path: PathLike, number: int, cells: list[str]) -> float:
    """The score on a line of a run, or an error that says what is wrong with the line."""
    expected = "expected six columns: query Q0 passage rank score tag"
    if len(cells) != 6:
        hint = " Four columns are qrels: read_qrels reads them." if len(cells) == 4 else ""
        raise ValueError(f"{place(path, number)}: {len(cells)} columns, but {expected}.{hint}")
    rank, value = cells[3], cells[4]
    if not rank.removeprefix("-").isdecimal():
        raise ValueError(f"{place(path, number)}: the rank (column 4) is {rank!r}, not an integer; {expected}.")
    try:
        score = float(value)
    except ValueError:
        raise ValueError(
            f"{place(path, number)}: the score (column 5) is {value!r}, not a number; {expected}."
        ) from None
    if not math.isfinite(score):
        raise ValueError(
            f"{place(path, number)}: the score of passage {cells[2]!r} for query {cells[0]!r} is {value}. "
            "Scores have to be finite."
        )
    return score
