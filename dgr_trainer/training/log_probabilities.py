"""Log-probabilities of target tokens, without a second copy of the logits."""

from typing import Any

import torch
from torch import Tensor

_CHUNK = 1 << 24  # Logits turned to float32 at a time.


class _TokenLogProbabilities(torch.autograd.Function):
    """Saves the logits as they came and one normaliser a token; the softmax is made again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        rows = max(1, _CHUNK // logits.shape[-1])
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        chosen, means, normalisers = [], [], []
        for part, wanted in zip(logits.split(rows), targets.split(rows), strict=True):
            values = part.to(dtype)
            normaliser = torch.logsumexp(values, dim=-1)
            chosen.append(values.gather(-1, wanted.unsqueeze(-1)).squeeze(-1) - normaliser)
            means.append(values.mean(-1) - normaliser)
            normalisers.append(normaliser)
        ctx.save_for_backward(logits, targets, torch.cat(normalisers))
        return torch.cat(chosen), torch.cat(means)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        logits, targets, normalisers = ctx.saved_tensors
        of_chosen, of_mean = gradients
        result = torch.empty_like(logits)
        rows = max(1, _CHUNK // logits.shape[-1])
        for start in range(0, len(logits), rows):
            part = slice(start, start + rows)
            grad = (logits[part].to(normalisers.dtype) - normalisers[part].unsqueeze(-1)).exp_()
            grad *= -(of_chosen[part] + of_mean[part]).unsqueeze(-1)
            grad += (of_mean[part] / logits.shape[-1]).unsqueeze(-1)
            grad.scatter_add_(-1, targets[part].unsqueeze(-1), of_chosen[part].unsqueeze(-1))
            result[part] = grad
        return result, None


def token_log_probabilities(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """
    log p of target tokens under a softmax over the whole vocabulary.

    Args:
        logits (`torch.Tensor` of shape `(..., V)`, floating): Any floating dtype; computed in float32 (float64 stays).
        targets (`torch.LongTensor` of shape `(...)`): Token ids from 0 to V - 1.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`, each of shape `(...)` and float32 (or float64): log p of each target, and
        the mean of log p over the vocabulary, which label smoothing needs.
    """
    flat = logits.reshape(-1, logits.shape[-1])
    chosen, mean = _TokenLogProbabilities.apply(flat, targets.reshape(-1))
    return chosen.view(targets.shape), mean.view(targets.shape)
