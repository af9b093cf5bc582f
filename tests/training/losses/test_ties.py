"""Passages that the teacher does not tell apart: no order among them is taught, whatever their order in the list."""

import math
import random

import pytest
import torch

from dgr_trainer.training.losses import RANKING_LOSSES, distilled_ranknet_loss, listmle_loss, margin_rank_loss
from dgr_trainer.training.losses.list_tensors import check_ranks
from dgr_trainer.training.teacher_agreement import violated_margins

MASK = torch.ones(1, 4, dtype=torch.bool)
# The second and third passage are tied.
SCORES, RANKS = torch.tensor([[10.0, 8.0, 9.5, 9.0]]), torch.tensor([[0, 1, 1, 2]])


def test_tied_passages_by_hand():
    # Places 0, 1, 1, 2; hinges with margin 3 and gap 1; weights 3, 1/2, 1/2:
    # (a, b) 3-2 = 1, (a, c) 3-.5 = 2.5, (a, d) 4-1 = 3; (b, d) 3+1 = 4, (c, d) 3-.5 = 2.5
    expected = 3 * (1 + 2.5 + 3) + 0.5 * (4 + 2.5)
    ties = {"taught_ranks": RANKS, "margin": 3.0, "margin_gap": 1.0}
    loss = distilled_ranknet_loss(SCORES, MASK, reduction="sum", **ties)
    torch.testing.assert_close(loss, torch.tensor(expected))
    weights = 3 * 3 + 2 * 0.5
    torch.testing.assert_close(distilled_ranknet_loss(SCORES, MASK, **ties), torch.tensor(expected / weights))
    torch.testing.assert_close(
        distilled_ranknet_loss(SCORES, MASK, reduction="active", **ties), torch.tensor(expected / 5)
    )
    # The first passage against the three others.
    torch.testing.assert_close(
        margin_rank_loss(SCORES, MASK, num_candidates=None, **ties), torch.tensor((1 + 2.5 + 3) / 3)
    )
    assert violated_margins(SCORES, MASK, **ties).tolist() == [1.0]
    torch.testing.assert_close(violated_margins(SCORES, MASK, **{**ties, "margin": 1.0}), torch.tensor([4 / 5]))
    # Of the tied two, each competes with what is below it: d alone.
    e = {name: math.exp(value) for name, value in zip("abcd", SCORES[0].tolist(), strict=True)}
    terms = [
        math.log(sum(e.values()) / e["a"]),
        math.log((e["b"] + e["d"]) / e["b"]),
        math.log((e["c"] + e["d"]) / e["c"]),
    ]
    loss = listmle_loss(SCORES, torch.tensor([[9.0, 4.0, 4.0, 1.0]]), MASK)
    torch.testing.assert_close(loss, torch.tensor(sum(terms)))


def plain_distilled_ranknet(scores, places, margin, gap, first_weight):
    total, weights = 0.0, 0.0
    for i, p in enumerate(places):
        for j, q in enumerate(places):
            if p < q:
                weight = first_weight if p == 0 else 1 / (p + 1)
                weights += weight
                total += weight * max(0.0, scores[j] - scores[i] + margin + (q - p - 1) * gap)
    return total / weights if weights else 0.0


def plain_margin_rank(scores, places, margin, gap, candidates):
    first = [i for i, place in enumerate(places) if place == 0]
    others = [j for j, place in enumerate(places) if place > 0][:candidates]
    hinges = [max(0.0, scores[j] - scores[i] + margin + (places[j] - 1) * gap) for i in first for j in others]
    return sum(hinges) / len(hinges) if hinges else 0.0


def plain_listmle(scores, places):
    terms = []
    for i, place in enumerate(places):
        behind = [scores[i], *(score for score, other in zip(scores, places, strict=True) if other > place)]
        terms.append(math.log(sum(math.exp(score - scores[i]) for score in behind)))
    return sum(terms)


def ragged_lists(seed: int, lists: int = 40):
    """Random lists with ties and holes, as tensors and, without what is masked, as plain lists."""
    rng = random.Random(seed)
    size = 6
    scores = torch.tensor([[rng.uniform(-3, 3) for _ in range(size)] for _ in range(lists)])
    mask = torch.tensor([[rng.random() < 0.8 for _ in range(size)] for _ in range(lists)])
    ranks = torch.tensor([sorted(rng.choice([0, 1, 1, 3, 7]) for _ in range(size)) for _ in range(lists)])
    plain = []
    for row in range(lists):
        kept = [m for m in range(size) if mask[row, m]]
        levels = sorted({int(ranks[row, m]) for m in kept})
        plain.append(([scores[row, m].item() for m in kept], [levels.index(int(ranks[row, m])) for m in kept]))
    return scores, mask, ranks, plain


@pytest.mark.parametrize("seed", range(3))
def test_the_losses_are_those_of_a_loop_over_pairs(seed):
    scores, mask, ranks, plain = ragged_lists(seed)
    ties = {"taught_ranks": ranks, "margin": 1.0, "margin_gap": 0.5, "reduction": "none"}
    expected = torch.tensor([plain_distilled_ranknet(*row, 1.0, 0.5, 3.0) for row in plain])
    torch.testing.assert_close(distilled_ranknet_loss(scores, mask, **ties), expected)
    for candidates in (1, 2, None):
        expected = torch.tensor([plain_margin_rank(*row, 1.0, 0.5, candidates) for row in plain])
        torch.testing.assert_close(margin_rank_loss(scores, mask, num_candidates=candidates, **ties), expected)
    expected = torch.tensor([plain_listmle(*row) for row in plain])
    torch.testing.assert_close(listmle_loss(scores, -ranks, mask, reduction="none"), expected)


def with_settings(name):
    loss = RANKING_LOSSES[name]
    return lambda scores, teacher, mask, ranks: loss(
        scores, teacher, mask, loss.with_settings("log_likelihood", {}), ranks
    )


@pytest.mark.parametrize("name", RANKING_LOSSES)
def test_the_order_of_tied_passages_changes_neither_loss_nor_gradient(name):
    loss = with_settings(name)
    teacher = torch.tensor([[5.0, 2.0, 2.0, 2.0, 0.0, 0.0]])
    ranks = torch.tensor([[0, 1, 1, 1, 2, 2]])
    mask = torch.ones(1, 6, dtype=torch.bool)
    scores = torch.tensor([[0.3, -1.0, 2.0, 0.1, 1.5, -0.7]])
    shuffled = [0, 3, 1, 2, 5, 4]
    results = []
    for order in (list(range(6)), shuffled):
        taken = scores[:, order].requires_grad_()
        value = loss(taken, teacher[:, order], mask, ranks[:, order]).sum()
        (gradient,) = torch.autograd.grad(value, taken)
        results.append((value.detach(), gradient[:, [order.index(m) for m in range(6)]]))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("name", ["distilled_ranknet", "margin_rank", "ranknet", "lambda", "listmle"])
def test_a_teacher_that_tells_nothing_apart_teaches_nothing(name):
    scores = torch.tensor([[0.3, -1.0, 2.0]], requires_grad=True)
    zeros, mask = torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool)
    loss = with_settings(name)(scores, zeros, mask, zeros.long())
    assert loss.tolist() == [0.0]
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    assert not gradient.any()


@pytest.mark.parametrize("name", ["distilled_ranknet", "margin_rank"])
def test_without_ties_the_ranks_are_the_order(name):
    torch.manual_seed(0)
    scores, mask = torch.randn(8, 5), torch.rand(8, 5) < 0.8
    teacher = torch.zeros(8, 5)
    loss = with_settings(name)
    ranks = torch.arange(5).expand(8, 5)
    torch.testing.assert_close(loss(scores, teacher, mask, None), loss(scores, teacher, mask, ranks))


def test_ranks_that_are_none_are_refused():
    assert check_ranks(torch.tensor([[3, 3, 9, 12]]), torch.tensor([[True, True, False, True]])).tolist()[0][3] == 1
    with pytest.raises(TypeError, match=r"taught_ranks must be integers, but their dtype is torch.float32"):
        distilled_ranknet_loss(SCORES, MASK, taught_ranks=SCORES, margin=1.0, margin_gap=0.0)
    with pytest.raises(ValueError, match=r"taught_ranks must have the shape of scores, \(1, 4\), but it is \(1, 3\)"):
        margin_rank_loss(SCORES, MASK, taught_ranks=RANKS[:, :3], margin=1.0, margin_gap=0.0)
