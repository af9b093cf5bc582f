import functools

import pytest

from dgr_trainer import Corpus, FunctionTeacher, Passage
from dgr_trainer.runs.rankings import Rankings


def overlap(query, passages):
    words = set(query.lower().split())
    return [len(words & set(passage.text.lower().split())) for passage in passages]


CANDIDATES = Rankings({"q1": {"p20": 0.0, "p01": 1.0, "p21": 2.0}, "q2": {"p03": 0.0}})
QUERIES = {"q1": "an instrument with keys", "q2": "a river", "q3": "nothing"}


def test_a_function_ranks(corpus):
    calls = []

    def score(query, passages):
        calls.append((query, [passage.id for passage in passages]))
        return overlap(query, passages)

    found = FunctionTeacher(score, corpus, progress=False).rank(QUERIES, CANDIDATES)
    assert calls == [("an instrument with keys", ["p01", "p20", "p21"]), ("a river", ["p03"])]
    expected = overlap(QUERIES["q1"], [corpus.get(id) for id in ("p01", "p20", "p21")])
    assert dict(zip(*found["q1"], strict=True)) == dict(zip(("p01", "p20", "p21"), expected, strict=True))
    assert found["q3"].passage_ids == () and found.name == "score" and list(found) == list(QUERIES)
    assert len(FunctionTeacher(overlap, corpus, progress=False).rank(QUERIES, CANDIDATES, k=1)["q1"].scores) == 1


def test_a_cache_is_of_the_whole_list(corpus, tmp_path):
    calls = []

    def score(query, passages):
        calls.append(query)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return overlap(query, passages)

    teacher = FunctionTeacher(score, corpus, "score", cache=tmp_path, progress=False)
    with pytest.raises(KeyboardInterrupt):
        teacher.rank(QUERIES, CANDIDATES)
    expected = FunctionTeacher(overlap, corpus, progress=False).rank(QUERIES, CANDIDATES)
    assert teacher.rank(QUERIES, CANDIDATES) == expected and len(calls) == 3
    assert teacher.rank(QUERIES, CANDIDATES) == expected and len(calls) == 3
    teacher.rank(QUERIES, Rankings({"q1": {"p01": 1.0, "p20": 2.0}}))
    assert len(calls) == 4
    FunctionTeacher(score, corpus, "score", version="2", cache=tmp_path, progress=False).rank(QUERIES, CANDIDATES)
    assert len(calls) == 6


class Weighted:
    """An object that is called, and a method; both depend on the object."""

    def __init__(self, weight=1.0):
        self.weight = weight

    def __call__(self, query, passages):
        return [self.weight * len(passage.text) for passage in passages]

    score = __call__


def weighted(weight):
    def score(query, passages):
        return [weight * len(passage.text) for passage in passages]

    return score


@pytest.mark.parametrize(
    "function",
    [
        lambda query, passages: [1.0] * len(passages),
        functools.partial(overlap),
        weighted(1.0),
        Weighted(),
        Weighted().score,
    ],
    ids=["lambda", "partial", "inner function", "object", "method"],
)
def test_a_cache_needs_a_name_that_identifies_the_function(corpus, tmp_path, function):
    with pytest.raises(ValueError, match="cache is given, but .* has no name of its own: .* Give name="):
        FunctionTeacher(function, corpus, cache=tmp_path)
    FunctionTeacher(function, corpus)
    found = FunctionTeacher(function, corpus, "one", cache=tmp_path, progress=False).rank(QUERIES, CANDIDATES)
    other = FunctionTeacher(weighted(-1.0), corpus, "other", cache=tmp_path, progress=False)
    assert other.rank(QUERIES, CANDIDATES) != found


def test_a_function_of_a_module_needs_no_name(corpus, tmp_path):
    assert FunctionTeacher(overlap, corpus, cache=tmp_path).name == "overlap"


def test_functions_get_whole_passages(tmp_path):
    passages = [Passage("a", "Nile", "a river", ("long rivers", "africa"), "d1"), Passage("b", text="a sea")]
    seen, calls = [], []

    def score(query, passages):
        seen.extend(passages)
        calls.append(query)
        return [len(passage.pseudo_queries) for passage in passages]

    def rank(passages):
        teacher = FunctionTeacher(score, Corpus.from_passages(passages), "score", cache=tmp_path, progress=False)
        return teacher.rank({"q": "water"}, Rankings({"q": {"a": 0.0, "b": 1.0}}))["q"]

    assert rank(passages).passage_ids == ("a", "b") and seen == passages
    # What the function may read is part of the key.
    other = [Passage("a", "Nile", "a river", ("long rivers",), "d1"), passages[1]]
    assert rank(other).scores.tolist() == [1.0, 0.0]
    rank([Passage("a", "Nile", "a river", ("long rivers",), "d2"), passages[1]])
    assert len(calls) == 3
    rank(passages)
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        ([1.0], ValueError, "returned 1 scores for the 3 passages of query 'q1'"),
        ([1.0, float("nan"), 2.0], FloatingPointError, "score nan to query 'q1' and passage 'p20'"),
        (None, TypeError, "returned 'None' for query 'q1', not a number for each passage"),
        (["a", "b", "c"], TypeError, "not a number for each passage"),
    ],
)
def test_wrong_scores_are_refused(corpus, returned, error, message):
    with pytest.raises(error, match=message):
        FunctionTeacher(lambda query, passages: returned, corpus, progress=False).rank(QUERIES, CANDIDATES)


def test_a_function_is_needed(corpus):
    with pytest.raises(TypeError, match="function is a str, which cannot be called"):
        FunctionTeacher("overlap", corpus)
