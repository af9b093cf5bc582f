"""Searches that leave a query's own text out: equal to searches in an index that was built without it."""

from dataclasses import astuple, replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_corpus import PASSAGES

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.evaluation import RetrievalEvaluator
from dgr_trainer.identifier_weights import ScoringSettings
from dgr_trainer.identifiers import Identifiers, IdentifierSettings
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval import GenerativeRetriever, SearchSettings
from dgr_trainer.retrieval.own_texts import own_texts, without_pseudo_query
from dgr_trainer.runs.rankings import RankList

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
        (one.passage_id, pytest.approx(one.score, rel=1e-4),
         [(*astuple(identifier)[:3], pytest.approx(identifier.score, rel=1e-3, abs=1e-4), identifier.origin)
          for identifier in one.identifiers])
        for one in hits
    ]  # fmt: skip


def plainly(hits):
    return [(one.passage_id, one.score, [*map(astuple, one.identifiers)]) for one in hits]


def exactly(hits):
    return [(hit.passage_id, hit.score, hit.identifiers) for hit in hits]


def searching(model, identifiers, passages, **settings):
    index = FMIndex.from_corpus(Corpus.from_passages(passages), identifiers, progress=False)
    return GenerativeRetriever(model, identifiers, index, settings=replace(SETTINGS, **settings))


FAST = {("bart", "more_tokens")}
pytestmark = pytest.mark.parametrize(
    ("student", "every_view"),
    [pytest.param(*pair, marks=[] if pair in FAST else pytest.mark.slow)
     for pair in product(("bart", "t5"), ("one_token", "more_tokens"))],
    indirect=True, scope="module",
)  # fmt: skip


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
    included = [["p07", "p24"]] * len(texts)
    found = whole.search(texts, 6, included, leave_out_own_text=True)
    for number, retriever in enumerate(reduced.values()):
        # In the same batch: another rounds otherwise.
        first = number // SETTINGS.batch_size * SETTINGS.batch_size
        batch = slice(first, first + SETTINGS.batch_size)
        expected = retriever.search(texts[batch], 6, included[batch])[number - first]
        assert plainly(found[number]) == described(expected)
    plain = whole.search(texts, 6, included)
    different = [exactly(hits) != exactly(others) for hits, others in zip(found, plain, strict=True)]
    assert different == [True, True, True, False, True, True, False]


def test_one_query_at_a_time_gives_the_same_to_the_last_bit(student, every_view, passages, reduced):
    one = searching(student[0], every_view, passages, batch_size=1)
    queries = {"q2": SHARED, "q1": QUERIES["q1"]}
    ranked = one.rank(queries, 24, leave_out_own_text=True)
    for id, query in queries.items():
        hits = one.search(query, 24, leave_out_own_text=True)[0]
        assert exactly(hits) == exactly(reduced[id].search(query, 24)[0])
        assert ranked[id] == RankList(*zip(*((hit.passage_id, hit.score) for hit in hits), strict=True))


def test_candidates_are_those_of_an_index_without_the_text(whole, reduced):
    asked = {id: query for id, query in QUERIES.items() if query}
    found = whole.candidates(asked, 5, RELEVANT)
    for id in asked:
        first = list(asked).index(id) // SETTINGS.batch_size * SETTINGS.batch_size
        batch = dict(list(asked.items())[first : first + SETTINGS.batch_size])
        expected = reduced[id].candidates(batch, 5, RELEVANT, leave_out_own_text=False)[id]
        assert [(one.passage_id, one.score, [*map(astuple, one.identifiers)]) for one in found[id]] == described(
            expected
        )
    with_text = whole.candidates(asked, 5, RELEVANT, leave_out_own_text=False)
    assert {id for id in asked if plainly(found[id]) != plainly(with_text[id])} == set(asked) - {"q4"}


def test_an_evaluation_can_leave_them_out(whole, student, every_view):
    evaluator = RetrievalEvaluator(
        whole.index,
        every_view,
        {"q2": SHARED, "q5": QUERIES["q5"]},
        RELEVANT,
        k=20,
        settings=SETTINGS,
        leave_out_own_text=True,
    )
    assert dict(evaluator.rank(student[0])) == dict(whole.rank(evaluator.queries, 20, leave_out_own_text=True))


def test_views_without_pseudo_queries_have_nothing_to_leave_out(student, every_view, passages):
    identifiers = Identifiers(student[1], IdentifierSettings(views=("title",)))
    index = FMIndex.from_corpus(Corpus.from_passages(passages), identifiers, progress=False)
    retriever = GenerativeRetriever(
        student[0], identifiers, index, settings=SETTINGS, scoring=ScoringSettings(kind="log_likelihood")
    )
    texts = list(QUERIES.values())
    found = retriever.search(texts, 4, leave_out_own_text=True)
    assert [*map(exactly, found)] == [*map(exactly, retriever.search(texts, 4))]
    assert own_texts(index, identifiers, texts) == [{}] * len(texts)


_WORD = st.sampled_from(["sea", "ice", "bee", "of", "@@", "||"])
_TEXT = st.lists(_WORD, max_size=3).map(" ".join)


@settings(max_examples=40, deadline=None)
@given(st.lists(_TEXT, max_size=5), _TEXT, _TEXT, _TEXT)
def test_a_passage_without_a_text_is_the_passage_of_the_other_texts(every_view, texts, query, title, text):
    passage = replace(PASSAGES[0], title=title, text=text, pseudo_queries=tuple(texts), docid="sea 3")
    (whole,), (reduced,) = (
        every_view.encode_passages(some) for some in ([passage], without([passage], query, every_view))
    )
    (own,) = every_view.encode_substrings([query])
    assert (without_pseudo_query(whole, own, every_view) if own else whole) == reduced
