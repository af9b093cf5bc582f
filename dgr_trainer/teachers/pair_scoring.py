"""The one engine that scores queries with passages: which pairs there are, in which batches, on which process, and
what need not be scored any more.

Pairs are taken in the order of query and passage id, cut into chunks, and sorted by length within a chunk. Batches
follow from the pairs alone. So scores are the same to the last bit whatever was killed in between and however many
processes shared the batches, as long as they compute alike: on the same kind of device, with as many threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm.auto import tqdm

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.errors import DGRArithmeticError
from dgr_trainer.processes import Processes, is_main_process, merge_results, process_rank, wait
from dgr_trainer.teachers.score_store import KEY, ScoreStore, content_key

_PAIRS_A_CHUNK = 8192


class PairModel(Protocol):
    """What the engine asks of a model."""

    batch_tokens: int

    def content(self, query: str, passage: Passage) -> tuple[bytes, bytes]:
        """All that the model reads of a query and of a passage."""

    def encode(self, pairs: Sequence[tuple[str, Passage]]) -> Sequence[Any]:
        """Inputs of the model, each by itself."""

    def length(self, encoded: Any) -> int:
        """Number of tokens of an input."""

    def score(self, batch: Sequence[Any]) -> np.ndarray:
        """Scores of inputs: shape `(n,)`, float64."""

    def settings(self) -> Mapping[str, object]:
        """All that scores depend on beside query and passage, in JSON types."""


@dataclass(frozen=True)
class Pairs:
    """Queries with the positions of their passages, in the order in which they are scored.

    Args:
        queries (`Mapping[str, str]`): query id -> query.
        query_ids (`list[str]`): the queries that have passages, sorted.
        query_of (`np.ndarray` of shape `(n,)`, int32): for each pair, the place of its query in `query_ids`.
        position_of (`np.ndarray` of shape `(n,)`, int64): for each pair, the position of its passage in the corpus.
    """

    queries: Mapping[str, str]
    query_ids: list[str]
    query_of: np.ndarray
    position_of: np.ndarray

    @classmethod
    def of(cls, queries: Mapping[str, str], wanted: Mapping[str, Sequence[str]], corpus: Corpus) -> Pairs:
        """The pairs of queries and the passages wanted for them, by id."""
        query_ids = sorted(query_id for query_id, passage_ids in wanted.items() if passage_ids)
        counts = [len(wanted[query_id]) for query_id in query_ids]
        positions = (corpus.position(id) for query_id in query_ids for id in sorted(wanted[query_id]))
        return cls(
            queries,
            query_ids,
            np.repeat(np.arange(len(query_ids), dtype=np.int32), counts),
            np.fromiter(positions, dtype=np.int64, count=sum(counts)),
        )

    def __len__(self) -> int:
        return len(self.query_of)

    def read(self, rows: np.ndarray, corpus: Corpus) -> list[tuple[str, Passage]]:
        """Query and passage of some of the pairs."""
        positions, places = np.unique(self.position_of[rows], return_inverse=True)
        columns = corpus.dataset.select_columns(["id", "title", "text"])[positions.tolist()]
        passages = [Passage(*row) for row in zip(columns["id"], columns["title"], columns["text"], strict=True)]
        return [
            (self.queries[self.query_ids[query]], passages[place])
            for query, place in zip(self.query_of[rows].tolist(), places.tolist(), strict=True)
        ]

    def name(self, row: int, corpus: Corpus) -> str:
        """How errors name a pair."""
        passage_id = corpus.ids[int(self.position_of[row])]
        return f"query {self.query_ids[self.query_of[row]]!r} and passage {passage_id!r}"


def score_pairs(
    model: PairModel,
    pairs: Pairs,
    corpus: Corpus,
    *,
    name: str,
    cache: str | Path | None,
    processes: Processes | None,
    progress: bool,
) -> np.ndarray:
    """Score pairs, each content once.

    Args:
        model ([`PairModel`]): the model.
        pairs ([`Pairs`]): what to score.
        corpus (`Corpus`): the passages.
        name (`str`): the model's name, for errors and the progress bar.
        cache (`str` or `pathlib.Path`, *optional*): folder of a [`ScoreStore`]. Every batch is added to it, and what
            it holds is not scored.
        processes ([`Processes`], *optional*): who takes part; each scores every so-many-th batch.
        progress (`bool`): whether to show progress.

    Returns:
        `np.ndarray` of shape `(n,)`, float64: the scores, on every process.

    Raises:
        FloatingPointError: if the model gives a score that is not a finite number; names the pair.
    """
    keys, first, inverse = _distinct(model, pairs, corpus, progress and is_main_process(processes))
    store = ScoreStore(cache, model.settings()) if cache is not None else None
    wait(processes)  # What all of them have seen in the store is the same.
    with store if store is not None else nullcontext():
        scores = np.full(len(keys), np.nan) if store is None else store.scores(keys)
        known = int(np.isfinite(scores).sum())
        own = _OwnScores(model, pairs, corpus, name, store, processes)
        hidden = not progress or not is_main_process(processes)
        with tqdm(total=len(keys), initial=known, desc=name, unit="pair", disable=hidden) as bar:
            own.run(keys, first, scores, bar)
    scores = merge_results(scores, processes)
    if store is not None:
        wait(processes)
        if is_main_process(processes):
            store.merge()
        wait(processes)
    return scores[inverse]


def plan_batches(lengths: np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    """Put inputs of like length together, so that none is padded much.

    Args:
        lengths (`np.ndarray` of shape `(n,)`, int64): number of tokens of each input.
        batch_tokens (`int`): the most tokens of a batch, padding included. An input that is longer is a batch alone.

    Yields:
        `np.ndarray`, int64: positions of the inputs of a batch. The longest inputs come first, so that too little
        memory shows at once.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, int(lengths[order[start]])))
        yield order[start : start + size]
        start += size


def _distinct(
    model: PairModel, pairs: Pairs, corpus: Corpus, progress: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct contents in the order of their first pair: keys, first pairs, and the content of each pair."""
    keys = bytearray()
    with tqdm(total=len(pairs), desc="Reading pairs", unit="pair", disable=not progress, delay=5) as bar:
        for start in range(0, len(pairs), _PAIRS_A_CHUNK):
            chunk = pairs.read(np.arange(start, min(start + _PAIRS_A_CHUNK, len(pairs))), corpus)
            for query, passage in chunk:
                keys += content_key(*model.content(query, passage))
            bar.update(len(chunk))
    found, first, inverse = np.unique(np.frombuffer(bytes(keys), KEY), return_index=True, return_inverse=True)
    order = np.argsort(first)
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    return found[order], first[order], places[inverse]


class _OwnScores:
    """Scores the batches of this process that are not known yet."""

    def __init__(
        self,
        model: PairModel,
        pairs: Pairs,
        corpus: Corpus,
        name: str,
        store: ScoreStore | None,
        processes: Processes | None,
    ):
        self.model, self.pairs, self.corpus, self.name = model, pairs, corpus, name
        self.store = store
        self.index, self.count = process_rank(processes)

    def run(self, keys: np.ndarray, first: np.ndarray, scores: np.ndarray, bar: Any) -> None:
        starts = [
            start
            for start in range(0, len(keys), _PAIRS_A_CHUNK)
            if np.isnan(scores[start : start + _PAIRS_A_CHUNK]).any()
        ]
        # The next chunk is tokenised while the model works.
        with ThreadPoolExecutor(1) as tokeniser:
            ahead = [tokeniser.submit(self._encode, first[start : start + _PAIRS_A_CHUNK]) for start in starts[:1]]
            for place, start in enumerate(starts):
                inputs = ahead.pop().result()
                for following in starts[place + 1 : place + 2]:
                    ahead.append(tokeniser.submit(self._encode, first[following : following + _PAIRS_A_CHUNK]))
                lengths = np.array([self.model.length(one) for one in inputs], dtype=np.int64)
                for number, batch in enumerate(plan_batches(lengths, self.model.batch_tokens)):
                    # Whose a batch is does not depend on what is known: another job may add to the store meanwhile.
                    owner = (start // _PAIRS_A_CHUNK + number) % self.count
                    open_rows = batch[np.isnan(scores[start + batch])]
                    if owner != self.index or not len(open_rows):
                        continue
                    found = self._score([inputs[row] for row in open_rows], first[start + open_rows])
                    if self.store is not None:
                        self.store.add(keys[start + open_rows], found)
                    scores[start + open_rows] = found
                    bar.update(len(open_rows) * self.count)

    def _encode(self, rows: np.ndarray) -> Sequence[Any]:
        return self.model.encode(self.pairs.read(rows, self.corpus))

    def _score(self, inputs: Sequence[Any], rows: np.ndarray) -> np.ndarray:
        scores = self.model.score(inputs)
        wrong = np.flatnonzero(~np.isfinite(scores))
        if len(wrong):
            pair = self.pairs.name(int(rows[wrong[0]]), self.corpus)
            raise DGRArithmeticError(
                f"{self.name} gives the score {scores[wrong[0]]} to {pair}. "
                "Its weights may be damaged, or its precision too narrow for it: try dtype='float32'."
            )
        return scores
