import itertools
import math

import pytest
import torch

from dgr_trainer.training.losses import kl_divergence_loss, listmle_loss, listnet_loss

MASK = torch.ones(1, 3, dtype=torch.bool)


def test_listnet_by_hand():
    scores = torch.tensor([[math.log(2.0), math.log(1.0), math.log(1.0)]])  # 1/2, 1/4, 1/4
    teacher_scores = torch.tensor([[math.log(1.0), math.log(6.0), math.log(3.0)]])  # 1/10, 6/10, 3/10
    expected = 0.1 * math.log(2) + 0.9 * math.log(4)
    torch.testing.assert_close(listnet_loss(scores, teacher_scores, MASK), torch.tensor(expected))


def test_kl_divergence_by_hand():
    scores = torch.tensor([[math.log(2.0), math.log(1.0), math.log(1.0)]])
    teacher_scores = torch.tensor([[math.log(1.0), math.log(6.0), math.log(3.0)]])
    expected = 0.1 * math.log(0.1 / 0.5) + 0.6 * math.log(0.6 / 0.25) + 0.3 * math.log(0.3 / 0.25)
    torch.testing.assert_close(kl_divergence_loss(scores, teacher_scores, MASK), torch.tensor(expected))


def test_kl_divergence_is_zero_where_the_student_agrees_at_its_temperature():
    teacher_scores = torch.tensor([[3.0, -2.0, 0.5]])
    loss = kl_divergence_loss(
        teacher_scores * 200 + 50, teacher_scores * 4, MASK, temperature=200, teacher_temperature=4
    )
    assert abs(loss.item()) < 1e-6


def test_listnet_and_kl_divergence_have_one_gradient():
    scores = torch.tensor([[1.0, 5.0, 2.0]], requires_grad=True)
    teacher_scores = torch.tensor([[3.0, -2.0, 0.5]])
    gradients = [
        torch.autograd.grad(loss(scores, teacher_scores, MASK, temperature=2.0, teacher_temperature=3.0), scores)[0]
        for loss in (listnet_loss, kl_divergence_loss)
    ]
    torch.testing.assert_close(gradients[0], gradients[1])
    student, teacher = torch.softmax(scores.detach() / 2, -1), torch.softmax(teacher_scores / 3, -1)
    torch.testing.assert_close(gradients[0], (student - teacher) / 2)


SCORES = torch.tensor([[math.log(2.0), math.log(1.0), math.log(1.0)]])  # 1/2, 1/4, 1/4
TEACHER = torch.tensor([[math.log(1.0), math.log(6.0), math.log(3.0)]])  # 1/10, 6/10, 3/10


def test_a_share_for_the_first_passage_by_hand():
    # 3/4 for the first, and 1/4 of the teacher's.
    target = torch.tensor([0.75 + 0.025, 0.15, 0.075])
    cross_entropy = -(target * torch.tensor([0.5, 0.25, 0.25]).log()).sum()
    torch.testing.assert_close(listnet_loss(SCORES, TEACHER, MASK, first_share=0.75), cross_entropy)
    divergence = cross_entropy + (target * target.log()).sum()
    torch.testing.assert_close(kl_divergence_loss(SCORES, TEACHER, MASK, first_share=0.75), divergence)
    # All of it: the cross-entropy of the first passage, whatever the teacher says.
    for loss in (listnet_loss, kl_divergence_loss):
        torch.testing.assert_close(loss(SCORES, -TEACHER, MASK, first_share=1.0), torch.tensor(math.log(2.0)))


def test_only_judged_lists_have_the_share():
    scores, teacher = SCORES.repeat(2, 1), TEACHER.repeat(2, 1)
    both = kl_divergence_loss(
        scores, teacher, MASK.repeat(2, 1), first_share=0.75, judged=torch.tensor([True, False]), reduction="none"
    )
    alone = [kl_divergence_loss(SCORES, TEACHER, MASK, first_share=share) for share in (0.75, 0.0)]
    torch.testing.assert_close(both, torch.stack(alone))
    # The first passage is the first that there is.
    mask = torch.tensor([[False, True, True, True]])
    padded = [torch.nn.functional.pad(one, (1, 0), value=50.0) for one in (SCORES, TEACHER)]
    torch.testing.assert_close(kl_divergence_loss(*padded, mask, first_share=0.75), alone[0])


@pytest.mark.parametrize(
    ("judged", "error", "message"),
    [
        (torch.tensor([1]), TypeError, "judged must be a bool tensor, but its dtype is torch.int64"),
        (torch.tensor([True, True]), ValueError, r"judged must have the shape \(1,\), but it is \(2,\)"),
    ],
)
def test_errors_of_judged(judged, error, message):
    with pytest.raises(error, match=message):
        kl_divergence_loss(SCORES, TEACHER, MASK, first_share=0.5, judged=judged)


@pytest.mark.parametrize("loss", [listnet_loss, kl_divergence_loss])
@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan"), "half"])
def test_a_share_is_from_0_to_1(loss, share):
    with pytest.raises(ValueError, match="first_share must be a number from 0 to 1, but it is"):
        loss(SCORES, TEACHER, MASK, first_share=share)


@pytest.mark.parametrize("share", [0.0, 0.75, 1.0])
def test_gradients_with_a_share_are_finite_in_lists_of_one_and_of_none(share):
    scores = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [4.0, 2.0, 3.0]], requires_grad=True)
    mask = torch.tensor([[False] * 3, [True, False, False], [True] * 3])
    losses = kl_divergence_loss(scores, scores.detach() * 2, mask, first_share=share, reduction="none")
    losses.sum().backward()
    assert losses[:2].tolist() == [0.0, 0.0] and not scores.grad[:2].any()
    assert losses[2] > 0 and scores.grad[2].isfinite().all()


def test_listmle_by_hand():
    scores = torch.tensor([[1.0, 5.0, 2.0]])
    teacher_scores = torch.tensor([[3.0, -2.0, 0.5]])  # order: 1.0, 2.0, 5.0
    e = math.exp
    expected = -math.log(e(1) / (e(1) + e(5) + e(2))) - math.log(e(2) / (e(2) + e(5)))
    torch.testing.assert_close(listmle_loss(scores, teacher_scores, MASK), torch.tensor(expected))


def test_listmle_is_a_likelihood():
    scores = torch.tensor([[1.0, 3.0, 2.0, 0.5]]).repeat(24, 1)
    teacher_scores = torch.tensor(list(itertools.permutations(range(4))))
    losses = listmle_loss(
        scores, teacher_scores, torch.ones(24, 4, dtype=torch.bool), temperature=2.0, reduction="none"
    )
    torch.testing.assert_close(torch.exp(-losses).sum(), torch.tensor(1.0))


def test_listmle_gradient_is_exact_at_large_scores():
    scores = torch.tensor([[5000.0, 4999.0, 4997.5]], requires_grad=True)
    teacher_scores = torch.tensor([[3.0, 2.0, 1.0]])
    (gradient,) = torch.autograd.grad(listmle_loss(scores, teacher_scores, MASK), scores)
    small = (scores.detach().double() - 5000.0).requires_grad_()
    (expected,) = torch.autograd.grad(listmle_loss(small, teacher_scores, MASK), small)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-6, atol=1e-6)
