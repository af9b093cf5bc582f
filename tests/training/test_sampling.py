import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.training.sampling import ListSampler, _ranks, nearest, spaced

# The teacher's order is a > b > ... > j; the student's is the reverse.
PASSAGES = "abcdefghij"
RANKINGS = Rankings({"q": {p: 10.0 - place for place, p in enumerate(PASSAGES)}, "short": {"a": 2.0, "zzz": 3.0}})


def sampler(qrels=None, student=True, usable=frozenset(PASSAGES), **settings) -> ListSampler:
    settings = {"list_length": 4, "sampling": "dgr_paper", "relevant_first": True, "seed": 0, **settings}
    order = (lambda query_id: tuple(reversed(PASSAGES))) if student else None
    return ListSampler(RANKINGS, qrels, lambda query_id: usable, order, **settings)


def test_relevant_first_then_the_teachers_order():
    drawn = sampler({"q": {"e": 1}})
    for epoch in range(20):
        found = drawn.sample("q", epoch)
        assert found.relevant == found.passage_ids[0] == "e"
        assert list(found.passage_ids[1:]) == sorted(found.passage_ids[1:]) and len(found.passage_ids) == 4
        assert "j" in found.passage_ids, "the student's best other candidate is always there"
        assert found.teacher_scores == tuple(10.0 - PASSAGES.index(p) for p in found.passage_ids)


def test_the_teachers_best_stands_in_for_a_student_without_order():
    drawn = sampler({"q": {"e": 1}}, student=False)
    assert all("a" in drawn.sample("q", epoch).passage_ids for epoch in range(20))


TIED = {"a": 7.0, "b": 7.0, "c": 3.0, "d": 0.0, "e": 0.0, "f": 0.0}


@pytest.mark.parametrize(
    ("qrels", "relevant_first", "expected"),
    [
        # Of equal scores the larger id first.
        (None, True, (("b", "a", "c", "f", "e", "d"), (0, 0, 1, 2, 2, 2))),
        # The judgement tells the relevant passage from those with its score, ranked by the teacher or not.
        ({"q": {"e": 1}}, True, (("e", "b", "a", "c", "f", "d"), (0, 1, 1, 2, 3, 3))),
        ({"q": {"b": 1}}, True, (("b", "a", "c", "f", "e", "d"), (0, 1, 2, 3, 3, 3))),
        ({"q": {"x": 1}}, True, (("x", "b", "a", "c", "f", "e", "d"), (0, 1, 1, 2, 3, 3, 3))),
        ({"q": {"e": 1}}, False, (("b", "a", "c", "f", "e", "d"), (0, 0, 1, 2, 2, 2))),
    ],
)
def test_passages_with_equal_scores_share_a_place(qrels, relevant_first, expected):
    settings = {"list_length": 7, "sampling": "top", "seed": 0}
    drawn = ListSampler(
        Rankings({"q": TIED}), qrels, lambda _: "abcdefx", None, relevant_first=relevant_first, **settings
    )
    found = drawn.sample("q", 0)
    assert (found.passage_ids, found.ranks) == expected


def test_scores_that_differ_in_double_precision_are_not_equal():
    rankings = Rankings({"q": {"a": 1.0 + 1e-12, "b": 1.0, "c": 1.0}})
    settings = {"list_length": 3, "sampling": "top", "seed": 0, "relevant_first": True}
    assert ListSampler(rankings, None, lambda _: "abc", None, **settings).sample("q", 0).ranks == (0, 1, 1)
    ordered = Rankings.from_order({"q": ["b", "a", "c"]})
    assert ListSampler(ordered, None, lambda _: "abc", None, **settings).sample("q", 0).ranks == (0, 1, 2)


def test_lists_that_say_nothing_of_the_order_are_counted():
    rankings = Rankings({"q": {"a": 0.0, "b": 0.0}, "r": {"a": 0.0, "b": 0.0}, "s": {"a": 1.0, "b": 0.0}})
    settings = {"list_length": 2, "sampling": "top", "seed": 0, "relevant_first": True}
    found = ListSampler(rankings, {"r": {"c": 1}}, lambda _: "abc", None, **settings).coverage(["q", "r", "s"])
    assert (found.tied_lists, found.rank_lists) == (2, 2), "a relevant passage is told from the others"
    assert "2 of 3 queries have a rank list in which all scores are equal, which says nothing" in found.gaps()[0]


def test_without_qrels_the_teachers_order_alone():
    found = sampler().sample("q", 0)
    assert list(found.passage_ids) == sorted(found.passage_ids)
    assert found.relevant == found.passage_ids[0], "the teacher's best passage of the list is generated"


def test_relevant_first_can_be_turned_off():
    lists = [sampler({"q": {"e": 1}}, relevant_first=False).sample("q", epoch) for epoch in range(30)]
    assert all(list(found.passage_ids) == sorted(found.passage_ids) for found in lists)
    assert {found.relevant for found in lists} == {"e"}
    assert {"e" in found.passage_ids for found in lists} == {True, False}, "drawn like any other"


def test_top_takes_the_teachers_first():
    assert sampler({"q": {"e": 1}}, sampling="top").sample("q", 3).passage_ids == ("e", "a", "b", "c")
    assert sampler(sampling="top").sample("q", 3).passage_ids == ("a", "b", "c", "d")


def test_draws_differ_by_epoch_seed_and_query_but_not_otherwise():
    drawn = sampler()
    lists = [drawn.sample("q", epoch) for epoch in range(30)]
    assert lists == [sampler().sample("q", epoch) for epoch in range(30)]
    assert len(set(lists)) > 5
    assert lists != [sampler(seed=1).sample("q", epoch) for epoch in range(30)]


def test_the_rest_is_drawn_uniformly():
    drawn = sampler({"q": {"e": 1}})
    counts = dict.fromkeys(PASSAGES, 0)
    for epoch in range(2000):
        for passage_id in drawn.sample("q", epoch).passage_ids:
            counts[passage_id] += 1
    assert counts["e"] == counts["j"] == 2000
    # Two of the other eight: each a quarter of the time, within 5 standard deviations.
    assert all(abs(counts[p] - 500) < 5 * np.sqrt(2000 * 0.25 * 0.75) for p in "abcdfghi")


def test_of_several_relevant_passages_the_best_leads_most_often_and_none_is_a_candidate():
    lists = [sampler({"q": {"b": 1, "c": 2, "d": 0, "h": 1}}).sample("q", epoch) for epoch in range(600)]
    leads = [found.passage_ids[0] for found in lists]
    assert set(leads) == {"b", "c", "h"}
    assert 330 < leads.count("c") < 470, "half of the time as the best, a sixth by the uniform draw"
    assert not any({"b", "c", "h"} & set(found.passage_ids[1:]) for found in lists)
    assert any("d" in found.passage_ids[1:] for found in lists), "grade 0 is not relevant"


def test_equal_grades_are_told_apart_by_the_student():
    assert sampler({"q": {"b": 1, "h": 1}}, sampling="top").sample("q", 0).passage_ids[0] == "h"
    assert sampler({"q": {"b": 1, "h": 1}}, sampling="top", student=False).sample("q", 0).passage_ids[0] == "b"


def test_a_relevant_passage_that_the_teacher_did_not_rank_counts_as_its_best():
    found = sampler({"q": {"x": 1}}, usable=frozenset(PASSAGES + "x"), sampling="top").sample("q", 0)
    assert found.passage_ids == ("x", "a", "b", "c")
    assert found.teacher_scores == (10.0, 10.0, 9.0, 8.0)


def test_what_is_unknown_is_left_out():
    assert sampler(usable=frozenset("ace")).sample("q", 0).passage_ids == ("a", "c", "e")
    assert sampler({"q": {"x": 1}}, usable=frozenset("ace")).sample("q", 0).passage_ids == ("a", "c", "e")
    assert sampler().sample("unheard of", 0) == ((), (), None, (), False)
    assert sampler({"new": {"b": 1}}).sample("new", 0) == (("b",), (0.0,), "b", (0,), True)


def test_coverage_counts():
    found = sampler({"q": {"e": 1}, "new": {"b": 1}, "short": {"x": 1}}).coverage(["q", "new", "short", "nothing"])
    assert vars(found) == {
        "queries": 4,
        "rank_lists": 1,
        "without_rank_list": 2,
        "without_target": 1,
        "without_relevant": 2,
        "ranked_passages": 12,
        "unknown_passages": 1,
        "example": "zzz",
        "suspected": 0,
        "tied_lists": 0,
    }
    assert found.gaps() == [
        "2 of 4 queries have no rank list",
        "2 of 4 queries have no relevant passage with identifiers",
        "1 of 4 queries have no passage to generate",
        "1 of 12 ranked passages have no identifiers (such as 'zzz')",
    ]
    assert sampler().coverage(["q"]).gaps() == []


def test_errors():
    with pytest.raises(ValueError, match="list_length=1.*at least 2"):
        sampler(list_length=1)
    with pytest.raises(ValueError, match="sampling='best' is unknown; use one of dgr_paper, top, spread, gap"):
        sampler(sampling="best")


# Other ways to draw


def test_spread_takes_one_of_every_part():
    drawn = sampler({"q": {"e": 1}}, sampling="spread")
    others = [p for p in PASSAGES if p != "e"]  # Nine, in three parts.
    seen = set()
    for epoch in range(60):
        found = drawn.sample("q", epoch)
        assert found.passage_ids[0] == "e" and len(found.passage_ids) == 4
        assert [others.index(p) // 3 for p in found.passage_ids[1:]] == [0, 1, 2]
        seen |= set(found.passage_ids)
    assert seen == set(PASSAGES)
    uneven = sampler(sampling="spread", usable=frozenset("abcdef"))
    assert {uneven.sample("q", epoch).passage_ids[0] for epoch in range(30)} == {"a"}
    assert {uneven.sample("q", epoch).passage_ids[3] for epoch in range(60)} == {"e", "f"}


def test_gap_takes_scores_far_apart():
    scores = {"a": 9.0, "b": 8.9, "c": 8.8, "d": 6.0, "e": 5.9, "f": 3.0, "g": 1.0, "h": 0.9}
    drawn = ListSampler(
        Rankings({"q": scores}), {"q": {"c": 1}}, lambda query_id: scores, None,
        list_length=5, sampling="gap", relevant_first=True, seed=0,
    )  # fmt: skip
    assert {drawn.sample("q", epoch).passage_ids for epoch in range(5)} == {("c", "a", "d", "f", "h")}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=2, max_size=9), st.integers(1, 6))
def test_no_choice_lies_further_apart(values, count):
    values = sorted(map(float, values), reverse=True)
    count = min(count, len(values))

    def smallest(places):
        return min((values[a] - values[b] for a, b in itertools.pairwise(places)), default=0.0)

    places = spaced(values, count)
    assert places[0] == 0 and places == sorted(set(places)) and len(places) == count
    best = max(smallest(choice) for choice in itertools.combinations(range(len(values)), count))
    assert smallest(places) == pytest.approx(best, abs=1e-6)


# Passages that may be relevant


def test_passages_far_above_the_relevant_one_are_left_out_on_request():
    # a to j score 10 to 1, so d to j lie at most 2 above f.
    kept = {"sampling": "top", "list_length": 9}
    qrels = {"q": {"f": 1}}
    assert sampler(qrels, **kept).sample("q", 0).passage_ids == tuple("fabcdeghi")
    assert sampler(qrels, false_negative_margin=2.0, **kept).sample("q", 0).passage_ids == tuple("fdeghij")
    assert sampler(qrels, false_negative_margin=0.0, **kept).sample("q", 0).passage_ids == tuple("fghij")
    assert sampler(qrels, false_negative_margin=9.0, **kept).sample("q", 0).passage_ids == tuple("fabcdeghi")


def test_judged_passages_are_no_suspects_and_the_best_relevant_one_counts():
    kept = {"sampling": "top", "list_length": 9, "false_negative_margin": 0.0}
    assert sampler({"q": {"f": 1, "b": 0}}, **kept).sample("q", 0).passage_ids == tuple("fbghij")
    assert sampler({"q": {"f": 2, "c": 1}}, **kept).sample("q", 0).passage_ids == tuple("fdeghij")
    alone = sampler({"q": {"f": 1}}, relevant_first=False, **kept).sample("q", 0)
    assert alone.passage_ids == tuple("fghij") and alone.relevant == "f"


def test_without_a_score_of_the_relevant_passage_all_are_kept():
    kept = {"sampling": "top", "false_negative_margin": 0.0}
    found = sampler({"q": {"x": 1}}, usable=frozenset(PASSAGES + "x"), **kept).sample("q", 0)
    assert found.passage_ids == ("x", "a", "b", "c")
    assert sampler(**kept).sample("q", 0).passage_ids == tuple("abcd")


def test_suspects_are_counted():
    found = sampler({"q": {"f": 1}}, false_negative_margin=2.0).coverage(["q"])
    assert found.suspected == 3
    assert found.gaps() == [
        "3 of 10 ranked passages are left out because the teacher scores them above the relevant passage by more "
        "than the margin"
    ]
    with pytest.raises(ValueError, match="false_negative_margin=-1.0: give 0 or more"):
        sampler(false_negative_margin=-1.0)
    with pytest.raises(ValueError, match="false_negative_margin=nan"):
        sampler(false_negative_margin=float("nan"))


def plain_nearest(others, score, count):
    """Walk away from the place of a score, below and above in turn."""
    place = sum(other >= score for other in others)
    above, below, taken = place - 1, place, []
    while len(taken) < count:
        if below < len(others) and (len(taken) % 2 == (count % 2 == 0) or above < 0):
            taken.append(below)
            below += 1
        elif above >= 0:
            taken.append(above)
            above -= 1
        else:
            taken.append(below)
            below += 1
    return sorted(taken)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(-1, 10), st.data())
def test_nearest_by_walking_away_from_the_place(scores, score, data):
    scores = sorted(map(float, scores), reverse=True)
    count = data.draw(st.integers(1, len(scores)))
    assert list(nearest(scores, float(score), count)) == plain_nearest(scores, score, count)


@pytest.mark.parametrize(
    ("relevant", "expected"), [("e", "edfg"), ("a", "abcd"), ("j", "jghi"), ("b", "bacd"), ("unranked", "unranked")]
)
def test_near_the_relevant_passage_in_the_teachers_list(relevant, expected):
    usable = frozenset([*PASSAGES, "unranked"])
    found = sampler({"q": {relevant: 1}}, sampling="near", usable=usable).sample("q", 3)
    # Of an unranked one, nothing is known: the first ones.
    assert found.passage_ids == (tuple(expected) if relevant != "unranked" else ("unranked", *"abc"))


def test_near_without_a_relevant_passage_is_the_top():
    assert sampler(sampling="near").sample("q", 0).passage_ids == tuple("abcd")


@settings(max_examples=40)
@given(st.permutations(PASSAGES), st.integers(0, 10), st.integers(2, 8), st.sampled_from(PASSAGES))
def test_hard_by_the_students_order(order, found, list_length, relevant):
    """The student found some passages; its first ones are taught in the teacher's order, then the teacher's first."""
    student = order[:found]
    drawn = ListSampler(
        RANKINGS, {"q": {relevant: 1}}, lambda _: frozenset(PASSAGES), lambda _: tuple(student),
        list_length=list_length, sampling="hard", relevant_first=True, seed=0,
    )  # fmt: skip
    others = [p for p in student if p != relevant] + [p for p in PASSAGES if p not in student and p != relevant]
    expected = [relevant, *sorted(others[: list_length - 1])]
    assert list(drawn.sample("q", 0).passage_ids) == expected


def test_hard_without_the_students_order_is_the_top():
    drawn = sampler({"q": {"e": 1}}, student=False, sampling="hard")
    assert drawn.sample("q", 0).passage_ids == tuple("eabc")


def plain_places(scores, first, tie_margin):
    """Groups of scores that are close to the first of their group."""
    groups = []
    for number, score in enumerate(scores):
        alone = number == 0 or (number == 1 and first)
        if not alone and groups[-1][0] - score <= tie_margin:
            groups[-1].append(score)
        else:
            groups.append([score])
    return tuple(place for place, group in enumerate(groups) for _ in group)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=10), st.booleans(), st.integers(0, 5))
def test_passages_that_are_hardly_told_apart_share_a_place(scores, first, tie_margin):
    scores = sorted(scores, reverse=True)
    if first:  # By the judgement, whatever the teacher's score.
        scores = [scores[-1], *scores[:-1]]
    assert _ranks(scores, first, tie_margin) == plain_places(scores, first, tie_margin)


def test_a_tie_margin_in_lists_and_coverage():
    # Of a > b > ... with scores 10, 9, ...: pairs within 2 of the first of their place.
    found = sampler({"q": {"e": 1}}, sampling="top", list_length=7, tie_margin=2.0)
    assert found.sample("q", 0).passage_ids == tuple("eabcdfg")
    assert found.sample("q", 0).ranks == (0, 1, 1, 1, 2, 2, 3)
    assert sampler(tie_margin=9.0).coverage(["q"]).tied_lists == 1
    assert sampler(tie_margin=8.5).coverage(["q"]).tied_lists == 0
    with pytest.raises(ValueError, match="tie_margin=-1: give 0 or more"):
        sampler(tie_margin=-1)
