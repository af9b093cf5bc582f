"""Searches among some passages: equal to searches in an index that was built from these passages."""

from dataclasses import astuple
from functools import lru_cache

import numpy as np
import pytest
from sample_corpus import PASSAGES, QUERIES

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.identifier_weights import ScoringSettings
from dgr_trainer.identifiers import Identifiers, IdentifierSettings
from dgr_trainer.index import FMIndex, passage_subset
from dgr_trainer.retrieval import GenerativeRetriever, SearchSettings, passage_choice
from dgr_trainer.retrieval.passage_choice import choices, one_choice

SETTINGS = SearchSettings(beam_size=4, batch_size=3, pseudo_query_length=12, title_length=8)
TEXTS = [*list(QUERIES.values())[2:4], "who discovered penicillin", ""]
ALL = [passage.id for passage in PASSAGES]
EVEN, FEW = ALL[::2], ["p07", "p20", "p24"]
VIEWS = {
    "all": (None, "log_odds"),
    "title": (("title",), "log_likelihood"),
    "docid": (("docid",), "log_likelihood"),
    "pseudo_query": (("pseudo_query",), "log_odds"),
}


pytestmark = pytest.mark.parametrize(
    "student", ["bart", pytest.param("t5", marks=pytest.mark.slow)], indirect=True, scope="module"
)


@pytest.fixture(scope="module")
def make(student):
    """Makes retrievers of some passages, each once."""

    @lru_cache
    def retriever(passage_ids, views="all", every_view=None, segment_tokens=None):
        of_views, kind = VIEWS[views]
        identifiers = every_view or Identifiers(
            student[1], IdentifierSettings() if of_views is None else IdentifierSettings(views=of_views)
        )
        corpus = Corpus.from_passages(passage for passage in PASSAGES if passage.id in set(passage_ids))
        index = FMIndex.from_corpus(corpus, identifiers, segment_tokens=segment_tokens, progress=False)
        return GenerativeRetriever(student[0], identifiers, index, settings=SETTINGS,
                                   scoring=ScoringSettings(kind=kind))  # fmt: skip

    return lambda passage_ids, *arguments, **options: retriever(tuple(passage_ids), *arguments, **options)


@pytest.fixture(params=["indexed", "hidden"])
def way(request, monkeypatch):
    """Both ways of making the index of some passages."""
    monkeypatch.setattr(passage_subset, "_INDEXED_SHARE", float(request.param == "indexed"))
    passage_choice._indexes.clear()


def exactly(results):
    return [[(hit.passage_id, hit.score, hit.identifiers) for hit in hits] for hits in results]


def plainly(results):
    return [[(one.passage_id, one.score, [*map(astuple, one.identifiers)]) for one in hits] for hits in results]


def described(results):
    """To compare scores approximately: another batch rounds otherwise."""
    return [
        [
            (id, pytest.approx(score, rel=1e-4),
             [(*one[:3], pytest.approx(one[3], rel=1e-3, abs=1e-4), one[4]) for one in identifiers])
            for id, score, identifiers in hits
        ]
        for hits in plainly(results)
    ]  # fmt: skip


@pytest.mark.parametrize("views", list(VIEWS))
@pytest.mark.parametrize("chosen", ["even", pytest.param("few", marks=pytest.mark.slow)])
def test_a_search_is_one_in_an_index_of_the_passages(make, way, views, chosen):
    ids = {"even": EVEN, "few": FEW}[chosen]
    whole, subset = make(ALL, views, segment_tokens=300), make(ids, views)
    included = [["p07"], [], ["p07"], ["p07"]]
    expected = exactly(subset.search(TEXTS, 4, included))
    assert any(expected)
    assert exactly(whole.search(TEXTS, 4, included, among=ids)) == expected
    if views != "all":
        others = np.array([id not in ids for id in whole.index.passage_ids])
        assert exactly(whole.search(TEXTS, 4, included, exclude=others)) == expected


@pytest.mark.slow
def test_markers_of_several_tokens(make, way, every_view):
    whole, subset = make(ALL, every_view=every_view), make(EVEN, every_view=every_view)
    assert exactly(whole.search(TEXTS, 4, among=set(EVEN))) == exactly(subset.search(TEXTS, 4))


def test_each_query_has_passages_of_its_own(make, way):
    whole = make(ALL)
    sets, exclude = [EVEN, FEW, EVEN, None], ["p20"]
    found = plainly(whole.search(TEXTS, 4, among=sets, exclude=exclude))
    for number, (ids, text) in enumerate(zip(sets, TEXTS, strict=True)):
        retriever = make([id for id in (ALL if ids is None else ids) if id not in exclude])
        assert found[number] == described(retriever.search([text], 4))[0]


def test_each_query_may_have_all_passages(make):
    whole = make(ALL)
    expected = exactly(whole.search(TEXTS, 4))
    assert exactly(whole.search(TEXTS, 4, among=[None] * 4, exclude=[None] * 4)) == expected
    with pytest.raises(ValueError, match="There are 4 queries, but exclude has 1 sets"):
        whole.search(TEXTS, 4, exclude=[None])


@pytest.mark.slow
def test_rank_lists_of_queries_with_passages_of_their_own(make, way):
    whole, queries = make(ALL), dict(zip("abc", TEXTS, strict=False))
    found = whole.rank(queries, 4, among={"a": EVEN, "b": None, "c": FEW}, exclude={"a": ["p01"]},
                       ignore_identical_ids=True)  # fmt: skip
    for id, kept in {"a": EVEN[1:], "b": ALL, "c": FEW}.items():
        assert found[id].passage_ids == tuple(hit.passage_id for hit in make(kept).search(queries[id], 4)[0])


def test_candidates_are_those_of_an_index_of_the_passages(make, way, tmp_path):
    whole, subset = make(ALL), make(EVEN)
    queries = {"q03": QUERIES["q03"], "own": "who discovered penicillin", "q05": QUERIES["q05"]}
    relevant = {"q03": {"p07": 2}, "own": {"p07": 1}}
    found = whole.candidates(queries, 4, relevant, exclude=ALL[1::2])
    expected = subset.candidates(queries, 4, relevant)
    assert dict(found) == dict(expected) and found.corpus_tokens == expected.corpus_tokens
    whole.save_candidates(tmp_path / "some", queries, 4, relevant, among=EVEN)
    assert dict(type(found).load_from_disk(tmp_path / "some")) == dict(expected)
    with pytest.raises(KeyError, match=r"'p08' is to be among the hits, but not among .* \(2 of 3 such.*qrels"):
        whole.candidates(queries, 4, {"q03": {"p07": 2, "p08": 1, "p10": 1}}, among=EVEN)


def test_an_unfinished_search_among_other_passages_is_refused(make, tmp_path, monkeypatch):
    from dgr_trainer.retrieval.search_engine import SearchEngine

    whole = make(ALL)
    queries = dict(list(QUERIES.items())[:5])
    search = SearchEngine.query_identifiers
    with monkeypatch.context() as patched, pytest.raises(InterruptedError):
        calls = []

        def interrupted(*arguments):
            calls.append(1)
            if len(calls) > 1:
                raise InterruptedError
            return search(*arguments)

        patched.setattr(SearchEngine, "query_identifiers", interrupted)
        whole.save_candidates(tmp_path / "c", queries, 4, among=EVEN)
    with pytest.raises(ValueError, match="was made with passages="):
        whole.save_candidates(tmp_path / "c", queries, 4, among=FEW)
    with pytest.raises(ValueError, match="was made with own_texts='left out'"):
        whole.save_candidates(tmp_path / "c", queries, 4, among=EVEN, leave_out_own_text=False)
    whole.save_candidates(tmp_path / "c", queries, 4, among=[*reversed(EVEN), "p01"])


MASK = np.ones(24, bool)


@pytest.mark.parametrize(
    ("among", "exclude", "error", "message"),
    [
        (["p01", "nowhere"], None, KeyError, r"No passage of the index has the id 'nowhere' \(1 of 2 ids"),
        (None, ["gone"], KeyError, "'gone'"),
        ([], None, ValueError, "among leaves none of the 24 passages to search. Give at least one"),
        (None, ALL, ValueError, "exclude leaves none"),
        (["p01"], ["p01"], ValueError, "among and exclude leave none"),
        (None, MASK, ValueError, "exclude leaves none"),
        (MASK[:5], None, ValueError, r"mask of shape \(5,\), but the index has 24 passages.*one value for each"),
        ("p01", None, TypeError, r"among is 'p01' \(str\). Give a collection of passage ids"),
        (7, None, TypeError, r"among is 7 \(int\)"),
        ([3, 4], None, TypeError, r"among holds 3 \(int\)"),
        ([None, "p01"], None, TypeError, r"among holds None \(NoneType\)"),
        (None, np.array([3, 4]), TypeError, r"exclude holds 3 \(int\).*or a mask"),
        ([["p01"]], None, ValueError, "There are 2 queries, but among has 1 sets of passages"),
        ([["p01"], "p02"], None, TypeError, "among is 'p02'"),
        ([["p01"], []], None, ValueError, "among leaves none"),
        ({"a": ["p01"]}, None, TypeError, "among is a mapping, but these queries have no ids"),
    ],
)  # fmt: skip
def test_passages_that_cannot_be_searched_are_refused(make, among, exclude, error, message):
    with pytest.raises(error, match=message):
        make(ALL).search(["the sea", "the moon"], among=among, exclude=exclude)


def test_sets_of_queries_with_ids(make):
    whole = make(ALL)
    queries = {"a": "the sea", "b": "the moon"}
    with pytest.raises(KeyError, match=r"among names no passages for the query 'b' \(1 of 2 queries"):
        whole.rank(queries, among={"a": ["p01"]})
    with pytest.raises(KeyError, match="exclude has passages for 'c', which is not the id of a query"):
        whole.rank(queries, exclude={"a": ["p01"], "c": ["p02"]})
    with pytest.raises(KeyError, match=r"'p02' is to be among the hits.*Take it out of include"):
        whole.search("the sea", include=[["p01", "p02"]], among=["p01"])


def test_the_indexes_of_the_last_choices_are_kept(make, monkeypatch):
    index = make(ALL).index
    passage_choice._indexes.clear()
    made = []
    monkeypatch.setattr(passage_choice, "index_of_passages", lambda whole, some: made.append(some) or whole)
    by_ids, by_mask = one_choice(index, EVEN, None), one_choice(index, np.arange(24) % 2 == 0, None)
    assert one_choice(index, ALL[1:], None) == one_choice(index, None, [ALL[0]]) != by_ids
    assert by_ids == by_mask and hash(by_ids) == hash(by_mask) and by_ids == one_choice(index, None, ALL[1::2])
    for choice in (by_ids, by_mask, *choices(index, [EVEN, FEW, EVEN], None, 3)):
        choice.index(index)
    assert len(made) == 2
    for id in ALL[: passage_choice._KEPT]:
        one_choice(index, [id], None).index(index)
    by_ids.index(index)
    assert len(made) == 3 + passage_choice._KEPT
    assert one_choice(index, ALL, []) is None
