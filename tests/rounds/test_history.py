"""When rounds stop, which is the best, and the figures of the history."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from dgr_trainer.candidates import Candidate, Candidates, MatchedIdentifier
from dgr_trainer.rounds import Round, RoundsResult
from dgr_trainer.rounds.history import best_round, read_history, rounds_without_gain
from dgr_trainer.rounds.teacher_scores import mean_agreement, new_shares
from dgr_trainer.runs.rankings import Rankings

VALUES = st.lists(st.integers(0, 8).map(lambda value: value / 8), min_size=1, max_size=8)


def history(values):
    return [Round(number, {"mrr@10": value}) for number, value in enumerate(values)]


@given(VALUES, st.sampled_from([0.0, 0.125, 0.25]))
def test_rounds_without_gain(values, min_gain):
    gains = [place for place in range(1, len(values)) if values[place] > max(values[:place]) + min_gain]
    assert rounds_without_gain(history(values), "mrr@10", min_gain) == len(values) - 1 - max(gains, default=0)


@given(VALUES)
def test_the_best_round_is_the_first_of_the_best(values):
    assert best_round(history(values), "mrr@10") == values.index(max(values))
    assert best_round(history(values), None) == len(values) - 1


LISTS = st.dictionaries(
    st.sampled_from(["q1", "q2", "q3"]), st.lists(st.sampled_from("abcdef"), unique=True, min_size=1), min_size=1
)


def candidates(lists):
    matched = (MatchedIdentifier("title", (5, 6), 1, 1.0),)
    return Candidates.from_lists(
        {query: [Candidate(id, 9.0 - place, matched) for place, id in enumerate(ids)] for query, ids in lists.items()},
        corpus_tokens=100,
    )


@given(st.lists(LISTS, min_size=1, max_size=3))
def test_shares_of_new_candidates(rounds):
    pairs = [{(query, id) for query, ids in lists.items() for id in ids} for lists in rounds]
    *earlier, last = pairs
    before = earlier[-1] if earlier else set()
    found = new_shares(candidates(rounds[-1]), [candidates(lists) for lists in rounds[:-1]])
    assert found == (len(last - before) / len(last), len(last - set().union(*earlier)) / len(last))


@given(LISTS, st.data())
def test_the_agreement_is_the_mean_of_kendalls_tau(lists, data):
    scores = {
        query: {id: data.draw(st.integers(0, 3)) for id in data.draw(st.permutations(ids))}
        for query, ids in lists.items()
    }
    taus = [
        kendalltau(range(len(ids), 0, -1), [scores[query][id] for id in ids]).statistic
        for query, ids in lists.items()
        if len(ids) > 1
    ]
    defined = [tau for tau in taus if not math.isnan(tau)]
    found = mean_agreement(candidates(lists), Rankings(scores))
    assert found == (pytest.approx(sum(defined) / len(defined)) if defined else None)


def test_the_history_ends_at_the_first_round_that_is_not_finished(tmp_path):
    rounds = [Round(number, {"mrr@10": 0.1 * number}, 0.5, 0.25, None, {"search": 1.5}, "abc") for number in range(4)]
    assert read_history(tmp_path) == []
    for one in (rounds[0], rounds[1], rounds[3]):
        one.save(tmp_path / f"round-{one.number}")
    assert read_history(tmp_path) == rounds[:2]


def test_the_table():
    table = RoundsResult(None, [Round(0, {"hits@1": 0.25}), Round(1, {"hits@1": 0.5}, -0.25, 1.0, None)], 1)
    assert table.metrics == {"hits@1": 0.5}
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.to_markdown().splitlines()]
    assert rows[0] == ["round", "hits@1", "agreement", "new candidates", "new scores", "seconds"]
    assert rows[2] == ["0", "0.250", "-", "-", "-", "0"]
    assert rows[3] == ["1 (best)", "0.500", "-0.250", "100.0%", "-", "0"]
