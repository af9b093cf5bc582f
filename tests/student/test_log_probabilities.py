import pytest
import torch

from dgr_trainer.student import log_probabilities
from dgr_trainer.student.log_probabilities import token_log_probabilities


@pytest.mark.parametrize("chunk", [1, 40, 1 << 20])
def test_values_and_gradients_are_those_of_log_softmax(chunk, monkeypatch):
    monkeypatch.setattr(log_probabilities, "_CHUNK_LOGITS", chunk)
    logits = torch.randn(15, 17, dtype=torch.float64, requires_grad=True)
    # Rows without a target, with one, and with several, some of them equal.
    rows, targets = torch.randint(0, 15, (40,)), torch.randint(0, 17, (40,))
    rows[:2], targets[:2] = 3, 5
    weights, mean_weights = torch.randn(40, dtype=torch.float64), torch.randn(15, dtype=torch.float64)

    chosen, mean = token_log_probabilities(logits, rows, targets)
    ((chosen * weights).sum() + (mean * mean_weights).sum()).backward()
    gradient, logits.grad = logits.grad, None

    expected = torch.log_softmax(logits, dim=-1)
    of_targets = expected[rows, targets]
    ((of_targets * weights).sum() + (expected.mean(-1) * mean_weights).sum()).backward()
    torch.testing.assert_close(chosen, of_targets)
    torch.testing.assert_close(mean, expected.mean(-1))
    torch.testing.assert_close(gradient, logits.grad)


def test_half_precision_is_computed_in_float32():
    logits = (torch.randn(4, 1000) * 10).bfloat16().requires_grad_()
    targets = torch.randint(0, 1000, (4,))
    chosen, _ = token_log_probabilities(logits, torch.arange(4), targets)
    chosen.sum().backward()
    assert chosen.dtype == torch.float32 and logits.grad.dtype == torch.bfloat16
    expected = torch.log_softmax(logits.detach().float(), dim=-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(chosen, expected)


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    chosen, _ = token_log_probabilities(logits, torch.tensor([0]), torch.tensor([1]))
    chosen.sum().backward()
    assert chosen.item() == -2e4
    assert torch.equal(logits.grad, torch.tensor([[-1.0, 1.0, 0.0]]))
