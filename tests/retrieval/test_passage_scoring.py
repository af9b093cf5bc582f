from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgr_trainer.candidates import MatchedIdentifier
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval.constraint import DEAD_END
from dgr_trainer.retrieval.passage_scoring import PassageScorer, ScoredPassage, likeliest_passages

SEPARATOR, VOCABULARY = 1, 9
PREFIXES = {"title": (SEPARATOR,), "substring": (), "pseudo_query": (2,), "docid": (3, 2)}


class Views:
    """The part of `Identifiers` that scoring uses."""

    @staticmethod
    def prefix(view):
        return PREFIXES[view]


def places(padded, view, ids):
    """Positions where the ids of an identifier start in a passage between separators."""
    pattern = [*PREFIXES[view], *ids]
    found = [start for start in range(len(padded)) if padded[start : start + len(pattern)] == pattern]
    return [start + len(PREFIXES[view]) for start in found]


def credits_by_hand(passage, weighted, unigrams, repetition):
    """Follows the module's docstring literally. Returns [((view, ids), value)] in the order of credit."""
    padded = [SEPARATOR, *passage, SEPARATOR]
    taken, covered, credited = set(), set(), []

    def discount(tokens):
        return 1 - repetition + repetition * len(tokens - covered) / len(tokens) if credited else 1.0

    for view, ids, weight in sorted(weighted, key=lambda identifier: (-identifier[2], identifier[1], identifier[0])):
        value = weight * discount(set(ids))
        if value <= 0:
            continue
        first = True
        for start in places(padded, view, ids):
            positions = set(range(start, start + len(ids)))
            if not positions & taken:
                taken |= positions
                if first:
                    first = False
                    credited.append(((view, ids), value))
                    covered |= set(ids)
    seen = set()
    for position, token in enumerate(padded[1:-1], start=1):
        if position not in taken and token not in seen and unigrams[token] > 0:
            seen.add(token)
            value = unigrams[token] * (1 - repetition if token in covered else 1.0)
            if value > 0:
                credited.append((("substring", (token,)), value))
    return credited


@st.composite
def instances(draw):
    tokens = st.integers(2, VOCABULARY - 1)
    passages = draw(st.lists(st.lists(tokens, max_size=14), min_size=1, max_size=8))
    weighted = {}
    for _ in range(draw(st.integers(0, 10))):
        view = draw(st.sampled_from(list(PREFIXES)))
        passage = [SEPARATOR, *draw(st.sampled_from(passages)), SEPARATOR]
        start = draw(st.integers(0, len(passage) - 1))
        ids = tuple(passage[start : start + draw(st.integers(1, 5))])
        weighted[view, ids] = draw(st.sampled_from([0.0, 0.5, 1.0, 1.0, 2.25, 4.0]))
    unigrams = draw(st.lists(st.sampled_from([0.0, 0.0, 0.3, 0.7]), min_size=VOCABULARY, max_size=VOCABULARY))
    unigrams[SEPARATOR] = 0.0
    return passages, weighted, np.array(unigrams), draw(st.sampled_from([0.0, 0.8, 1.0])), draw(st.integers(1, 4))


def indexed(passages, weighted):
    index = FMIndex.build(passages, passage_ids=[f"p{i}" for i in range(len(passages))], vocab_size=VOCABULARY,
                          separator=SEPARATOR, progress=False)  # fmt: skip
    made = []
    for (view, ids), weight in weighted.items():
        count = index.count([*PREFIXES[view], *ids])
        if count:
            made.append(MatchedIdentifier(view, ids, count, weight))
    return index, made


@settings(deadline=None, max_examples=150)
@given(instances())
def test_scores_are_those_by_hand(instance):
    passages, weights, unigrams, repetition, max_occurrences = instance
    index, weighted = indexed(passages, weights)
    scorer = PassageScorer(index, Views, weighted, unigrams, repetition)
    plain = [(identifier.view, identifier.ids, identifier.score) for identifier in weighted]
    positions = np.arange(len(passages))
    scores = scorer.score(positions)
    for passage, score, scored in zip(passages, scores, scorer.explain(positions), strict=True):
        expected = credits_by_hand(passage, plain, unigrams, repetition)
        assert [(one.view, one.ids) for one in scored.identifiers] == [what for what, _ in expected]
        assert [one.score for one in scored.identifiers] == pytest.approx([value for _, value in expected])
        assert scored.score == score == pytest.approx(sum(value for _, value in expected))
        for one in scored.identifiers:
            assert one.count == index.count([*PREFIXES[one.view], *one.ids])

    rare = [identifier for identifier in weighted if identifier.count <= max_occurrences]
    # A pattern that begins with the last token of one passage and goes on in the next belongs to the one it begins in;
    # here no ids but a title's prefix hold a separator that is not at their end.
    by_hand = defaultdict(float)
    for number, passage in enumerate(passages):
        credited = credits_by_hand(
            passage,
            [(identifier.view, identifier.ids, identifier.score) for identifier in rare],
            np.zeros(VOCABULARY),
            repetition,
        )
        if credited:
            by_hand[number] = sum(value for _, value in credited)
    # Nor do identifiers begin with one: the index takes such a pattern for the beginning of the passage that follows.
    inside = all(identifier.ids[0] != SEPARATOR and SEPARATOR not in identifier.ids[:-1] for identifier in rare)
    if inside:
        found = scorer.find_passages(max_occurrences, len(passages)).tolist()
        scored = [number for number in found if number in by_hand]
        assert set(scored) == set(by_hand) and set(found[len(scored) :]).isdisjoint(by_hand)
        assert [by_hand[number] for number in scored] == pytest.approx(sorted(by_hand.values(), reverse=True))
        assert scorer.find_passages(max_occurrences, 2).tolist() == found[:2]


def test_a_worked_example():
    """Passage 5 6 7 5 6 8: (5 6) takes both of its positions and counts once; (6 7) has none left; 7, 8 are single."""
    index, weighted = indexed([[5, 6, 7, 5, 6, 8]], {("substring", (5, 6)): 4.0, ("substring", (6, 7)): 3.0})
    unigrams = np.array([0, 0, 0, 0, 0, 9.0, 9.0, 0.5, 0.25])
    scored = PassageScorer(index, Views, weighted, unigrams, 0.8).explain(np.array([0]))[0]
    assert scored.score == 4.75
    assert [(one.ids, one.count, one.score) for one in scored.identifiers] == [
        ((5, 6), 2, 4.0), ((7,), 1, 0.5), ((8,), 1, 0.25),
    ]  # fmt: skip


def test_covered_tokens_are_discounted():
    index, weighted = indexed([[5, 6, 7, 6, 4]], {("substring", (5, 6)): 4.0, ("substring", (6, 4)): 1.0})
    scored = PassageScorer(index, Views, weighted, np.zeros(VOCABULARY), 0.8).explain(np.array([0]))[0]
    assert [one.score for one in scored.identifiers] == pytest.approx([4.0, 1.0 * (0.2 + 0.8 / 2)])


def test_the_marker_in_front_of_a_pseudo_query_takes_no_position():
    index, weighted = indexed([[2, 5, 6]], {("pseudo_query", (5, 6)): 4.0, ("substring", (2,)): 1.0})
    scored = PassageScorer(index, Views, weighted, np.zeros(VOCABULARY), 0.8).explain(np.array([0]))[0]
    assert [one.score for one in scored.identifiers] == [4.0, 1.0]


def test_identifiers_that_occur_too_often_score_but_do_not_lead_to_passages():
    index, weighted = indexed([[5, 6], [5, 7], [5]], {("substring", (5,)): 4.0, ("substring", (7,)): 1.0})
    scorer = PassageScorer(index, Views, weighted, np.zeros(VOCABULARY), 0.8)
    assert scorer.find_passages(2, 10).tolist() == [1]
    assert scorer.score(np.array([1, 0])).tolist() == [5.0, 4.0]


def test_no_identifiers_and_no_passages():
    index, _ = indexed([[5, 6]], {})
    scorer = PassageScorer(index, Views, [], np.zeros(VOCABULARY), 0.8)
    assert scorer.find_passages(10, 10).tolist() == []
    assert scorer.score(np.array([], dtype=np.int64)).tolist() == []
    assert scorer.explain(np.array([0]))[0].identifiers == ()
    assert likeliest_passages(index, Views, [], 10) == []
    assert likeliest_passages(index, Views, [], 10, [0]) == [ScoredPassage(0, DEAD_END, ())]


def test_likelihoods_rank_passages_by_their_identifier():
    weighted = {("docid", (5, SEPARATOR)): -3.0, ("docid", (6, SEPARATOR)): -1.0}
    index, weighted = indexed([[4, 3, 2, 5], [3, 2, 6], [3, 2, 7], [3, 2, 6]], weighted)
    found = likeliest_passages(index, Views, weighted, 10)
    assert [(one.position, one.score) for one in found] == [(1, -1.0), (3, -1.0), (0, -3.0)]
    assert found[0].identifiers[0].ids == (6, SEPARATOR) and found[0].identifiers[0].count == 2
    assert len(likeliest_passages(index, Views, weighted, 1)) == 2
