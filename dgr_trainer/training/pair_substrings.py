"""Substrings of a passage that a query is taught to generate: as published, or those that set the passage apart.

Both draw from the words at which a substring may start, by how much the words there resemble the query. The published
way (LTRGR, section on sampling) takes ten words from each start it draws, and may draw one twice. The distinctive way
also asks how much rarer the substring is in the corpus than in the passage, draws each substring once, and cuts it to
what a search generates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from rapidfuzz import fuzz, process

from dgr_trainer.data.passages import Passage
from dgr_trainer.identifiers import Identifiers, PassageSegments
from dgr_trainer.identifiers.words import Words, is_unspaced, split_words
from dgr_trainer.index import FMIndex
from dgr_trainer.training.stop_words import StopWords

# Power of the log-odds, as in the weights of identifiers (`ScoringSettings.exponent`).
_EXPONENT = 2.0


@dataclass
class PreparedPassage:
    """A passage with its tokens and words, which all queries that it is relevant for share.

    Args:
        passage ([`Passage`]): The passage.
        segments ([`PassageSegments`]): The ids of its parts.
        words ([`Words`], *optional*): The words of its text and where they start; `None` if that cannot be told.
        identifiers ([`Identifiers`]): The student's tokenizer.
        stop_words ([`StopWords`]): Words at which a substring rarely starts.
    """

    passage: Passage
    segments: PassageSegments
    words: Words | None
    identifiers: Identifiers
    stop_words: StopWords

    @cached_property
    def starts(self) -> list[int]:
        """Where a substring may start in the body's tokens."""
        return list(range(len(self.segments.body))) if self.words is None else self.words.starts

    @cached_property
    def grams(self) -> list[str]:
        """Three words from each start."""
        return [] if self.words is None else grams(self.words)

    @cached_property
    def begins_with_stop_word(self) -> np.ndarray:
        """Of each start, whether its word is a stop word."""
        assert self.words is not None
        text = self.words.text
        return np.array([text[start:end] in self.stop_words for start, end in self.words.spans], dtype=bool)

    @cached_property
    def pseudo_queries(self) -> list[str]:
        """The texts of the pseudo-queries' tokens."""
        return [self.identifiers.decode(ids) for ids in self.segments.pseudo_queries]

    @cached_property
    def pieces(self) -> Words:
        """The words of the text, of which a piece may play the query."""
        text = self.passage.text
        if not is_unspaced(text):
            return split_words(text)
        if self.words is not None and self.segments.body:
            return self.words
        return self.identifiers.split_words(text)

    @cached_property
    def log_odds(self) -> dict[int, np.ndarray]:
        """Log-odds of the substrings at each start, by their longest length (see `DistinctiveSubstrings`)."""
        return {}


def grams(words: Words) -> list[str]:
    """Three words from each word on."""
    ends = [end for _, end in words.spans]
    ends = ends[2:] + ends[-1:] * min(2, len(ends))
    return [words.text[start:end] for (start, _), end in zip(words.spans, ends, strict=True)]


def overlap(query_grams: list[str], passage: PreparedPassage) -> np.ndarray | None:
    """Weight of each start of a passage: similarity of its three words to those of the query, summed.

    Returns:
        `np.ndarray` of float64, *optional*: 0 at stop words; `None` if the words of the passage are not known.
    """
    if passage.words is None:
        return None
    if not query_grams:
        return np.zeros(len(passage.grams))
    similarity = process.cdist(query_grams, passage.grams, scorer=fuzz.ratio, dtype=np.float32).sum(axis=0) / 100.0
    similarity[passage.begins_with_stop_word] = 0.0
    return np.asarray(similarity, dtype=np.float64)


class PublishedSubstrings:
    """Substrings of a number of words, drawn with replacement by their overlap with the query.

    Args:
        words (`int`): Length of a substring, in words.
        tokens (`int`, *optional*): Its longest length in tokens; longer ones are cut. By default none are.
        temperature (`float`): Temperature of the softmax over the starts.
    """

    def __init__(self, words: int, tokens: int | None, temperature: float) -> None:
        self.words = words
        self.tokens = tokens
        self.temperature = temperature

    def prepare(self, passages: list[PreparedPassage]) -> None:
        """Nothing: no substring is counted."""

    def draw(
        self, passage: PreparedPassage, query_grams: list[str], count: int, random: np.random.Generator
    ) -> list[tuple[int, ...]]:
        """Token ids of `count` substrings; none of a passage without a body."""
        if not passage.segments.body or not count:
            return []
        weights = overlap(query_grams, passage)
        probabilities = None if weights is None else _softmax(weights / self.temperature)
        chosen = random.choice(len(passage.starts), size=count, p=probabilities)
        ends = _ends(passage, self.words, self.tokens)
        body, starts = passage.segments.body, passage.starts
        return [tuple(body[starts[first] : ends[first]]) for first in chosen.tolist()]


class DistinctiveSubstrings:
    """Different substrings, drawn by their overlap with the query and by their log-odds against the corpus.

    The log-odds of a substring compare its share of the passage's substrings of this length with its share of the
    corpus, logit(c / n) - logit(C / N), and are squared as the weights of identifiers are; one that is no more
    frequent in the passage than in the corpus is never drawn. The probability of a substring is proportional to
    `exp(overlap / temperature) * log_odds ** 2`, over the starts of a passage, without replacement.

    Args:
        index ([`FMIndex`]): Index of the corpus, which counts.
        words (`int`): Longest substring, in words.
        tokens (`int`): Longest substring, in tokens; a single word that is longer is cut.
        temperature (`float`): Temperature of the overlap.
    """

    def __init__(self, index: FMIndex, words: int, tokens: int, temperature: float) -> None:
        self.index = index
        self.words = words
        self.tokens = tokens
        self.temperature = temperature

    def prepare(self, passages: list[PreparedPassage]) -> None:
        """Count the substrings of several passages at once."""
        passages = [passage for passage in passages if self.tokens not in passage.log_odds]
        spans = [span for passage in passages for span in self._spans(passage)]
        if not spans:
            return
        distinct = list(dict.fromkeys(spans))
        counts = dict(zip(distinct, self.index.counts(self.index.find_batch(distinct)).tolist(), strict=True))
        for passage in passages:
            passage.log_odds[self.tokens] = self._log_odds(passage, counts)

    def draw(
        self, passage: PreparedPassage, query_grams: list[str], count: int, random: np.random.Generator
    ) -> list[tuple[int, ...]]:
        """Token ids of up to `count` different substrings; fewer if the passage has fewer."""
        if not passage.segments.body or not count:
            return []
        self.prepare([passage])
        weights = overlap(query_grams, passage)
        odds = passage.log_odds[self.tokens] ** _EXPONENT
        spans = self._spans(passage)
        # The best start of each substring.
        logits: dict[tuple[int, ...], float] = {}
        for number, span in enumerate(spans):
            if odds[number] > 0:
                logit = float(np.log(odds[number])) + (0.0 if weights is None else weights[number] / self.temperature)
                logits[span] = max(logit, logits.get(span, -np.inf))
        if not logits:
            return []
        # The largest of logits with Gumbel noise are a sample without replacement from their softmax.
        noisy = np.fromiter(logits.values(), np.float64, len(logits)) + random.gumbel(size=len(logits))
        best = np.argsort(-noisy, kind="stable")[:count].tolist()
        ordered = list(logits)
        return [ordered[number] for number in best]

    def _spans(self, passage: PreparedPassage) -> list[tuple[int, ...]]:
        """The substring of each start."""
        ends = _ends(passage, self.words, self.tokens)
        body = passage.segments.body
        return [tuple(body[start:end]) for start, end in zip(passage.starts, ends, strict=True)]

    def _log_odds(self, passage: PreparedPassage, counts: Mapping[tuple[int, ...], int]) -> np.ndarray:
        """Log-odds of the substring of each start; 0 if it is no more frequent in the passage than in the corpus."""
        body = passage.segments.body
        places: dict[int, list[int]] = {}
        for place, token in enumerate(body):
            places.setdefault(token, []).append(place)
        total = self.index.num_tokens
        odds = []
        for span in self._spans(passage):
            here = sum(tuple(body[place : place + len(span)]) == span for place in places[span[0]])
            possible = len(body) - len(span) + 1
            # A passage that consists of the substring has it with certainty.
            share = min(here / possible, 1.0 - 0.5 / possible)
            in_corpus = min(counts[span], total - 1) / total
            odds.append(max(0.0, _logit(share) - _logit(in_corpus)) if in_corpus else 0.0)
        return np.array(odds)


def _logit(share: float) -> float:
    return float(np.log(share) - np.log1p(-share))


def _softmax(logits: np.ndarray) -> np.ndarray:
    probabilities = np.exp(logits - logits.max())
    return np.asarray(probabilities / probabilities.sum())


def _ends(passage: PreparedPassage, words: int, tokens: int | None) -> list[int]:
    """Where the substring of each start ends: after a number of words, or at the last word that ends within `tokens`.

    A first word that is longer than `tokens` is cut.
    """
    starts, size = passage.starts, len(passage.segments.body)
    bounds = [*starts, size]
    ends = [bounds[min(number + words, len(starts))] for number in range(len(starts))]
    if tokens is None:
        return ends
    whole = np.asarray(bounds)
    limits = np.minimum(ends, np.asarray(starts) + tokens)
    last = whole[np.searchsorted(whole, limits, side="right") - 1]
    return [
        end if end > start else limit for start, end, limit in zip(starts, last.tolist(), limits.tolist(), strict=True)
    ]
