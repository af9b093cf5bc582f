"""From weighted identifiers to ranked passages.

SEAL's scoring (arXiv 2204.10628, section 3.3) as MINDER extends it. Two stages: the rare identifiers are located in
the corpus and score the passages that contain them; the best of these passages are read and scored by all
identifiers, and by single tokens at positions that no identifier took.

Within a passage, identifiers are credited greedily, highest weight first, ties in the order of their ids. Each is
credited once, at its first occurrence on free positions; its further occurrences on free positions take these too. It
adds its weight times 1 - beta + beta * (share of its distinct tokens that no identifier credited earlier contains),
with beta = `ScoringSettings.repetition`. Markers and separators in front of an identifier in the index (the start of a
pseudo-query) take no position and do not count as its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple, cast

import numpy as np

from dgr_trainer.candidates import MatchedIdentifier
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval.constraint import DEAD_END
from dgr_trainer.retrieval.credited_identifiers import CreditedIdentifiers, CreditedTable
from dgr_trainer.retrieval.passage_identifiers import passage_identifiers
from dgr_trainer.retrieval.scoring_kernels import build_trie, score_occurrences, score_texts


@dataclass(frozen=True)
class ScoredPassage:
    """A passage with its score.

    Args:
        position (`int`): Position of the passage in the index.
        score (`float`): Its score.
        identifiers (`Sequence[MatchedIdentifier]`): What each identifier added to the score, in the order of credit.
    """

    position: int
    score: float
    identifiers: Sequence[MatchedIdentifier]


class _Credits(NamedTuple):
    """Scores of passages and what they consist of; see `score_texts`."""

    scores: np.ndarray
    indptr: np.ndarray
    credited: np.ndarray
    values: np.ndarray


class PassageScorer:
    """Scores passages by the identifiers of one query (`kind="log_odds"`).

    Args:
        index ([`FMIndex`]): Index of the corpus.
        identifiers ([`Identifiers`]): The prefixes of the views.
        weighted (`Sequence[MatchedIdentifier]`):
            The query's identifiers, each once; their scores are weights. Those without positive weight are not used.
        unigram_weights (`np.ndarray` of float64, shape `(vocab_size,)`):
            Weight of each single token at positions that no identifier takes.
        repetition (`float`): beta, from 0 to 1.
    """

    def __init__(
        self,
        index: FMIndex,
        identifiers: Identifiers,
        weighted: Sequence[MatchedIdentifier],
        unigram_weights: np.ndarray,
        repetition: float,
    ) -> None:
        self.index = index
        self.weighted = sorted(
            (identifier for identifier in weighted if identifier.score > 0), key=_highest_score_first
        )
        self.unigram_weights = np.asarray(unigram_weights, dtype=np.float64)
        self.repetition = float(repetition)
        prefixes = [identifiers.prefix(identifier.view) for identifier in self.weighted]
        self._prefix_lengths = np.array([len(prefix) for prefix in prefixes], dtype=np.int64)
        self._lengths = np.array([len(identifier.ids) for identifier in self.weighted], dtype=np.int64)
        self._weights = np.array([identifier.score for identifier in self.weighted], dtype=np.float64)
        self._counts = np.array([identifier.count for identifier in self.weighted], dtype=np.int64)
        self._token_indptr, self._token_sets = _flatten([sorted(set(identifier.ids)) for identifier in self.weighted])
        self._patterns = [prefix + identifier.ids for prefix, identifier in zip(prefixes, self.weighted, strict=True)]
        self._trie = build_trie(*_flatten(self._patterns), index.vocab_size)

    def find_passages(self, max_occurrences: int, max_passages: int) -> np.ndarray:
        """First stage: find the passages in which rare identifiers occur.

        Args:
            max_occurrences (`int`): Identifiers that occur more often are left out.
            max_passages (`int`): Number of passages to return.

        Returns:
            `np.ndarray` of int64: Positions of passages in the index, best first; equal ones in corpus order.
        """
        rare = np.flatnonzero(self._counts <= max_occurrences)
        positions, numbers, starts = self._locate(rare)
        order = np.argsort(positions, kind="stable")
        passages, scores = score_occurrences(
            positions[order], numbers[order], starts[order], self._lengths, self._weights, self._token_indptr,
            self._token_sets, self.index.vocab_size, self.repetition,
        )  # fmt: skip
        return cast(np.ndarray, passages[np.argsort(-scores, kind="stable")[:max_passages]])

    def score(self, positions: np.ndarray) -> np.ndarray:
        """Second stage: full scores (float64) of the passages at these positions of the index."""
        return self._score_in_full(positions, with_credits=False).scores

    def explain(self, positions: np.ndarray) -> list[ScoredPassage]:
        """Full scores of passages with the credit of each identifier, in the order of `positions`."""
        scores, indptr, credited, values = self._score_in_full(positions, with_credits=True)
        table = CreditedTable(self.weighted, self.index.token_counts)
        results = []
        for number, position in enumerate(positions.tolist()):
            part = slice(indptr[number], indptr[number + 1])
            identifiers = CreditedIdentifiers(table, credited[part], values[part])
            results.append(ScoredPassage(position, float(scores[number]), identifiers))
        return results

    def _score_in_full(self, positions: np.ndarray, with_credits: bool) -> _Credits:
        text_indptr, text = self.index.extract_batch(positions)
        credits = score_texts(
            text_indptr, text, self.index.separator, *self._trie, self._prefix_lengths, self._lengths, self._weights,
            self._token_indptr, self._token_sets, self.unigram_weights, self.repetition, with_credits,
        )  # fmt: skip
        return _Credits(*credits)

    def _locate(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the occurrences of identifiers.

        Args:
            numbers (`np.ndarray` of int64): Numbers of identifiers.

        Returns:
            `tuple` of int64 arrays, one entry per occurrence: (position of the passage, number of the identifier,
            where its ids start; the separator in front of a passage is at -1).
        """
        ranges = self.index.find_batch([self._patterns[number] for number in numbers])
        which, positions, offsets = self.index.locate_batch(ranges, (self._prefix_lengths + self._lengths)[numbers])
        return positions, numbers[which], offsets + self._prefix_lengths[numbers[which]]


def likeliest_passages(
    index: FMIndex,
    identifiers: Identifiers,
    found: Sequence[MatchedIdentifier],
    max_occurrences: int,
    included: Sequence[int] | np.ndarray = (),
) -> list[ScoredPassage]:
    """Rank passages by the log-likelihood of their one identifier (`kind="log_likelihood"`).

    Args:
        index ([`FMIndex`]): Index of the corpus.
        identifiers ([`Identifiers`]): The prefixes of the views.
        found (`Sequence[MatchedIdentifier]`): Complete identifiers; their scores are log-likelihoods.
        max_occurrences (`int`): Number of passages to take of those that share an identifier.
        included (`Sequence[int]`, *optional*):
            Positions of passages to score in any case, by their own identifier. One whose identifier was not found,
            or that has none, has the score `DEAD_END` and no identifiers.

    Returns:
        `list[ScoredPassage]`: each passage once, with its best identifier, best first; equal ones in corpus order.
        The included ones that no identifier led to come last, in their order.
    """
    if not found:
        return [ScoredPassage(int(position), DEAD_END, ()) for position in included]
    ordered = sorted(found, key=_highest_score_first)
    patterns = [identifiers.prefix(identifier.view) + identifier.ids for identifier in ordered]
    numbers, positions, _ = index.locate_batch(index.find_batch(patterns), list(map(len, patterns)), max_occurrences)
    order = np.lexsort((positions, numbers))
    positions, numbers = positions[order], numbers[order]
    first_of_passage = np.sort(np.unique(positions, return_index=True)[1])
    best = [
        (position, ordered[number])
        for position, number in zip(
            positions[first_of_passage].tolist(), numbers[first_of_passage].tolist(), strict=True
        )
    ]
    ranked = [ScoredPassage(position, identifier.score, (identifier,)) for position, identifier in best]
    known = {(identifier.view, identifier.ids): identifier for identifier in ordered}
    for position in np.setdiff1d(np.asarray(included, dtype=np.int64), positions).tolist():
        own = passage_identifiers(index, identifiers, position, 0)
        of_passage = tuple(known[one.view, one.ids] for one in own if (one.view, one.ids) in known)
        ranked.append(ScoredPassage(position, of_passage[0].score if of_passage else DEAD_END, of_passage))
    return ranked


def best_or_included(scores: np.ndarray, k: int, included: Sequence[bool] | np.ndarray) -> np.ndarray:
    """Indices of the k best scores and all that equal the last of them, and of those marked in `included`."""
    if len(scores) <= k:
        return np.arange(len(scores))
    return np.flatnonzero((scores >= np.partition(scores, -k)[-k]) | np.asarray(included, dtype=bool))


def _highest_score_first(identifier: MatchedIdentifier) -> tuple[float, tuple[int, ...], str]:
    return -identifier.score, identifier.ids, identifier.view


def _flatten(sequences: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Row pointers and values of sequences, as int64."""
    indptr = np.zeros(len(sequences) + 1, dtype=np.int64)
    np.cumsum([len(sequence) for sequence in sequences], out=indptr[1:])
    return indptr, np.fromiter(chain.from_iterable(sequences), dtype=np.int64, count=int(indptr[-1]))
