import pytest
import torch

from dgr_trainer.training.losses import standardize_scores


def test_by_hand():
    scores = torch.tensor([[900.0, 100.0, float("nan"), 500.0], [7.0, 3.0, 5.0, 5.0]])
    mask = torch.tensor([[True, True, False, True], [True, True, False, False]])
    root = 1.5**0.5
    expected = torch.tensor([[root, -root, 0.0, 0.0], [1.0, -1.0, 0.0, 0.0]])
    torch.testing.assert_close(standardize_scores(scores, mask), expected)


def test_low_precision_in_float32_out():
    scores = torch.tensor([[5000.0, -5000.0]], dtype=torch.float16)
    standardized = standardize_scores(scores, torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close(standardized, torch.tensor([[1.0, -1.0]]))


def test_gradient():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True] * 4, [True, False, True, True], [False, True, False, True]])
    assert torch.autograd.gradcheck(lambda s: standardize_scores(s, mask), (scores,))


@pytest.mark.parametrize("mask", [[True] * 3, [False, True, False], [False] * 3])
def test_equal_scores_become_zeros_with_a_finite_gradient(mask):
    scores = torch.full((1, 3), 300.0, requires_grad=True)
    standardized = standardize_scores(scores, torch.tensor([mask]))
    assert torch.equal(standardized, torch.zeros(1, 3))
    standardized[0, 1].backward()
    assert scores.grad.isfinite().all()


def test_bad_eps():
    with pytest.raises(ValueError, match="eps must be a finite number > 0, but it is 0.0"):
        standardize_scores(torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), eps=0.0)
