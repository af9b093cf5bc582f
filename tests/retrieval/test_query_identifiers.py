import numpy as np
import pytest
import torch

from dgr_trainer.identifier_weights import ScoringSettings, identifier_weights
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval.beam_search import Hypothesis
from dgr_trainer.retrieval.query_identifiers import add_unigrams, query_ngrams, weigh_keys
from dgr_trainer.retrieval.settings import SearchSettings


@pytest.fixture(scope="module")
def identifiers(bpe_tokenizer):
    return Identifiers(bpe_tokenizer)


@pytest.fixture(scope="module")
def index(corpus, identifiers):
    return FMIndex.from_corpus(corpus, identifiers)


def test_spans_of_the_query_that_occur_are_found_in_any_case(index, identifiers):
    found = query_ngrams("tell me: where is MOUNT everest, in the Himalayas?", index, identifiers, 3)
    texts = {identifiers.decode(ids): occurrences for ids, occurrences in found}
    assert texts["Mount Everest"] == 2 and texts["the Himalayas"] == 1 and texts["The"] > 3 and texts["the"] > 3
    for ids, occurrences in found:
        assert index.count(ids) == occurrences > 0
    assert len({ids for ids, _ in found}) == len(found)
    assert max(len(text.split()) for text in texts) <= 3


def test_longer_spans_on_request(index, identifiers):
    def longest(words):
        found = query_ngrams("the highest mountain on Earth", index, identifiers, words)
        return max(len(identifiers.decode(ids).split()) for ids, _ in found)

    assert (longest(1), longest(3), longest(5)) == (1, 3, 5)


@pytest.mark.parametrize("query", ["", "?!", "   ", "xyzzy"])
def test_queries_without_known_words(index, identifiers, query):
    assert all(occurrences > 0 for _, occurrences in query_ngrams(query, index, identifiers, 3))


def test_equal_identifiers_count_once_and_the_first_is_kept(index):
    scoring = ScoringSettings()
    found = {
        "substring": [Hypothesis((300,), -1.0, 4), Hypothesis((300,), -1.5, 4)],
        "pseudo_query": [Hypothesis((300,), -20.0, 4)],
    }
    keys = weigh_keys(index, found, scoring)
    assert [(key.view, key.ids, key.occurrences) for key in keys] == [
        ("substring", (300,), 4), ("pseudo_query", (300,), 4),
    ]  # fmt: skip
    expected = identifier_weights(
        torch.tensor([-1.0, -20.0], dtype=torch.float64), torch.tensor([4, 4]), index.num_tokens, scoring,
        is_pseudo_query=torch.tensor([False, True]),
    )  # fmt: skip
    assert [key.weight for key in keys] == expected.tolist()
    assert weigh_keys(index, {"title": []}, scoring) == []


def test_single_tokens_are_worth_their_log_odds_and_the_best_become_keys(index):
    scoring, tokens = ScoringSettings(), index.vocab_size
    scores = torch.full((tokens + 4,), -torch.inf)  # More embeddings than tokens.
    occurring = np.flatnonzero(index.token_counts)[10:30]
    scores[occurring] = torch.linspace(-1.0, -6.0, len(occurring))
    scores[tokens:] = -0.1
    first, second = int(occurring[0]), int(occurring[1])
    keys = weigh_keys(index, {"substring": [Hypothesis((first,), -1.0, int(index.token_counts[first]))]}, scoring)
    keys += weigh_keys(index, {"title": [Hypothesis((second, 3), -1.0, 1)]}, scoring)
    result = add_unigrams(index, keys, scores, SearchSettings(unigrams=5), scoring)
    odds = identifier_weights(
        scores[:tokens].double(), torch.from_numpy(index.token_counts.astype(np.int64)), index.num_tokens, scoring,
        exponent=1.0,
    ).numpy()  # fmt: skip
    best = occurring[:5]
    expected = np.zeros(tokens)
    expected[best[1:]] = odds[best[1:]]  # The first is a key of its own.
    np.testing.assert_allclose(result.unigrams, expected)
    added = result.keys[2:]
    wanted = sorted(best[1:], key=lambda token: -expected[token])[:2]
    assert [key.ids for key in added] == [(token,) for token in wanted]
    for key in added:
        assert key.view == "substring" and key.weight == expected[key.ids[0]]
        assert index.count(key.ids) == key.occurrences


def test_no_single_tokens_on_request(index):
    result = add_unigrams(index, [], torch.zeros(index.vocab_size), SearchSettings(unigrams=0), ScoringSettings())
    assert result.keys == [] and not result.unigrams.any()
