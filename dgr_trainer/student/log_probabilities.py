"""Log-probabilities of target tokens, without a second copy of the logits."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

_CHUNK_LOGITS = 1 << 24  # Logits that are converted to float32 at a time.


def _row_chunks(logits: Tensor) -> list[slice]:
    """The rows of the logits, in chunks that are processed one at a time."""
    size = max(1, _CHUNK_LOGITS // logits.shape[-1])
    starts = [0]
    # A loop over a range would specialise compiled code on the number of rows; a comparison does not.
    while starts[-1] + size < len(logits):
        starts.append(starts[-1] + size)
    return [slice(start, start + size) for start in starts]


class _TokenLogProbabilities(torch.autograd.Function):
    """Saves the logits in their dtype and one normaliser per row; the backward pass recomputes the softmax."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        means, normalisers = [], []
        for chunk in _row_chunks(logits):
            chunk_logits = logits[chunk].to(dtype)
            normaliser = torch.logsumexp(chunk_logits, dim=-1)
            means.append(chunk_logits.mean(-1) - normaliser)
            normalisers.append(normaliser)
        normaliser = torch.cat(normalisers)
        ctx.save_for_backward(logits, rows, targets, normaliser)
        return logits[rows, targets].to(dtype) - normaliser[rows], torch.cat(means)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        logits, rows, targets, normaliser = ctx.saved_tensors
        target_gradient, mean_gradient = gradients
        total = mean_gradient.index_add(0, rows, target_gradient)
        logits_gradient = torch.empty_like(logits)
        for chunk in _row_chunks(logits):
            gradient = (logits[chunk].to(normaliser.dtype) - normaliser[chunk].unsqueeze(-1)).exp_()
            gradient *= -total[chunk].unsqueeze(-1)
            gradient += (mean_gradient[chunk] / logits.shape[-1]).unsqueeze(-1)
            logits_gradient[chunk] = gradient
        logits_gradient.index_put_((rows, targets), target_gradient.to(logits_gradient.dtype), accumulate=True)
        return logits_gradient, None, None


def token_log_probabilities(logits: Tensor, rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Compute log p of target tokens under softmaxes over the whole vocabulary.

    Args:
        logits (`torch.Tensor` of shape `(N, V)`, floating): Computed in float32, float64 in float64.
        rows (`torch.LongTensor` of shape `(C,)`): The row of logits that predicts each target, from 0 to N - 1.
        targets (`torch.LongTensor` of shape `(C,)`): Token ids from 0 to V - 1.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]` of shapes `(C,)` and `(N,)`, float32 (or float64): log p of each target,
        and, for label smoothing, the mean of log p over the vocabulary in each row.
    """
    apply = cast(Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]], _TokenLogProbabilities.apply)
    return apply(logits, rows, targets)
