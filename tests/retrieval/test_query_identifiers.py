import unicodedata
from collections import Counter

import numpy as np
import pytest
import torch
from languages import LANGUAGES, passages_in, tokenizer_for

from dgr_trainer.candidates import MatchedIdentifier
from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.identifier_weights import ORIGINS, ScoringSettings, identifier_weights
from dgr_trainer.identifiers import Identifiers, IdentifierSettings
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval.query_identifiers import add_unigrams, query_ngrams, weigh_identifiers
from dgr_trainer.retrieval.settings import SearchSettings


@pytest.fixture(scope="module")
def identifiers(bpe_tokenizer):
    return Identifiers(bpe_tokenizer)


@pytest.fixture(scope="module")
def index(corpus, identifiers):
    return FMIndex.from_corpus(corpus, identifiers)


def test_spans_of_the_query_that_occur_are_found_in_any_case(index, identifiers):
    found = query_ngrams("tell me: where is MOUNT everest, in the Himalayas?", index, identifiers, 3)
    texts = {identifiers.decode(ngram.ids): ngram.count for ngram in found}
    assert texts["Mount Everest"] == 2 and texts["the Himalayas"] == 1 and texts["The"] > 3 and texts["the"] > 3
    for ngram in found:
        assert index.count(ngram.ids) == ngram.count > 0
        assert (ngram.view, ngram.score) == ("substring", 0.0)
    assert len({ngram.ids for ngram in found}) == len(found)
    assert max(len(text.split()) for text in texts) <= 3


def test_longer_spans_on_request(index, identifiers):
    def longest(words):
        found = query_ngrams("the highest mountain on Earth", index, identifiers, words)
        return max(len(identifiers.decode(ngram.ids).split()) for ngram in found)

    assert (longest(1), longest(3), longest(5)) == (1, 3, 5)


@pytest.mark.parametrize("query", ["", "?!", "   ", "xyzzy"])
def test_queries_without_known_words(index, identifiers, query):
    assert all(ngram.count > 0 for ngram in query_ngrams(query, index, identifiers, 3))


def test_equal_identifiers_count_once_and_the_first_is_kept(index):
    scoring = ScoringSettings()
    found = [
        MatchedIdentifier("substring", (300,), 4, -1.0),
        MatchedIdentifier("substring", (300,), 4, -1.5),
        MatchedIdentifier("pseudo_query", (300,), 4, -20.0),
    ]
    weighted = weigh_identifiers(index, found, scoring)
    assert [(identifier.view, identifier.ids, identifier.count) for identifier in weighted] == [
        ("substring", (300,), 4), ("pseudo_query", (300,), 4),
    ]  # fmt: skip
    expected = identifier_weights(
        torch.tensor([-1.0, -20.0], dtype=torch.float64), torch.tensor([4, 4]), index.num_tokens, scoring,
        is_pseudo_query=torch.tensor([False, True]),
    )  # fmt: skip
    assert [identifier.score for identifier in weighted] == expected.tolist()
    assert weigh_identifiers(index, [], scoring) == []


def test_single_tokens_are_worth_their_log_odds_and_the_best_become_identifiers(index):
    scoring, tokens = ScoringSettings(), index.vocab_size
    scores = torch.full((tokens + 4,), -torch.inf)  # More embeddings than tokens.
    occurring = np.flatnonzero(index.token_counts)[10:30]
    scores[occurring] = torch.linspace(-1.0, -6.0, len(occurring))
    scores[tokens:] = -0.1
    first, second = int(occurring[0]), int(occurring[1])
    found = [
        MatchedIdentifier("substring", (first,), int(index.token_counts[first]), -1.0),
        MatchedIdentifier("title", (second, 3), 1, -1.0),
    ]
    result = add_unigrams(index, weigh_identifiers(index, found, scoring), scores, SearchSettings(unigrams=5), scoring)
    odds = identifier_weights(
        scores[:tokens].double(), torch.from_numpy(index.token_counts.astype(np.int64)), index.num_tokens, scoring,
        origins=torch.full((tokens,), ORIGINS.index("unigram")),
    ).numpy()  # fmt: skip
    best = occurring[:5]
    expected = np.zeros(tokens)
    expected[best[1:]] = odds[best[1:]]  # The first is an identifier already.
    np.testing.assert_allclose(result.unigram_weights, expected)
    added = result.weighted[2:]
    best_two = sorted(best[1:], key=lambda token: -expected[token])[:2]
    assert [identifier.ids for identifier in added] == [(token,) for token in best_two]
    for identifier in added:
        assert identifier.view == "substring" and identifier.score == expected[identifier.ids[0]]
        assert identifier.origin == "unigram"
        assert index.count(identifier.ids) == identifier.count


def test_no_single_tokens_on_request(index):
    result = add_unigrams(index, [], torch.zeros(index.vocab_size), SearchSettings(unigrams=0), ScoringSettings())
    assert result.weighted == [] and not result.unigram_weights.any()


FACTS = {
    "japanese": ("日本で一番高い山は何ですか", 0, ["高い山", "日本で", "一番"]),
    "chinese": ("中国最长的河流是哪条", 1, ["最长的", "的河流"]),
    "thai": ("สัตว์บกที่ใหญ่ที่สุดในเอเชียคืออะไร", 1, ["ใหญ่"]),
    "arabic": ("ما هو أطول نهر في أفريقيا؟", 1, ["أطول نهر", "في أفريقيا"]),
    "german": ("Welche Zahnradbahn fährt auf den Gipfel?", 0, ["Zahnradbahn", "den Gipfel"]),
}


@pytest.mark.parametrize("kind", ["byte_bpe", "unigram"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_words_of_queries_in_other_languages(language, kind):
    """The rare n-grams of a question lead to the passage that answers it."""
    query, answer, expected = FACTS[language]
    identifiers = Identifiers(tokenizer_for(language, kind), IdentifierSettings(views=("substring",)))
    passages = passages_in(language)
    index = FMIndex.from_corpus(Corpus.from_passages(passages), identifiers, progress=False)
    found = query_ngrams(query, index, identifiers, 3)
    bodies = [identifiers.encode_segments([passage])[0].body for passage in passages]
    votes = Counter()
    for ngram in found:
        assert ngram.count == sum(
            body[start : start + len(ngram.ids)] == list(ngram.ids) for body in bodies for start in range(len(body))
        )
        text = identifiers.decode(ngram.ids)
        assert len(ngram.ids) <= 25
        for number, passage in enumerate(passages):
            if text in unicodedata.normalize("NFKC", passage.text) and ngram.count == 1:
                votes[number] += 1
    assert len(found) >= 6
    assert votes.most_common(1)[0][0] == answer
    texts = {identifiers.decode(ngram.ids) for ngram in found}
    if kind == "byte_bpe":
        assert any(word in texts for word in expected)


def test_an_ngram_holds_no_marker_and_crosses_no_part_of_a_passage(bpe_tokenizer):
    identifiers = Identifiers(bpe_tokenizer, IdentifierSettings(views=("substring", "pseudo_query")))
    corpus = Corpus.from_passages([Passage("p", "", "the long river", ("the sea",))])
    index = FMIndex.from_corpus(corpus, identifiers, progress=False)
    marker = identifiers.prefix("pseudo_query")
    assert index.count([*identifiers.encode("river"), *marker, *identifiers.encode("the")]) == 1
    found = query_ngrams("river || the sea", index, identifiers, 3)
    assert found and all(marker[0] not in ngram.ids for ngram in found)
