import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgr_trainer.evaluation.agreement import agreement, kendall_tau
from dgr_trainer.runs.rankings import Rankings

SCORES = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 4).map(float))


@given(SCORES, SCORES)
def test_tau_is_that_of_scipy(first, second):
    stats = pytest.importorskip("scipy.stats")
    shared = sorted(set(first) & set(second))
    found = kendall_tau(Rankings({"q": first})["q"], Rankings({"q": second})["q"])
    if len(shared) < 2:
        assert math.isnan(found)
    else:
        expected = stats.kendalltau([first[id] for id in shared], [second[id] for id in shared]).statistic
        assert found == pytest.approx(float(expected), nan_ok=True)


def test_means_are_over_common_queries():
    first = Rankings({"q1": {"a": 3, "b": 2, "c": 1}, "q2": {"a": 1}, "q3": {"x": 1}, "q4": {}})
    second = Rankings({"q1": {"c": 3, "b": 2, "a": 1}, "q2": {"b": 1}, "q4": {}})
    third = Rankings({"q1": {"a": 9, "b": 8, "z": 7}, "q3": {"x": 1}})
    table = agreement({"one": first, "two": second, "three": third}, k=3)
    one_two, one_three, two_three = table.pairs
    assert (one_two.tau, one_two.queries, one_two.ordered) == (-1.0, 3, 1)
    assert one_two.overlap == pytest.approx((1 + 0 + 1) / 3)
    assert (one_three.first, one_three.second, one_three.tau) == ("one", "three", 1.0)
    assert one_three.overlap == pytest.approx((2 / 3 + 1) / 2)
    assert two_three.tau == -1.0
    assert json.loads(json.dumps(table.to_dict()))["pairs"][0]["queries"] == 3
    assert table.to_markdown().splitlines()[2].split() == "| one, two | -1.000 | 0.667 | 3 |".split()


def test_only_the_first_passages_are_compared():
    first = Rankings({"q": {"a": 3, "b": 2, "c": 1}})
    second = Rankings({"q": {"a": 3, "c": 2, "b": 1}})
    (pair,) = agreement({"one": first, "two": second}, k=1).pairs
    assert pair.overlap == 1.0 and math.isnan(pair.tau) and pair.ordered == 0
    assert agreement({"one": first, "two": second}, k=1).to_dict()["pairs"][0]["tau"] is None


def test_long_lists():
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(2, 1000))
    runs = [Rankings({"q": {f"p{i}": float(score) for i, score in enumerate(row)}}) for row in scores]
    stats = pytest.importorskip("scipy.stats")
    (pair,) = agreement({"one": runs[0], "two": runs[1]}, k=1000).pairs
    assert pair.tau == pytest.approx(stats.kendalltau(*scores).statistic)


def test_errors():
    run = Rankings({"q": {"a": 1}})
    with pytest.raises(ValueError, match="needs two or more rankings, but 1 was given"):
        agreement({"one": run})
    with pytest.raises(ValueError, match="k is 0"):
        agreement({"one": run, "two": run}, k=0)
    with pytest.raises(ValueError, match="one and two have no query in common: .* such as 'q' and 'r'. Compare"):
        agreement({"one": run, "two": Rankings({"r": {"a": 1}})})
