"""Weights of identifiers, compared with the formula of SEAL and MINDER computed with floats."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgr_trainer.identifier_weights import ORIGINS, ScoringSettings, identifier_weights, repetition_factors


def by_hand(log_likelihood: float, count: int, tokens: int, exponent: float = 2.0) -> float:
    prior = (count + 5) / (tokens + 5)
    p = math.exp(min(log_likelihood, -1e-6))
    odds = math.log(p / (1 - p)) - math.log(prior / (1 - prior))
    return max(0.0, odds) ** exponent


@given(st.floats(-30, -0.01), st.integers(1, 100_000), st.integers(200_000, 10**9))
def test_log_odds_weight_equals_the_formula(log_likelihood, count, tokens):
    got = identifier_weights(
        torch.tensor([log_likelihood], dtype=torch.float64), torch.tensor([count]), tokens, ScoringSettings()
    )
    assert got.item() == pytest.approx(by_hand(log_likelihood, count, tokens), rel=1e-9, abs=1e-9)


def test_magnitude_on_a_large_corpus():
    # A confident, rare identifier of a corpus like Wikipedia: log-odds of 17 to 18, a weight around 300.
    weight = identifier_weights(torch.tensor([-2.0]), torch.tensor([20]), 3_000_000_000, ScoringSettings())
    assert 250 < weight.item() < 350


def test_identifiers_that_do_not_occur_weigh_nothing():
    weights = identifier_weights(torch.tensor([-1.0, -1.0]), torch.tensor([0, 3]), 1000, ScoringSettings())
    assert weights[0] == 0
    assert weights[1] > 0


def test_less_probable_than_in_the_corpus_weighs_nothing():
    assert identifier_weights(torch.tensor([-12.0]), torch.tensor([500]), 1000, ScoringSettings()).item() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite_with_finite_gradient_at_the_ends(dtype):
    likelihoods = torch.tensor([0.0, -1e-7, -0.69, -0.70, -50.0, -5000.0], dtype=dtype, requires_grad=True)
    weights = identifier_weights(likelihoods, torch.tensor([1, 5, 10, 1, 1, 1]), 10**9, ScoringSettings())
    assert weights.dtype == torch.float32
    weights.sum().backward()
    assert torch.isfinite(weights).all()
    assert torch.isfinite(likelihoods.grad).all()
    assert likelihoods.grad[2] > 0


def test_gradient():
    likelihoods = torch.tensor([-0.2, -1.0, -3.0], dtype=torch.float64, requires_grad=True)
    counts = torch.tensor([1, 40, 7])
    assert torch.autograd.gradcheck(lambda x: identifier_weights(x, counts, 10**6, ScoringSettings()), likelihoods)


def test_pseudo_query_bonus():
    likelihoods, counts = torch.tensor([-20.0, -5.0, -0.5]).double(), torch.tensor([1, 1, 1])
    where = torch.tensor([True, True, True])
    weights = identifier_weights(likelihoods, counts, 10**6, ScoringSettings(pseudo_query_bonus=14.0), where)
    expected = [by_hand(-6.0, 1, 10**6), by_hand(-1.0, 1, 10**6), by_hand(-0.5, 1, 10**6)]
    assert weights.tolist() == pytest.approx(expected)
    none = identifier_weights(likelihoods, counts, 10**6, ScoringSettings(), ~where)
    assert none.tolist() == pytest.approx([by_hand(x, 1, 10**6) for x in (-20.0, -5.0, -0.5)])


def test_unigrams_have_no_exponent_and_words_of_the_query_a_weight():
    likelihoods, counts = torch.full((3,), -1.0).double(), torch.ones(3, dtype=torch.int64)
    origins = torch.tensor([ORIGINS.index(origin) for origin in ("unigram", "query", "generated")])
    single, whole = by_hand(-1.0, 1, 10**6, exponent=1.0), by_hand(-1.0, 1, 10**6)
    for factor in (1.0, 2.5, 0.0):
        settings = ScoringSettings(query_weight=factor)
        weights = identifier_weights(likelihoods, counts, 10**6, settings, origins=origins)
        assert weights.tolist() == pytest.approx([single, factor * whole, whole])


def test_log_likelihood_kind_leaves_scores_as_they_are():
    likelihoods = torch.tensor([-3.0, -0.5])
    weights = identifier_weights(likelihoods, torch.tensor([0, 9]), 10, ScoringSettings(kind="log_likelihood"))
    assert weights.tolist() == [-3.0, -0.5]


def test_repetition_factors_by_hand():
    # Nothing covered; one of two tokens new; none new; both new.
    assert repetition_factors([(1, 2), (2, 3), (1, 3, 3), (7, 8)], 0.8) == pytest.approx([1.0, 0.6, 0.2, 1.0])
    assert repetition_factors([(1,), (1,)], 0.0) == [1.0, 1.0]


def test_settings_round_trip():
    settings = ScoringSettings(kind="log_likelihood", exponent=1.5)
    assert ScoringSettings.from_dict(settings.to_dict()) == settings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "odds"}, "kind='odds' is not a kind of score; use one of log_odds, log_likelihood"),
        ({"repetition": 1.5}, "repetition=1.5 must lie between 0"),
        ({"exponent": 0}, "exponent=0 must be greater than 0"),
        ({"query_weight": -0.5}, "query_weight=-0.5 must not be negative"),
        ({"identifiers_per_passage": 0}, "identifiers_per_passage=0 must be"),
        ({"smoothing": -1}, "smoothing=-1 must be"),
        ({"pseudo_query_bonus": -1}, "pseudo_query_bonus=-1 must not be negative"),
    ],
)
def test_settings_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ScoringSettings(**arguments)


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="Unknown scoring settings: beta"):
        ScoringSettings.from_dict({"beta": 1})
