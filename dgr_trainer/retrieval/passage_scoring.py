"""From weighted identifiers to ranked passages.

SEAL's scoring (arXiv 2204.10628, section 3.3) as MINDER extends it. Two stages: the rare identifiers are located in
the corpus and score the passages they occur in; the best of these are read and scored by all identifiers, and by
single tokens where no identifier took the position.

In a passage identifiers are credited greedily, highest weight first, ties in the order of their ids. One is credited
once, at its first occurrence on free positions; its further occurrences on free positions take these too. What it adds
is its weight times 1 - beta + beta * (share of its distinct tokens that no identifier credited before it has), with
beta = `ScoringSettings.repetition`. Markers and separators in front of an identifier in the index (a pseudo-query's
start) take no position and count as none of its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np

from dgr_trainer.candidates import MatchedIdentifier
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval.scoring_kernels import build_trie, score_occurrences, score_texts


class Key(NamedTuple):
    """An identifier in a search for one query.

    Attributes:
        view: Its view.
        ids: Its generated tokens, closing marker included.
        occurrences: How often it occurs in the corpus.
        weight: What it is worth.
    """

    view: str
    ids: tuple[int, ...]
    occurrences: int
    weight: float


@dataclass(frozen=True)
class ScoredPassage:
    """A passage's position in the index, its score, and what the score is made of, in the order of credit."""

    passage: int
    score: float
    identifiers: tuple[MatchedIdentifier, ...]


class PassageScorer:
    """Scores passages by the identifiers of one query (`kind="log_odds"`).

    Args:
        index ([`FMIndex`]): Index of the corpus.
        identifiers ([`Identifiers`]): The prefixes of the views.
        keys (`Sequence[Key]`): Identifiers, each once; those without positive weight are not used.
        unigrams (`np.ndarray` of float64, shape `(vocab_size,)`): What each single token is worth where no key is.
        repetition (`float`): beta, from 0 to 1.
    """

    def __init__(
        self, index: FMIndex, identifiers: Identifiers, keys: Sequence[Key], unigrams: np.ndarray, repetition: float
    ) -> None:
        self.index = index
        self.keys = sorted((key for key in keys if key.weight > 0), key=lambda key: (-key.weight, key.ids, key.view))
        self.unigrams = np.asarray(unigrams, dtype=np.float64)
        self.repetition = float(repetition)
        prefixes = [identifiers.prefix(key.view) for key in self.keys]
        self._skips = np.array([len(prefix) for prefix in prefixes], dtype=np.int64)
        self._lengths = np.array([len(key.ids) for key in self.keys], dtype=np.int64)
        self._weights = np.array([key.weight for key in self.keys], dtype=np.float64)
        self._counts = np.array([key.occurrences for key in self.keys], dtype=np.int64)
        sets = _flat([sorted(set(key.ids)) for key in self.keys])
        self._token_indptr, self._token_sets = sets
        self._patterns = [prefix + key.ids for prefix, key in zip(prefixes, self.keys, strict=True)]
        self._trie = build_trie(*_flat(self._patterns), index.vocab_size)

    def found(self, max_occurrences: int, max_passages: int) -> np.ndarray:
        """First stage: passages in which rare identifiers occur, best first.

        Args:
            max_occurrences (`int`): Identifiers that occur more often are left out.
            max_passages (`int`): Passages to return; equal ones in the order of the corpus.

        Returns:
            `np.ndarray` of int64: Positions of passages in the index.
        """
        rare = np.flatnonzero(self._counts <= max_occurrences)
        passages, numbers, starts = self._occurrences(rare)
        order = np.argsort(passages, kind="stable")
        found, scores = score_occurrences(
            passages[order], numbers[order], starts[order], self._lengths, self._weights, self._token_indptr,
            self._token_sets, self.index.vocab_size, self.repetition,
        )  # fmt: skip
        return found[np.argsort(-scores, kind="stable")[:max_passages]]

    def scores(self, passages: np.ndarray) -> np.ndarray:
        """Second stage: full scores of passages (positions in the index), float64."""
        return self._full(passages, False)[0]

    def explained(self, passages: np.ndarray) -> list[ScoredPassage]:
        """Passages with full scores and what they are made of, in the order given."""
        scores, indptr, credited, values = self._full(passages, True)
        results = []
        for place, passage in enumerate(passages.tolist()):
            part = slice(indptr[place], indptr[place + 1])
            matched = tuple(map(self._matched, credited[part].tolist(), values[part].tolist()))
            results.append(ScoredPassage(passage, float(scores[place]), matched))
        return results

    def _full(self, passages: np.ndarray, with_credits: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        text_indptr, text = self.index.extract_batch(passages)
        return score_texts(
            text_indptr, text, self.index.separator, *self._trie, self._skips, self._lengths, self._weights,
            self._token_indptr, self._token_sets, self.unigrams, self.repetition, with_credits,
        )  # fmt: skip

    def _matched(self, credited: int, value: float) -> MatchedIdentifier:
        if credited < 0:
            token = -1 - credited
            return MatchedIdentifier("substring", (token,), int(self.index.token_counts[token]), value)
        key = self.keys[credited]
        return MatchedIdentifier(key.view, key.ids, key.occurrences, value)

    def _occurrences(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where keys occur: passages, numbers of the keys, and where their ids start (the separator before is -1)."""
        ranges = self.index.find_batch([self._patterns[number] for number in numbers])
        places, passages, offsets = self.index.locate_batch(ranges, (self._skips + self._lengths)[numbers])
        return passages, numbers[places], offsets + self._skips[numbers[places]]


def likeliest_passages(
    index: FMIndex, identifiers: Identifiers, keys: Sequence[Key], max_occurrences: int
) -> list[ScoredPassage]:
    """Passages by the log-likelihood of their one identifier (`kind="log_likelihood"`), best first.

    Args:
        index ([`FMIndex`]): Index of the corpus.
        identifiers ([`Identifiers`]): The prefixes of the views.
        keys (`Sequence[Key]`): Complete identifiers; their weights are log-likelihoods.
        max_occurrences (`int`): Passages to take of those that share an identifier.

    Returns:
        `list[ScoredPassage]`: each passage once, with its best key; equal ones in the order of the corpus.
    """
    if not keys:
        return []
    ordered = sorted(keys, key=lambda key: (-key.weight, key.ids, key.view))
    patterns = [identifiers.prefix(key.view) + key.ids for key in ordered]
    repeated, passages, _ = index.locate_batch(index.find_batch(patterns), list(map(len, patterns)), max_occurrences)
    order = np.lexsort((passages, repeated))
    passages, repeated = passages[order], repeated[order]
    kept = np.sort(np.unique(passages, return_index=True)[1])
    results = []
    for passage, number in zip(passages[kept].tolist(), repeated[kept].tolist(), strict=True):
        key = ordered[number]
        matched = MatchedIdentifier(key.view, key.ids, key.occurrences, key.weight)
        results.append(ScoredPassage(passage, key.weight, (matched,)))
    return results


def _flat(sequences: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    indptr = np.zeros(len(sequences) + 1, dtype=np.int64)
    np.cumsum([len(sequence) for sequence in sequences], out=indptr[1:])
    return indptr, np.fromiter(chain.from_iterable(sequences), dtype=np.int64, count=int(indptr[-1]))


def among_best(scores: np.ndarray, k: int, include: Sequence[bool] | np.ndarray) -> np.ndarray:
    """Places of the k best scores and all that equal the last of them, and of those that are to be included."""
    if len(scores) <= k:
        return np.arange(len(scores))
    return np.flatnonzero((scores >= np.partition(scores, -k)[-k]) | np.asarray(include, dtype=bool))
