import itertools
import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgr_trainer.errors import MissingPackageError
from dgr_trainer.evaluation import significance
from dgr_trainer.evaluation.significance import confidence_interval, paired_test

VALUES = st.lists(st.tuples(st.integers(-20, 20), st.integers(-20, 20)), min_size=2, max_size=40)


def test_the_t_test_agrees_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    for count in (2, 3, 10, 100, 5000):
        for shift in (0.0, 0.01, 0.3, 3.0):
            a = generator.normal(size=count)
            b = a + generator.normal(size=count) + shift
            wanted, ours = stats.ttest_rel(a, b), paired_test(a, b, resamples=1, t_test=True)
            assert ours.t == pytest.approx(wanted.statistic, rel=1e-9)
            assert ours.t_p_value == pytest.approx(wanted.pvalue, rel=1e-9, abs=1e-300)
            assert ours.difference == pytest.approx(a.mean() - b.mean())
            assert ours.queries == count


def test_only_the_p_value_of_the_t_test_needs_scipy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)  # Importing it fails.
    assert paired_test([1, 2, 4], [1, 0, 1]).t_p_value is None
    with pytest.raises(MissingPackageError, match=r"needs scipy.*pip install \"dgr-trainer\[eval\]\""):
        paired_test([1, 2, 4], [1, 0, 1], t_test=True)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=2, max_size=8))
def test_a_small_randomisation_test_is_exact(differences):
    total = abs(sum(differences))
    signs = list(itertools.product([1, -1], repeat=len(differences)))
    wanted = sum(abs(sum(s * d for s, d in zip(sign, differences, strict=True))) >= total for sign in signs) / len(
        signs
    )
    scaled = np.array(differences) * 0.1
    assert paired_test(scaled, np.zeros(len(differences))).randomisation_p_value == pytest.approx(wanted)


def test_a_large_randomisation_test_agrees_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(1)
    for shift in (0.0, 0.1, 0.2):
        a = generator.normal(size=200)
        b = a + generator.normal(size=200) + shift
        wanted = stats.permutation_test((a, b), lambda x, y: np.mean(x - y), permutation_type="samples", rng=2).pvalue
        assert paired_test(a, b).randomisation_p_value == pytest.approx(wanted, abs=0.02)


@given(VALUES)
def test_a_test_is_symmetric_and_repeatable(pairs):
    pytest.importorskip("scipy")
    a, b = zip(*pairs, strict=True)
    there, back = (paired_test(*systems, resamples=500, t_test=True) for systems in ((a, b), (b, a)))
    assert there == paired_test(a, b, resamples=500, t_test=True)
    assert (there.t, there.difference) == (-back.t, -back.difference)
    assert there.t_p_value == back.t_p_value and there.randomisation_p_value == back.randomisation_p_value
    assert 0 <= there.t_p_value <= 1 and 0 < there.randomisation_p_value <= 1


def test_small_chunks_of_resamples_make_no_difference_but_chance(monkeypatch):
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, 50))
    whole = paired_test(a, b).randomisation_p_value, *confidence_interval(a)
    monkeypatch.setattr(significance, "_CHUNK_VALUES", 50 * 7)
    assert list(significance._chunks(20, 50)) == [7, 7, 6]
    assert (paired_test(a, b).randomisation_p_value, *confidence_interval(a)) == pytest.approx(whole, abs=0.03)


def test_equal_systems_do_not_differ():
    pytest.importorskip("scipy")
    result = paired_test([0.1, 0.5, 0.2], [0.1, 0.5, 0.2], t_test=True)
    assert (result.difference, result.t, result.t_p_value, result.randomisation_p_value) == (0.0, 0.0, 1.0, 1.0)


def test_a_constant_difference_is_certain():
    pytest.importorskip("scipy")
    result = paired_test([0.3] * 8, [0.1] * 8, t_test=True)
    assert result.t == math.inf and result.t_p_value == 0.0
    assert result.randomisation_p_value == 2 / 2**8


def test_mappings_are_paired_by_query():
    a, b = {"q1": 1.0, "q2": 0.0, "q3": 0.5}, {"q3": 0.0, "q1": 0.5, "q2": 0.25}
    assert paired_test(a, b) == paired_test([1.0, 0.0, 0.5], [0.5, 0.25, 0.0])


def test_what_cannot_be_paired_is_refused():
    with pytest.raises(ValueError, match="1 queries have a value in only one of the two systems, such as 'q2'"):
        paired_test({"q1": 1.0, "q2": 1.0}, {"q1": 1.0})
    with pytest.raises(TypeError, match="One system has its values by query id and the other does not"):
        paired_test({"q1": 1.0}, [1.0])
    with pytest.raises(ValueError, match="2 and 3 values, which cannot be paired"):
        paired_test([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="only one query"):
        paired_test([1], [2])
    with pytest.raises(ValueError, match="b contains nan"):
        paired_test([1, 2], [1, math.nan])
    with pytest.raises(ValueError, match=r"a has the shape \(1, 2\)"):
        paired_test([[1, 2]], [[1, 2]])
    with pytest.raises(ValueError, match="resamples is 0"):
        paired_test([1, 2], [1, 2], resamples=0)


def test_the_interval_agrees_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(0).binomial(1, 0.3, size=400).astype(float)
    wanted = stats.bootstrap((values,), np.mean, confidence_level=0.9, method="percentile", rng=1).confidence_interval
    assert confidence_interval(values, level=0.9) == pytest.approx((wanted.low, wanted.high), abs=0.005)


def test_the_interval_holds_the_true_mean_as_often_as_it_says():
    generator = np.random.default_rng(3)
    held = 0
    for seed in range(200):
        low, high = confidence_interval(generator.normal(1.0, 1.0, size=60), level=0.8, seed=seed, resamples=400)
        held += low <= 1.0 <= high
    assert 0.72 < held / 200 < 0.88


def test_the_interval_is_repeatable_and_takes_mappings():
    values = {"q1": 0.0, "q2": 1.0, "q3": 0.5}
    assert confidence_interval(values) == confidence_interval([0.0, 1.0, 0.5])
    assert confidence_interval(values, level=0.5) != confidence_interval(values)
    assert confidence_interval([0.25] * 3) == (0.25, 0.25)


def test_intervals_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="level is 95"):
        confidence_interval([1, 2], level=95)
    with pytest.raises(ValueError, match=r"values has the shape \(0,\)"):
        confidence_interval([])
    with pytest.raises(ValueError, match="values contains inf"):
        confidence_interval([1, math.inf])
    with pytest.raises(ValueError, match="resamples is 0"):
        confidence_interval([1, 2], resamples=0)
