"""The identifiers of a query: what beam search found, words of the query itself, and single tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from dgr_trainer.identifier_weights import ScoringSettings, identifier_weights
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval.beam_search import Hypothesis
from dgr_trainer.retrieval.passage_scoring import Key
from dgr_trainer.retrieval.settings import SearchSettings

# Letters and digits, with the marks that stand inside words (don't, brown-fox, 3.11, os.path, snake_case).
_WORD = re.compile(r"\w+(?:['’.\-]\w+)*")


class QueryKeys(NamedTuple):
    """What passages are scored by.

    Attributes:
        keys: Identifiers, each once.
        unigrams (`np.ndarray` of float64, shape `(vocab_size,)`): What single tokens are worth beside them.
    """

    keys: list[Key]
    unigrams: np.ndarray


def query_ngrams(
    query: str, index: FMIndex, identifiers: Identifiers, max_words: int
) -> list[tuple[tuple[int, ...], int]]:
    """Words of a query that occur in the corpus, alone and in order.

    Spans of 1 to `max_words` words as they are, in lower case, and with one or all first letters in upper case.

    Args:
        query (`str`): The query.
        index ([`FMIndex`]): Index of the corpus.
        identifiers ([`Identifiers`]): Tokenises the spans.
        max_words (`int`): Longest span, in words.

    Returns:
        `list[tuple]`: token ids and occurrences in the corpus; each ids once.
    """
    words = list(_WORD.finditer(query))
    texts: dict[str, None] = {}
    for first in range(len(words)):
        for last in range(first, min(first + max_words, len(words))):
            span = query[words[first].start() : words[last].end()]
            lower = span.lower()
            texts |= dict.fromkeys([span, lower, _capital(lower), _capitals(lower), _capitals(span)])
    patterns = list(dict.fromkeys(tuple(ids) for ids in map(identifiers.encode, texts) if ids))
    forbidden = identifiers.forbidden_token_ids | {index.separator}
    patterns = [ids for ids in patterns if not forbidden.intersection(ids)]
    if not patterns:
        return []
    counts = index.counts(index.find_batch(patterns))
    return [(ids, count) for ids, count in zip(patterns, counts.tolist(), strict=True) if count > 0]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _capitals(text: str) -> str:
    return _WORD.sub(lambda word: _capital(word.group()), text)


def weigh_keys(
    index: FMIndex,
    found: Mapping[str, Sequence[Hypothesis]],
    scoring: ScoringSettings,
) -> list[Key]:
    """Give identifiers their weights.

    Args:
        index ([`FMIndex`]): Index of the corpus.
        found (`Mapping[str, Sequence[Hypothesis]]`):
            Identifiers of each view. Of equal ones the first is kept; they have the same score.
        scoring ([`ScoringSettings`]): How they are weighted.
    """
    first: dict[tuple[str, tuple[int, ...]], Hypothesis] = {}
    for view, hypotheses in found.items():
        for hypothesis in hypotheses:
            first.setdefault((view, hypothesis.ids), hypothesis)
    weights = identifier_weights(
        torch.tensor([hypothesis.log_likelihood for hypothesis in first.values()], dtype=torch.float64),
        torch.tensor([hypothesis.occurrences for hypothesis in first.values()]),
        index.num_tokens,
        scoring,
        is_pseudo_query=torch.tensor([view == "pseudo_query" for view, _ in first], dtype=torch.bool),
    )
    return [
        Key(view, ids, hypothesis.occurrences, weight)
        for ((view, ids), hypothesis), weight in zip(first.items(), weights.tolist(), strict=True)
    ]


def add_unigrams(
    index: FMIndex,
    keys: list[Key],
    first_scores: torch.Tensor,
    settings: SearchSettings,
    scoring: ScoringSettings,
) -> QueryKeys:
    """Add the single tokens that are probable at the start of a substring.

    They are worth their log-odds, without exponent. The best ones become keys, as many as there are keys already.

    Args:
        index ([`FMIndex`]): Index of the corpus.
        keys (`list[Key]`): The other identifiers.
        first_scores (`torch.Tensor` of shape `(vocabulary,)`):
            Log-probabilities of the first token of a substring, -inf where it is not legal.
        settings ([`SearchSettings`]): How many tokens.
        scoring ([`ScoringSettings`]): How they are weighted.
    """
    unigrams = np.zeros(index.vocab_size, dtype=np.float64)
    number = min(settings.unigrams, index.vocab_size)
    if number == 0:
        return QueryKeys(keys, unigrams)
    scores, tokens = first_scores[: index.vocab_size].cpu().double().topk(number)
    legal = scores > -torch.inf
    scores, best = scores[legal], tokens[legal].numpy()
    counts = torch.from_numpy(np.asarray(index.token_counts[best], dtype=np.int64))
    unigrams[best] = identifier_weights(scores, counts, index.num_tokens, scoring, exponent=1.0).numpy()
    unigrams[[key.ids[0] for key in keys if key.view == "substring" and len(key.ids) == 1]] = 0.0
    order = np.lexsort((np.arange(len(unigrams)), -unigrams))[: len(keys)]
    chosen = order[unigrams[order] > 0]
    added = [
        Key("substring", (token,), count, float(unigrams[token]))
        for token, count in zip(chosen.tolist(), index.token_counts[chosen].tolist(), strict=True)
    ]
    return QueryKeys(keys + added, unigrams)
