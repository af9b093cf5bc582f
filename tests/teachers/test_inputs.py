import pytest

from dgr_trainer.data.passages import Passage
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.teachers.inputs import (
    candidate_lists,
    check_depth,
    check_fields,
    passage_text,
    required_candidates,
)


def test_fields_are_joined_and_empty_ones_left_out():
    passage = Passage(id="p", title="Title", text="", pseudo_queries=("one", "two"))
    assert passage_text(passage, ("title", "text", "pseudo_queries")) == "Title\none\ntwo"
    assert passage_text(passage, ("text",)) == ""
    assert check_fields("title") == ("title",)


@pytest.mark.parametrize("fields", [(), ("title", "body")])
def test_unknown_fields_are_refused(fields):
    with pytest.raises(ValueError, match="it must name at least one of"):
        check_fields(fields)


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_a_depth_is_a_positive_integer(k):
    with pytest.raises(ValueError, match="Give a positive integer"):
        check_depth(k)


def test_queries_without_candidates_are_counted(corpus, caplog):
    found = candidate_lists({"q1": "a", "q2": "b"}, Rankings({"q1": {"p02": 1.0, "p01": 2.0}}), corpus)
    assert found == {"q1": ("p01", "p02"), "q2": ()}
    assert "1 of 2 queries have no candidates" in caplog.text


def test_candidates_that_the_corpus_does_not_hold_are_dropped(corpus):
    candidates = Rankings({"q1": {"p01": 3.0, "p02": 2.0, "elsewhere": 1.0}})
    assert candidate_lists({"q1": "a"}, candidates, corpus) == {"q1": ("p01", "p02")}
    assert candidate_lists({"q1": "a"}, candidates, None) == {"q1": ("p01", "p02", "elsewhere")}


def test_candidates_of_other_queries_are_refused(corpus):
    with pytest.raises(
        ValueError, match="None of the 1 queries has candidates: .* like 'q1', the candidates like 'x'"
    ):
        candidate_lists({"q1": "a"}, Rankings({"x": {"p01": 1.0}}), corpus)


def test_candidates_are_rankings(corpus):
    with pytest.raises(TypeError, match=r"candidates is a dict.*BM25Teacher\(corpus\).rank\(queries\)"):
        candidate_lists({"q1": "a"}, {"q1": {"p01": 1.0}}, corpus)


def test_a_reranker_needs_candidates(corpus):
    with pytest.raises(ValueError, match="XTeacher is a reranker: .* cannot search the corpus. Give candidates"):
        required_candidates("XTeacher", {"q1": "a"}, None, corpus)
    assert required_candidates("XTeacher", {"q1": "a"}, Rankings({"q1": {"p01": 1.0}}), corpus) == {"q1": ("p01",)}
