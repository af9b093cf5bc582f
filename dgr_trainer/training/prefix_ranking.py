"""Rank lists of prefixes: at each depth, what the first tokens of the identifiers score.

A search keeps a passage only as long as the prefix of its identifier is among the best, so the relevant passage has to
outrank the others at every depth, not only when its identifier is complete. The idea is RIPOR's (Zeng et al., 2023,
arXiv 2311.09134); the scores of prefixes are sums of what the forward pass has anyway.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class PrefixLists(NamedTuple):
    """The rank lists of prefixes of D depths.

    Args:
        scores (`torch.Tensor` of shape `(B, D, M)`): Sum of the log-probabilities of the first d tokens of each
            passage's identifier; of all of them if it has fewer.
        mask (`torch.BoolTensor` of shape `(B, D, M)`): Where there is a prefix that no passage before in the list has.
            Passages with one prefix cannot be told apart at its depth: it has the place of the best of them.
    """

    scores: Tensor
    mask: Tensor


def prefix_lists(log_probabilities: Tensor, batch: Mapping[str, Tensor]) -> PrefixLists:
    """The lists of prefixes of a batch.

    Args:
        log_probabilities (`torch.Tensor` of shape `(B, C)`): Of the tokens of the identifiers.
        batch (`Mapping[str, torch.Tensor]`): A batch of the collator, with one identifier a passage.

    Returns:
        [`PrefixLists`]: D is the length of the longest identifier in the lists.
    """
    cells, list_mask = batch["passage_cells"], batch["list_mask"]
    chosen, absent = cells.clamp(min=0).flatten(1), cells < 0
    tokens = batch["labels"].gather(1, chosen).view_as(cells).masked_fill(absent, -1)
    log_p = log_probabilities.gather(1, chosen).view_as(cells).masked_fill(absent, 0.0)

    same = (tokens.unsqueeze(2) == tokens.unsqueeze(1)).to(torch.uint8).cumprod(-1).bool()  # (B, M, M, D)
    both = (list_mask.unsqueeze(2) & list_mask.unsqueeze(1)).tril(-1)
    repeated = (same & both.unsqueeze(-1)).any(2)
    within = (tokens >= 0).any(1, keepdim=True)  # Depths that an identifier of the list has.
    mask = list_mask.unsqueeze(-1) & ~repeated & within
    return PrefixLists(log_p.cumsum(-1).transpose(1, 2), mask.transpose(1, 2))


def prefix_ranking_losses(
    lists: PrefixLists,
    teacher_scores: Tensor,
    taught_ranks: Tensor,
    judged: Tensor,
    loss: Callable[..., Tensor],
) -> Tensor:
    """A ranking loss at every depth, averaged over the depths that tell passages apart.

    All depths weigh the same, since a search may lose the passage at each of them; so the loss of a list has the scale
    that it has on complete identifiers. Depths at which all passages have one prefix have nothing to teach and do not
    count.

    Args:
        lists ([`PrefixLists`] of shape `(B, D, M)`): Scores and mask.
        teacher_scores (`torch.Tensor` of shape `(B, M)`): Teacher scores, the same at each depth.
        taught_ranks (`torch.Tensor` of shape `(B, M)`): Ranks to be taught, the same at each depth.
        judged (`torch.BoolTensor` of shape `(B,)`): Lists whose first passage is the relevant one.
        loss (`Callable`): `loss(scores, teacher_scores, mask, taught_ranks, judged)`, of lists `(B * D, M)`.

    Returns:
        `torch.Tensor` of shape `(B,)`; `()` for a loss that is no mean over lists, of the lists of all depths.
    """
    scores, mask = lists
    batch, depth, _ = scores.shape
    flat = [tensor.unsqueeze(1).expand_as(scores).flatten(0, 1) for tensor in (teacher_scores, taught_ranks)]
    losses = loss(scores.flatten(0, 1), flat[0], mask.flatten(0, 1), flat[1], judged.repeat_interleave(depth))
    if losses.dim() == 0:
        return losses
    counted = (mask.sum(-1) >= 2).to(losses.dtype)
    return (losses.view(batch, depth) * counted).sum(-1) / counted.sum(-1).clamp(min=1.0)
