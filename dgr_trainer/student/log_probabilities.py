"""Log-probabilities of target tokens, without a second copy of the logits."""

from typing import Any

import torch
from torch import Tensor

_CHUNK = 1 << 24  # Logits turned to float32 at a time.


def _parts(logits: Tensor) -> list[slice]:
    """Rows that are worked on at a time."""
    size = max(1, _CHUNK // logits.shape[-1])
    starts = [0]
    # A loop over a range would bind compiled code to one number of rows; a comparison leaves it open.
    while starts[-1] + size < len(logits):
        starts.append(starts[-1] + size)
    return [slice(start, start + size) for start in starts]


class _TokenLogProbabilities(torch.autograd.Function):
    """Saves the logits as they came and one normaliser a row; the softmax is made again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        means, normalisers = [], []
        for part in _parts(logits):
            values = logits[part].to(dtype)
            normaliser = torch.logsumexp(values, dim=-1)
            means.append(values.mean(-1) - normaliser)
            normalisers.append(normaliser)
        normaliser = torch.cat(normalisers)
        ctx.save_for_backward(logits, rows, targets, normaliser)
        return logits[rows, targets].to(dtype) - normaliser[rows], torch.cat(means)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        logits, rows, targets, normaliser = ctx.saved_tensors
        of_chosen, of_mean = gradients
        total = of_mean.index_add(0, rows, of_chosen)
        result = torch.empty_like(logits)
        for part in _parts(logits):
            grad = (logits[part].to(normaliser.dtype) - normaliser[part].unsqueeze(-1)).exp_()
            grad *= -total[part].unsqueeze(-1)
            grad += (of_mean[part] / logits.shape[-1]).unsqueeze(-1)
            result[part] = grad
        result.index_put_((rows, targets), of_chosen.to(result.dtype), accumulate=True)
        return result, None, None


def token_log_probabilities(logits: Tensor, rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """log p of target tokens under softmaxes over the whole vocabulary.

    Args:
        logits (`torch.Tensor` of shape `(N, V)`, floating): Any floating dtype; computed in float32 (float64 stays).
        rows (`torch.LongTensor` of shape `(C,)`): The row of logits that predicts each target, from 0 to N - 1.
        targets (`torch.LongTensor` of shape `(C,)`): Token ids from 0 to V - 1.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]` of shapes `(C,)` and `(N,)`, float32 (or float64): log p of each target,
        and for each row the mean of log p over the vocabulary, which label smoothing needs.
    """
    return _TokenLogProbabilities.apply(logits, rows, targets)
