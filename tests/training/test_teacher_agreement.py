import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau
from torch._subclasses.fake_tensor import FakeTensorMode

from dgr_trainer.training.losses import distilled_ranknet_loss, margin_rank_loss
from dgr_trainer.training.losses.margin import margin_settings
from dgr_trainer.training.teacher_agreement import kendall_tau, rank_accuracy, violated_margins

small_lists = st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2), st.booleans()), min_size=1, max_size=7)


def tensors(rows):
    """Student and teacher scores and mask, padded with garbage."""
    width = max(map(len, rows))
    padded = [row + [(float("nan"), float("inf"), False)] * (width - len(row)) for row in rows]
    columns = [[[entry[k] for entry in row] for row in padded] for k in range(3)]
    scores, teacher_scores = (torch.tensor(column, dtype=torch.float32) for column in columns[:2])
    return scores, teacher_scores, torch.tensor(columns[2])


@settings(max_examples=80, deadline=None)
@given(st.lists(small_lists, min_size=1, max_size=3))
def test_kendall_tau_is_that_of_scipy(rows):
    scores, teacher_scores, mask = tensors(rows)
    actual = kendall_tau(scores, mask, teacher_scores).tolist()
    for row, tau in zip(rows, actual, strict=True):
        student = [s for s, _, present in row if present]
        teacher = [t for _, t, present in row if present]
        if len(set(student)) < 2 or len(set(teacher)) < 2:
            assert math.isnan(tau)
        else:
            assert tau == pytest.approx(kendalltau(student, teacher).statistic, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(small_lists)
def test_kendall_tau_with_the_list_order(row):
    scores, _, mask = tensors([row])
    student = [s for s, _, present in row if present]
    tau = kendall_tau(scores, mask).item()
    if len(set(student)) < 2:
        assert math.isnan(tau)
    else:
        assert tau == pytest.approx(kendalltau(student, range(len(student), 0, -1)).statistic, abs=1e-6)


def test_rank_accuracy():
    # Teacher's order: 1, 3, 2 and the fourth is tied with the second. Pairs: (1,3) wrong, (1,2) right, (1,4) tied by
    # the student, (3,2) right, (3,4) right.
    scores = torch.tensor([[2.0, 1.0, 4.0, 2.0, 9.0]])
    teacher_scores = torch.tensor([[5.0, -1.0, 3.0, -1.0, 9.0]])
    mask = torch.tensor([[True, True, True, True, False]])
    torch.testing.assert_close(rank_accuracy(scores, mask, teacher_scores), torch.tensor([3 / 5]))
    # In list order: (1,2) right, (1,3) wrong, (1,4) tied, (2,3) wrong, (2,4) wrong, (3,4) right.
    torch.testing.assert_close(rank_accuracy(scores, mask), torch.tensor([2 / 6]))


def test_violated_margins():
    # Hinges of (10, 8, 9.5): -2+margin, -0.5+margin+gap, 1.5+margin.
    scores = torch.tensor([[10.0, 8.0, 9.5], [10.0, 8.0, 9.5]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    shares = violated_margins(scores, mask, margin=1.0, margin_gap=1.0)
    torch.testing.assert_close(shares, torch.tensor([2 / 3, 0.0]))
    shares = violated_margins(scores, mask, margin=3.0, margin_gap=0.0)
    torch.testing.assert_close(shares, torch.tensor([1.0, 1.0]))


def test_violated_margins_are_the_active_pairs_of_the_loss():
    scores = torch.randn(5, 6, generator=torch.Generator().manual_seed(1)) * 300
    mask = torch.ones(5, 6, dtype=torch.bool)
    settings = {"margin": 300.0, "margin_gap": 100.0}
    share = violated_margins(scores, mask, **settings).mean()
    total = distilled_ranknet_loss(scores, mask, reduction="sum", **settings) * 5
    active = distilled_ranknet_loss(scores, mask, reduction="active", **settings)
    assert 0.3 < share < 0.95
    torch.testing.assert_close(total / active, share * 5 * 15)


@pytest.mark.parametrize("num_candidates", [None, 2])
def test_violated_margins_of_the_first_passage_alone(num_candidates):
    scores = torch.randn(5, 6, generator=torch.Generator().manual_seed(2)) * 300
    mask = torch.ones(5, 6, dtype=torch.bool)
    mask[4, 3:] = False
    settings = margin_settings({"margin": 200.0, "margin_gap": 100.0, "num_candidates": num_candidates, "other": 1})
    shares = violated_margins(scores, mask, **settings)
    for row in range(5):
        candidates = scores[row][mask[row]].tolist()[1:][:num_candidates]
        violated = [scores[row, 0] - score < 200 + 100 * place for place, score in enumerate(candidates)]
        assert shares[row] == pytest.approx(sum(violated) / len(candidates))
    # Candidates in the wrong order, all far enough behind the first passage: nothing is left to teach.
    learnt = torch.tensor([[900.0, 0.0, 100.0, 200.0]])
    kwargs = {"margin": 300.0, "margin_gap": 100.0, "num_candidates": num_candidates}
    assert margin_rank_loss(learnt, learnt < 1000, **kwargs) == 0
    assert violated_margins(learnt, learnt < 1000, **margin_settings(kwargs)) == 0
    assert violated_margins(learnt, learnt < 1000, margin=300.0, margin_gap=100.0) == 0.5


STATISTICS = {
    "kendall_tau": kendall_tau,
    "rank_accuracy": rank_accuracy,
    "violated_margins": lambda scores, mask: violated_margins(scores, mask, margin=3.0, margin_gap=1.0),
}
each_statistic = pytest.mark.parametrize("statistic", STATISTICS.values(), ids=STATISTICS.keys())


@each_statistic
def test_undefined_is_nan_and_drops_out_of_the_mean(statistic):
    scores = torch.tensor([[3.0, 2.0], [3.0, float("nan")], [float("inf"), float("nan")]], requires_grad=True)
    mask = torch.tensor([[True, True], [True, False], [False, False]])
    values = statistic(scores, mask)
    assert not values.requires_grad
    assert values.isnan().tolist() == [False, True, True]
    assert values.nanmean() == values[0]


@each_statistic
def test_works_without_reading_values(statistic):
    with FakeTensorMode():
        assert statistic(torch.empty(4, 6), torch.empty(4, 6, dtype=torch.bool)).shape == (4,)


@each_statistic
def test_bad_input(statistic):
    with pytest.raises(TypeError, match="mask must be a bool tensor"):
        statistic(torch.zeros(2, 3), torch.ones(2, 3))
    with pytest.raises(ValueError, match="mask must have the shape of scores"):
        statistic(torch.zeros(2, 3), torch.ones(2, 4, dtype=torch.bool))


@pytest.mark.parametrize("statistic", [kendall_tau, rank_accuracy])
def test_bad_teacher_scores(statistic):
    with pytest.raises(ValueError, match="teacher_scores must have the shape of scores"):
        statistic(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 4))


@pytest.mark.parametrize("name", ["margin", "margin_gap"])
def test_bad_margin(name):
    with pytest.raises(ValueError, match=f"{name} must be a finite number >= 0, but it is -1"):
        violated_margins(
            torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), **{"margin": 1, "margin_gap": 1, name: -1}
        )
