"""The identifiers of a query: those that the beam search found, words of the query itself, and single tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from dgr_trainer.candidates import MatchedIdentifier
from dgr_trainer.identifier_weights import ORIGINS, ScoringSettings, identifier_weights
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.identifiers.words import is_unspaced, query_words
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval.settings import SearchSettings


class QueryIdentifiers(NamedTuple):
    """What the passages are scored by, for one query.

    Attributes:
        weighted (`list[MatchedIdentifier]`): Identifiers, each once; their scores are their weights.
        unigram_weights (`np.ndarray` of float64, shape `(vocab_size,)`): Weights of the single tokens beside them.
    """

    weighted: list[MatchedIdentifier]
    unigram_weights: np.ndarray


def query_ngrams(query: str, index: FMIndex, identifiers: Identifiers, max_words: int) -> list[MatchedIdentifier]:
    """Find words of a query that occur in the corpus, alone and in sequence.

    Spans of 1 to `max_words` words are tried unchanged, in lower case, and with one or all initials in upper case. In
    scripts without spaces, words are those of `Identifiers.words`, and spans are also tried as they are tokenised in
    the query and without a space before them.

    Args:
        query (`str`): The query.
        index ([`FMIndex`]): Index of the corpus.
        identifiers ([`Identifiers`]): Tokenises the spans.
        max_words (`int`): Longest span, in words.

    Returns:
        `list[MatchedIdentifier]`: identifiers of the view `"substring"`, each once, with score 0.
    """
    words = query_words(query)
    texts: dict[str, None] = {}
    for first in range(len(words)):
        for last in range(first, min(first + max_words, len(words))):
            span = query[words[first][0] : words[last][1]]
            lower = span.lower()
            texts |= dict.fromkeys([span, lower, _capital(lower), _capitals(lower), _capitals(span)])
    encoded = identifiers.encode_substrings(list(texts))
    if is_unspaced(query):
        encoded += identifiers.encode_unspaced([text for text in texts if is_unspaced(text)])
        encoded += _tokenised_spans(query, identifiers, max_words)
    patterns = list(dict.fromkeys(tuple(ids) for ids in encoded if ids))
    forbidden = identifiers.forbidden_token_ids | {index.separator}
    patterns = [ids for ids in patterns if not forbidden.intersection(ids)]
    if not patterns:
        return []
    counts = index.counts(index.find_batch(patterns)).tolist()
    return [
        MatchedIdentifier("substring", ids, count, 0.0, "query")
        for ids, count in zip(patterns, counts, strict=True)
        if count > 0
    ]


def mark_words_of_query(
    found: Iterable[MatchedIdentifier], ngrams: Iterable[MatchedIdentifier]
) -> list[MatchedIdentifier]:
    """Generated identifiers; of those that are substrings of the query's own tokens, the origin is the query.

    Args:
        found (`Iterable[MatchedIdentifier]`): What the beam search generated.
        ngrams (`Iterable[MatchedIdentifier]`): Words of the query (`query_ngrams`).
    """
    tokens = {token for ngram in ngrams for token in ngram.ids}
    return [
        replace(identifier, origin="query")
        if identifier.view == "substring" and tokens.issuperset(identifier.ids)
        else identifier
        for identifier in found
    ]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _capitals(text: str) -> str:
    starts = {start for start, _ in query_words(text)}
    return "".join(letter.upper() if number in starts else letter for number, letter in enumerate(text))


def _tokenised_spans(query: str, identifiers: Identifiers, max_words: int) -> list[list[int]]:
    """Ids of spans of words as they stand in the query."""
    (ids,) = identifiers.encode_substrings([query])
    words = identifiers.words(query, ids)
    if words is None:
        return []
    bounds = [*words.starts, len(ids)]
    return [
        ids[bounds[first] : bounds[last]]
        for first in range(len(words.starts))
        for last in range(first + 1, min(first + max_words, len(words.starts)) + 1)
    ]


def weigh_identifiers(
    index: FMIndex, found: Iterable[MatchedIdentifier], scoring: ScoringSettings
) -> list[MatchedIdentifier]:
    """Turn the log-likelihoods of identifiers into weights.

    Args:
        index ([`FMIndex`]): Index of the corpus.
        found (`Iterable[MatchedIdentifier]`):
            Identifiers with their log-likelihoods. Of equal ones, the first is kept: they have the same score.
        scoring ([`ScoringSettings`]): How they are weighted.

    Returns:
        `list[MatchedIdentifier]`: each identifier once, with its weight.
    """
    distinct: dict[tuple[str, tuple[int, ...]], MatchedIdentifier] = {}
    for identifier in found:
        distinct.setdefault((identifier.view, identifier.ids), identifier)
    weights = identifier_weights(
        torch.tensor([identifier.score for identifier in distinct.values()], dtype=torch.float64),
        torch.tensor([identifier.count for identifier in distinct.values()]),
        index.num_tokens,
        scoring,
        is_pseudo_query=torch.tensor([view == "pseudo_query" for view, _ in distinct], dtype=torch.bool),
        origins=torch.tensor([ORIGINS.index(identifier.origin) for identifier in distinct.values()]),
    )
    return [
        replace(identifier, score=weight)
        for identifier, weight in zip(distinct.values(), weights.tolist(), strict=True)
    ]


def weighed(
    index: FMIndex,
    found: Iterable[MatchedIdentifier],
    first_scores: torch.Tensor | None,
    settings: SearchSettings,
    scoring: ScoringSettings,
) -> QueryIdentifiers:
    """Weigh the identifiers of a query, and the single tokens if there are substrings; see `add_unigrams`."""
    weighted = weigh_identifiers(index, found, scoring)
    if first_scores is None:
        return QueryIdentifiers(weighted, np.zeros(index.vocab_size))
    return add_unigrams(index, weighted, first_scores, settings, scoring)


def add_unigrams(
    index: FMIndex,
    weighted: list[MatchedIdentifier],
    first_scores: torch.Tensor,
    settings: SearchSettings,
    scoring: ScoringSettings,
) -> QueryIdentifiers:
    """Add the single tokens that are probable at the start of a substring.

    Their weight is their log-odds, without exponent. The best ones become identifiers, as many as there are already.

    Args:
        index ([`FMIndex`]): Index of the corpus.
        weighted (`list[MatchedIdentifier]`): The other identifiers, with their weights.
        first_scores (`torch.Tensor` of shape `(vocabulary,)`):
            Log-probabilities of the first token of a substring, -inf where it is not legal.
        settings ([`SearchSettings`]): How many tokens.
        scoring ([`ScoringSettings`]): How they are weighted.
    """
    unigram_weights = np.zeros(index.vocab_size, dtype=np.float64)
    number = min(settings.unigrams, index.vocab_size)
    if number == 0:
        return QueryIdentifiers(weighted, unigram_weights)
    scores, tokens = first_scores[: index.vocab_size].cpu().double().topk(number)
    legal = scores > -torch.inf
    scores, best = scores[legal], tokens[legal].numpy()
    counts = torch.from_numpy(np.asarray(index.token_counts[best], dtype=np.int64))
    origins = torch.full_like(counts, ORIGINS.index("unigram"))
    weights = identifier_weights(scores, counts, index.num_tokens, scoring, origins=origins)
    unigram_weights[best] = weights.numpy()
    already_identifiers = [
        identifier.ids[0] for identifier in weighted if identifier.view == "substring" and len(identifier.ids) == 1
    ]
    unigram_weights[already_identifiers] = 0.0
    order = np.lexsort((np.arange(len(unigram_weights)), -unigram_weights))[: len(weighted)]
    chosen = order[unigram_weights[order] > 0]
    added = [
        MatchedIdentifier("substring", (token,), count, float(unigram_weights[token]), "unigram")
        for token, count in zip(chosen.tolist(), index.token_counts[chosen].tolist(), strict=True)
    ]
    return QueryIdentifiers(weighted + added, unigram_weights)
