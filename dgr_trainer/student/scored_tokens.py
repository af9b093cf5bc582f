"""What scoring returns: log-probabilities of the tokens of identifiers, and their sums; the ways to get them."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

ScoringWay = Literal["packed", "rows", "plain"]
"""How identifiers are scored: many to a row, each in a row of its own, or that by an ordinary call of the model."""


class TokenScores(NamedTuple):
    """Log-probabilities of target tokens, 0 where there is no token.

    Args:
        log_probabilities (`torch.Tensor`, float32, shape of the labels): log p of each token.
        mean_log_probabilities (`torch.Tensor`, same shape): Mean of log p over the vocabulary, for label smoothing.
    """

    log_probabilities: Tensor
    mean_log_probabilities: Tensor


def scores_of(predicted: tuple[Tensor, Tensor], present: Tensor) -> TokenScores:
    """[`TokenScores`] in the shape of `present`, from flat predictions."""
    return TokenScores(*(flat.view_as(present).masked_fill(~present, 0.0) for flat in predicted))


def sum_by_identifier(values: Tensor, segments: Tensor, num_identifiers: int) -> Tensor:
    """Sum values over the tokens of each identifier.

    Args:
        values (`torch.Tensor` of shape `(B, ...)`, floating): One value per token.
        segments (`torch.LongTensor` of the same shape): Number of the identifier of each token, -1 for none.
        num_identifiers (`int`): K, greater than all identifier numbers.

    Returns:
        `torch.Tensor` of shape `(B, K)`: the sum of each identifier.
    """
    numbers = segments.flatten(1).where(segments.flatten(1) >= 0, num_identifiers)
    sums = values.new_zeros(len(values), num_identifiers + 1)
    return sums.scatter_add(1, numbers, values.flatten(1))[:, :num_identifiers]


def mask_of_ones(tokens: Tensor) -> Tensor:
    """A mask without padding, which follows the tokens anyway; without a mask, some models guess one from the ids."""
    return torch.ones_like(tokens)


def tree_mask(ends: Tensor) -> Tensor:
    """Which cells of rows of prefix trees see which: `(R, N, N)`, bool.

    Args:
        ends (`torch.LongTensor` of shape `(R, N)`): The index in its row after the last cell that sees each cell.
    """
    indices = torch.arange(ends.shape[1], device=ends.device)
    return (indices <= indices.unsqueeze(-1)) & (indices.unsqueeze(-1) < ends.unsqueeze(1))


def attention_mask_of(allowed: Tensor, attention: str, dtype: torch.dtype) -> Tensor:
    """The mask `(R, 1, N, N)` in the form that an attention implementation, `"sdpa"` or `"eager"`, expects."""
    if attention == "sdpa":
        return allowed.unsqueeze(1)
    additive = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return additive.masked_fill(~allowed, torch.finfo(dtype).min).unsqueeze(1)
