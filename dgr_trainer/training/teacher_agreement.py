"""How well the student's scores agree with the teacher: metrics for the log, one for each list of a batch.

All return a `(B,)` tensor that stays on its device, NaN where a list has nothing to compare. Collect them, gather them
over processes, and log their `torch.nanmean`: every list then counts once, whatever its batch.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from .losses.list_tensors import (
    check_choice,
    check_number,
    check_ranks,
    check_scores,
    check_teacher,
    positions,
    preferred,
)
from .losses.margin import MarginGrowth, Normalization, first_pairs, margin_scores, pair_hinges, taught_pairs


@torch.no_grad()
def count_violated_margins(
    scores: Tensor,
    mask: Tensor,
    *,
    margin: float,
    margin_gap: float,
    taught_ranks: Tensor | None = None,
    teacher_scores: Tensor | None = None,
    normalization: Normalization = "none",
    margin_growth: MarginGrowth = "ranks",
    pairs: Literal["all", "first"] = "all",
    num_candidates: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Count the pairs of each list that a loss with margins teaches, and those of them that violate their margin.

    Args:
        scores (`torch.Tensor` of shape `(B, M)`): Student scores, in the order to be taught.
        mask (`torch.BoolTensor` of shape `(B, M)`): `True` where there is a passage.
        margin (`float`): Margin between neighbours, in units of the scores.
        margin_gap (`float`): What each further place between the two adds to the margin.
        taught_ranks (`torch.Tensor` of shape `(B, M)`, *optional*): Ranks, equal for passages that are no pair. By
            default every two passages are one.
        teacher_scores (`torch.Tensor` of shape `(B, M)`, *optional*): As in [`distilled_ranknet_loss`].
        normalization (`str`, *optional*, defaults to `"none"`): As there.
        margin_growth (`str`, *optional*, defaults to `"ranks"`): As there.
        pairs (`str`, *optional*, defaults to `"all"`): `"all"`, as [`distilled_ranknet_loss`] compares them, or
            `"first"`: the first passage with the others, as [`margin_rank_loss`] does.
        num_candidates (`int`, *optional*): With how many of the others, see [`margin_rank_loss`]. By default all.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]` of shape `(B,)`: the violated pairs, and all pairs.

    Raises:
        TypeError: If `scores` is not floating point or `mask` is not bool.
        ValueError: If shapes do not match or a margin is negative.
    """
    check_number("margin", margin)
    check_number("margin_gap", margin_gap)
    check_choice("pairs", pairs, ("all", "first"))
    scores, growth = margin_scores(scores, mask, teacher_scores, normalization, margin_growth)
    levels = check_ranks(taught_ranks, mask)
    taught = first_pairs(levels, mask, num_candidates) if pairs == "first" else taught_pairs(levels, mask)
    violated = taught & (pair_hinges(scores, mask, levels, margin, margin_gap, growth) > 0)
    return violated.sum((-1, -2)), taught.sum((-1, -2))


def violated_margins(scores: Tensor, mask: Tensor, **settings: Any) -> Tensor:
    """Share of the taught pairs of each list that violate their margin.

    Args:
        scores (`torch.Tensor` of shape `(B, M)`): Student scores, in the order to be taught.
        mask (`torch.BoolTensor` of shape `(B, M)`): `True` where there is a passage.
        settings: The other arguments of `count_violated_margins`, which raises what this raises.

    Returns:
        `torch.Tensor` of shape `(B,)`, between 0 and 1; NaN for lists without a pair.
    """
    violated, taught = count_violated_margins(scores, mask, **settings)
    return violated / taught


@torch.no_grad()
def rank_accuracy(scores: Tensor, mask: Tensor, teacher_scores: Tensor | None = None) -> Tensor:
    """Share of the pairs ordered by the teacher that the student orders the same way.

    Equal student scores count as wrong.

    Args:
        scores (`torch.Tensor` of shape `(B, M)`): Student scores.
        mask (`torch.BoolTensor` of shape `(B, M)`): `True` where there is a passage.
        teacher_scores (`torch.Tensor` of shape `(B, M)`, *optional*): Teacher scores, higher is better. By default the
            list is in the teacher's order, best first.

    Returns:
        `torch.Tensor` of shape `(B,)`, between 0 and 1; NaN for lists of which the teacher orders no pair.

    Raises:
        TypeError: If a dtype is wrong.
        ValueError: If shapes do not match.
    """
    student, teacher = _pair_signs(scores, mask, teacher_scores)
    return (student * teacher == 1).sum((-1, -2)) / (teacher != 0).sum((-1, -2))


@torch.no_grad()
def kendall_tau(scores: Tensor, mask: Tensor, teacher_scores: Tensor | None = None) -> Tensor:
    r"""Kendall's tau-b between the student's scores and the teacher's scores or order.

    $$\tau_b = \frac{\text{concordant} - \text{discordant}}{\sqrt{n_s n_t}}$$

    with n_s and n_t the pairs that student and teacher, respectively, do not tie.

    Source: Kendall, "The Treatment of Ties in Ranking Problems" (Biometrika 1945); `scipy.stats.kendalltau` of each
    list.

    Args:
        scores (`torch.Tensor` of shape `(B, M)`): Student scores.
        mask (`torch.BoolTensor` of shape `(B, M)`): `True` where there is a passage.
        teacher_scores (`torch.Tensor` of shape `(B, M)`, *optional*): Teacher scores, higher is better. By default the
            list is in the teacher's order, best first.

    Returns:
        `torch.Tensor` of shape `(B,)`, between -1 and 1; NaN for lists in which student or teacher tie all passages,
        or with fewer than two passages.

    Raises:
        TypeError: If a dtype is wrong.
        ValueError: If shapes do not match.
    """
    student, teacher = _pair_signs(scores, mask, teacher_scores)
    agreement = (student * teacher).sum((-1, -2)).to(torch.float32)
    untied = [(signs != 0).sum((-1, -2)).to(torch.float32) for signs in (student, teacher)]
    return agreement / (untied[0].sqrt() * untied[1].sqrt())


def _pair_signs(scores: Tensor, mask: Tensor, teacher_scores: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sign of (i minus j) by student and by teacher, each `(B, M, M)` int8; 0 for ties and where masked."""
    scores = check_scores(scores, mask)
    teacher = -positions(mask) if teacher_scores is None else check_teacher(teacher_scores, mask)
    return _signs(scores, mask), _signs(teacher, mask)


def _signs(values: Tensor, mask: Tensor) -> Tensor:
    """Sign of `values_i - values_j`, `(B, M, M)` int8. Compared, so that unsigned and infinite values are fine."""
    larger = preferred(values, mask).to(torch.int8)
    return larger - larger.transpose(-1, -2)
