"""Scores pairs of query and passage: deduplicates them, plans batches, shares batches among processes, and caches.

Pairs are sorted by query id and passage id, cut into chunks, and sorted by length within a chunk. Batches depend on
the pairs alone. So scores are the same to the last bit whatever was interrupted and however many processes share the
batches, as long as all compute alike: on the same kind of device, with the same number of threads.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
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
from dgr_trainer.files.progress import kept_moving
from dgr_trainer.processes import Processes, ResultsOn, is_main_process, merge_results, process_rank, wait
from dgr_trainer.teachers.batches import plan_batches
from dgr_trainer.teachers.score_cache import KEY, ScoreCache, content_key

_PAIRS_PER_CHUNK = 8192


class PairModel(Protocol):
    """A model that scores pairs of query and passage."""

    @abstractmethod
    def content(self, query: str, passage: Passage) -> tuple[bytes, bytes]:
        """Return everything that the model reads of a query and of a passage."""

    @abstractmethod
    def encode(self, pairs: Sequence[tuple[str, Passage]]) -> Sequence[Any]:
        """Return the inputs of the model, one per pair."""

    @abstractmethod
    def length(self, encoded: Any) -> int:
        """Return the number of tokens of an input."""

    @abstractmethod
    def score(self, batch: Sequence[Any]) -> np.ndarray:
        """Score inputs: shape `(n,)`, float64."""

    @abstractmethod
    def settings(self) -> Mapping[str, object]:
        """Return everything that scores depend on besides query and passage, in JSON types."""


@dataclass(frozen=True)
class Pairs:
    """Queries with the positions of their passages, in the order in which they are scored.

    Args:
        queries (`Mapping[str, str]`): Query id -> query.
        query_ids (`list[str]`): Sorted ids of the queries that have passages.
        query_indices (`np.ndarray` of shape `(n,)`, int32): For each pair, the index of its query in `query_ids`.
        passage_positions (`np.ndarray` of shape `(n,)`, int64): For each pair, the position of its passage in the
            corpus.
    """

    queries: Mapping[str, str]
    query_ids: list[str]
    query_indices: np.ndarray
    passage_positions: np.ndarray

    @classmethod
    def from_candidates(
        cls, queries: Mapping[str, str], candidates: Mapping[str, Sequence[str]], corpus: Corpus
    ) -> Pairs:
        """Pair queries with their candidates: query id -> passage ids."""
        query_ids = sorted(query_id for query_id, passage_ids in candidates.items() if passage_ids)
        counts = [len(candidates[query_id]) for query_id in query_ids]
        positions = (corpus.position(id) for query_id in query_ids for id in sorted(candidates[query_id]))
        return cls(
            queries,
            query_ids,
            np.repeat(np.arange(len(query_ids), dtype=np.int32), counts),
            np.fromiter(positions, dtype=np.int64, count=sum(counts)),
        )

    def __len__(self) -> int:
        return len(self.query_indices)

    def read(self, rows: np.ndarray, corpus: Corpus) -> list[tuple[str, Passage]]:
        """Return the query and the passage of the given pairs."""
        positions, indices = np.unique(self.passage_positions[rows], return_inverse=True)
        columns = corpus.dataset.select_columns(["id", "title", "text"])[positions.tolist()]
        passages = [Passage(*row) for row in zip(columns["id"], columns["title"], columns["text"], strict=True)]
        return [
            (self.queries[self.query_ids[query]], passages[index])
            for query, index in zip(self.query_indices[rows].tolist(), indices.tolist(), strict=True)
        ]

    def name(self, row: int, corpus: Corpus) -> str:
        """Return the name of a pair for errors."""
        passage_id = corpus.ids[int(self.passage_positions[row])]
        return f"query {self.query_ids[self.query_indices[row]]!r} and passage {passage_id!r}"


def score_pairs(
    model: PairModel,
    pairs: Pairs,
    corpus: Corpus,
    *,
    name: str,
    batch_tokens: int,
    cache: str | Path | None,
    processes: Processes | None,
    progress: bool,
    results_on: ResultsOn = "all",
) -> np.ndarray | None:
    """Score pairs; pairs of equal content are scored once.

    Args:
        model ([`PairModel`]): The model.
        pairs ([`Pairs`]): The pairs.
        corpus (`Corpus`): The passages.
        name (`str`): Name of the model, for errors and the progress bar.
        batch_tokens (`int`): Maximum number of tokens of a batch, padding included.
        cache (`str` or `pathlib.Path`, *optional*): Folder of a [`ScoreCache`]. New scores are added to it, and pairs
            that it contains are not scored.
        processes ([`Processes`], *optional*): The processes, each of which calls this and scores every n-th batch.
        progress (`bool`): Whether to show progress bars.
        results_on (`str`, *optional*, defaults to `"all"`): Which processes get the scores; see [`ResultsOn`].

    Returns:
        `np.ndarray` of shape `(n,)`, float64: The scores; `None` in a process that gets none.

    Raises:
        FloatingPointError: if the model gives a score that is not a finite number; names the pair.
    """
    keys, first_pairs, content_indices = _distinct(model, pairs, corpus, progress and is_main_process(processes))
    score_cache = ScoreCache(cache, model.settings()) if cache is not None else None
    with score_cache if score_cache is not None else nullcontext():
        scores = np.full(len(keys), np.nan) if score_cache is None else score_cache.scores(keys)
        wait(processes)  # No process adds scores before all have looked up the known ones.
        known = int(np.isfinite(scores).sum())
        scorer = _Scorer(model, pairs, corpus, name, batch_tokens, score_cache, processes)
        with (
            tqdm(
                total=len(keys),
                initial=known,
                desc=f"Scoring with {Path(name).name or name}",
                unit=" pairs",
                disable=not progress or not is_main_process(processes),
            ) as bar,
            kept_moving(bar),
        ):
            unknown = np.isnan(scores)
            scorer.fill_in(keys, first_pairs, scores, bar)
        if score_cache is not None:
            # If another job has scored the same pair meanwhile, its score is the one that the cache keeps.
            new = np.flatnonzero(unknown & ~np.isnan(scores))
            scores[new] = score_cache.scores(keys[new])
    merged = merge_results(scores, processes, results_on)
    return None if merged is None else np.asarray(merged[content_indices])


def _distinct(
    model: PairModel, pairs: Pairs, corpus: Corpus, progress: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return distinct contents in order of appearance: their keys, their first pairs, and each pair's content."""
    all_keys = bytearray()
    with tqdm(total=len(pairs), desc="Reading pairs", unit=" pairs", disable=not progress, delay=5) as bar:
        for start in range(0, len(pairs), _PAIRS_PER_CHUNK):
            chunk = pairs.read(np.arange(start, min(start + _PAIRS_PER_CHUNK, len(pairs))), corpus)
            for query, passage in chunk:
                all_keys += content_key(*model.content(query, passage))
            bar.update(len(chunk))
    keys, first_pairs, inverse = np.unique(np.frombuffer(bytes(all_keys), KEY), return_index=True, return_inverse=True)
    order = np.argsort(first_pairs)
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    return keys[order], first_pairs[order], ranks[inverse]


class _Scorer:
    """Scores this process's share of the batches."""

    def __init__(
        self,
        model: PairModel,
        pairs: Pairs,
        corpus: Corpus,
        name: str,
        batch_tokens: int,
        cache: ScoreCache | None,
        processes: Processes | None,
    ):
        self.model, self.pairs, self.corpus, self.name = model, pairs, corpus, name
        self.batch_tokens, self.cache = batch_tokens, cache
        self.process_index, self.process_count = process_rank(processes)

    def fill_in(self, keys: np.ndarray, first_pairs: np.ndarray, scores: np.ndarray, bar: Any) -> None:
        """Replace the NaN of `scores` that belong to this process's batches."""
        starts = [
            start
            for start in range(0, len(keys), _PAIRS_PER_CHUNK)
            if np.isnan(scores[start : start + _PAIRS_PER_CHUNK]).any()
        ]
        # The next chunk is tokenised while the model computes.
        with ThreadPoolExecutor(1) as tokeniser:
            pending = [
                tokeniser.submit(self._encode, first_pairs[start : start + _PAIRS_PER_CHUNK]) for start in starts[:1]
            ]
            for number, start in enumerate(starts):
                bar.set_postfix_str("tokenising", refresh=False)
                inputs = pending.pop().result()
                bar.set_postfix_str("", refresh=False)
                for following in starts[number + 1 : number + 2]:
                    rows = first_pairs[following : following + _PAIRS_PER_CHUNK]
                    pending.append(tokeniser.submit(self._encode, rows))
                lengths = np.array([self.model.length(encoded) for encoded in inputs], dtype=np.int64)
                for batch_number, batch in enumerate(plan_batches(lengths, self.batch_tokens)):
                    # The owner of a batch does not depend on the cache: another job may add to it meanwhile.
                    owner = (start // _PAIRS_PER_CHUNK + batch_number) % self.process_count
                    unknown = batch[np.isnan(scores[start + batch])]
                    if owner != self.process_index or not len(unknown):
                        continue
                    new_scores = self._score([inputs[row] for row in unknown], first_pairs[start + unknown])
                    if self.cache is not None:
                        self.cache.add(keys[start + unknown], new_scores)
                    scores[start + unknown] = new_scores
                    bar.update(len(unknown) * self.process_count)

    def _encode(self, rows: np.ndarray) -> Sequence[Any]:
        return self.model.encode(self.pairs.read(rows, self.corpus))

    def _score(self, inputs: Sequence[Any], rows: np.ndarray) -> np.ndarray:
        scores = self.model.score(inputs)
        not_finite = np.flatnonzero(~np.isfinite(scores))
        if len(not_finite):
            pair = self.pairs.name(int(rows[not_finite[0]]), self.corpus)
            raise DGRArithmeticError(
                f"{self.name} gives the score {scores[not_finite[0]]} to {pair}. "
                "Its weights may be damaged, or its precision too low: try dtype='float32'."
            )
        return scores
