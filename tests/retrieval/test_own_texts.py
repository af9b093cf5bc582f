"""Searches that leave a query's own text out: equal to searches in an index that was built without it."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_corpus import PASSAGES

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.evaluation import RetrievalEvaluator
from dgr_trainer.identifiers import Identifiers, IdentifierSettings
from dgr_trainer.identifier_weights import ScoringSettings
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval import GenerativeRetriever, SearchSettings
from dgr_trainer.retrieval.own_texts import own_texts, without_pseudo_query

SETTINGS = SearchSettings(beam_size=4, batch_size=3, pseudo_query_length=14, title_length=8)
# Texts of one passage, of several, of all that a passage has, and of none.
SHARED = "who discovered penicillin"
QUERIES = {
    "q1": "what is the tallest mountain in the world",
    "q2": SHARED,
    "q3": " largest   coral reef in the world ",
    "q4": "the sea at night",
    "q5": "first antibiotic",
    "q6": "fire that began in a bakery",
    "q7": "",
}
RELEVANT = {"q1": {"p01": 1}, "q2": {"p07": 1, "p24": 1}, "q3": {"p04": 2}, "q5": {"p07": 1}, "q6": {"p12": 1}}


def shared(passages):
    """One text is a pseudo-query of three passages, twice of one, and the only one of another."""
    more = {"p08": (SHARED, "a doctor", SHARED), "p24": (SHARED,), "p05": ("light", SHARED, "leaves")}
    return [replace(one, pseudo_queries=more.get(one.id, one.pseudo_queries)) for one in passages]


def without(passages, query, identifiers):
    """The passages without the pseudo-queries that have the tokens of the query."""
    (own,) = identifiers.encode_substrings([query])
    return [
        replace(one, pseudo_queries=tuple(
            text for text in one.pseudo_queries if not own or identifiers.encode_substrings([text])[0] != own))
        for one in passages
    ]  # fmt: skip


def described(hits):
    """Ids, identifiers and counts to compare exactly, and scores to compare approximately."""
    return [
        (hit.passage_id, pytest.approx(hit.score, rel=1e-4),
         [(one.view, one.ids, one.count, pytest.approx(one.score, rel=1e-3, abs=1e-4)) for one in hit.identifiers])
        for hit in hits
    ]  # fmt: skip


def exactly(hits):
    return [(hit.passage_id, hit.score, hit.identifiers) for hit in hits]


def searching(model, identifiers, passages, **settings):
    index = FMIndex.from_corpus(Corpus(passages), identifiers, progress=False)
    return GenerativeRetriever(model, identifiers, index, settings=replace(SETTINGS, **settings))


@pytest.fixture(scope="module")
def passages():
    return shared(PASSAGES)


@pytest.fixture(scope="module")
def whole(student, every_view, passages):
    return searching(student[0], every_view, passages)


@pytest.fixture(scope="module")
def reduced(student, every_view, passages):
    """For each query, a retriever whose index was built without its text."""
    return {id: searching(student[0], every_view, without(passages, query, every_view))
            for id, query in QUERIES.items()}  # fmt: skip


def test_a_search_is_one_in_an_index_without_the_text(whole, reduced):
    texts = list(QUERIES.values())
    found = whole.search(texts, 6, leave_out_own_text=True, include=[["p07", "p24"]] * len(texts))
    for number, retriever in enumerate(reduced.values()):
        # In the same batch, which changes the rounding of the model.
        expected = retriever.search(texts, 6, include=[["p07", "p24"]] * len(texts))[number]
        assert described(expected) == [(hit.passage_id, hit.score, [(o.view, o.ids, o.count, o.score)
                                        for o in hit.identifiers]) for hit in found[number]]  # fmt: skip
    plain = whole.search(texts, 6)
    assert [exactly(hits) for hits in plain] != [exactly(hits) for hits in found]
    assert exactly(plain[3]) == pytest.approx(exactly(plain[3]))
