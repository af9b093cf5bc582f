"""Pairwise losses from the teacher's scores: RankNet, MarginMSE, LambdaLoss."""

import math
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from dgr_trainer.errors import DGRValueError

from .list_tensors import (
    Reduction,
    check_choice,
    check_number,
    check_reduction,
    check_scores,
    check_teacher,
    differences,
    earlier,
    mean_over_pairs,
    positions,
    preferred,
    ranks,
    reduce_lists,
)
from .ranking_loss import TEMPERATURES, RankingLoss


def ranknet_loss(
    scores: Tensor,
    teacher_scores: Tensor,
    mask: Tensor,
    *,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
    num_lists: int | float | Tensor | None = None,
) -> Tensor:
    r"""RankNet: the logistic loss of every pair that the teacher orders.

    For each list, the mean over the pairs with t_i > t_j of

    $$\log(1 + e^{-(s_i - s_j) / T})$$

    Source: Burges et al., "Learning to Rank using Gradient Descent" (ICML 2005), equation 3 with target probability 1.
    Computed as a softplus, so the gradient of a pair that is wrong by thousands is still -1/T.

    Inputs:
        - List: any order.
        - Teacher: scores of any scale: only their order counts.
        - Scale: s / T of order 1..10, so T about 100 for squared log-odds scores.

    Args:
        scores (`torch.Tensor` of shape `(B, M)`): Student scores s(q, p). Any floating dtype; computed in float32,
            float64 stays.
        teacher_scores (`torch.Tensor` of shape `(B, M)`): Teacher scores, higher is better (ranks: negate them). Equal
            scores make no pair. They get no gradient.
        mask (`torch.BoolTensor` of shape `(B, M)`): `True` where there is a passage.
        temperature (`float`, *optional*, defaults to 1.0): Divides the student scores (T).
        reduction (`str`, *optional*, defaults to `"mean"`): `"mean"` over the lists with at least two passages, or
            `"none"` for the loss of each list.
        num_lists (`int`, `float` or `torch.Tensor` of one element, *optional*): Divides the sum over lists in place of
            the number of lists of this batch ([`count_rank_lists`]).

    Returns:
        `torch.Tensor` of shape `()`, or `(B,)` for `"none"`. 0, with zero gradient, where the teacher orders no pair.

    Raises:
        TypeError: If a dtype is wrong.
        ValueError: If `teacher_scores` are missing, shapes do not match, or a setting is out of range.
    """
    check_number("temperature", temperature, positive=True)
    check_reduction(reduction, num_lists)
    scores = check_scores(scores, mask)
    teacher_scores = check_teacher(teacher_scores, mask)

    terms = F.softplus(-differences(scores) / temperature)
    return reduce_lists(mean_over_pairs(terms, preferred(teacher_scores, mask)), mask, reduction, num_lists)


def margin_mse_loss(
    scores: Tensor,
    teacher_scores: Tensor,
    mask: Tensor,
    *,
    pairs: Literal["first", "all"] = "first",
    temperature: float = 1.0,
    reduction: Reduction = "mean",
    num_lists: int | float | Tensor | None = None,
) -> Tensor:
    r"""MarginMSE: the student's score differences must equal the teacher's.

    For each list, the mean over its pairs of

    $$\big((s_i - s_j) / T - (t_i - t_j)\big)^2$$

    Source: Hofstätter et al., "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge
    Distillation" (arXiv 2010.02666), the Margin-MSE loss.

    Inputs:
        - List: relevant passage first for `pairs="first"`, any order for `pairs="all"`.
        - Teacher: scores, whose differences are the target.
        - Scale: s / T like t, so T about 100 for squared log-odds scores against cross-encoder logits.

    Args:
        scores (`torch.Tensor` of shape `(B, M)`): Student scores s(q, p). Any floating dtype; computed in float32,
            float64 stays.
        teacher_scores (`torch.Tensor` of shape `(B, M)`): Teacher scores. They get no gradient.
        mask (`torch.BoolTensor` of shape `(B, M)`): `True` where there is a passage.
        pairs (`str`, *optional*, defaults to `"first"`): `"first"`: the first passage against each other one, as in
            the paper; `"all"`: every two passages of the list.
        temperature (`float`, *optional*, defaults to 1.0): Divides the student scores (T).
        reduction (`str`, *optional*, defaults to `"mean"`): `"mean"` over the lists with at least two passages, or
            `"none"` for the loss of each list.
        num_lists (`int`, `float` or `torch.Tensor` of one element, *optional*): Divides the sum over lists in place of
            the number of lists of this batch ([`count_rank_lists`]).

    Returns:
        `torch.Tensor` of shape `()`, or `(B,)` for `"none"`. 0, with zero gradient, for lists with fewer than two
        passages.

    Raises:
        TypeError: If a dtype is wrong.
        ValueError: If `teacher_scores` are missing, shapes do not match, or a setting is out of range.
    """
    check_choice("pairs", pairs, ("first", "all"))
    check_number("temperature", temperature, positive=True)
    check_reduction(reduction, num_lists)
    scores = check_scores(scores, mask)
    teacher_scores = check_teacher(teacher_scores, mask).to(scores.dtype)

    compared = earlier(mask)
    if pairs == "first":
        compared = compared & (positions(mask) == 0).unsqueeze(-1)
    terms = (differences(scores) / temperature - differences(teacher_scores)) ** 2
    return reduce_lists(mean_over_pairs(terms, compared), mask, reduction, num_lists)


def lambda_loss(
    scores: Tensor,
    teacher_scores: Tensor,
    mask: Tensor,
    *,
    weighting: Literal["none", "ndcg2"] = "ndcg2",
    gains: Literal["ranks", "grades"] = "ranks",
    temperature: float = 1.0,
    reduction: Reduction = "mean",
    num_lists: int | float | Tensor | None = None,
) -> Tensor:
    r"""LambdaLoss: the logistic loss of every pair, weighted by what the pair is worth to NDCG.

    For each list, the sum over the pairs with t_i > t_j of

    $$\delta_{ij}\, |G_i - G_j| \log_2(1 + e^{-(s_i - s_j)/T}), \qquad
      \delta_{ij} = \left| \frac{1}{D(|r_i - r_j|)} - \frac{1}{D(|r_i - r_j| + 1)} \right|, \; D(r) = \log_2(1 + r)$$

    with r the rank by the student's current scores (no gradient flows through it; equal scores in list order) and G
    the gain over the DCG of the teacher's order.

    Source: Wang et al., "The LambdaLoss Framework for Ranking Metric Optimization" (CIKM 2018): the loss of NDCG-Loss2
    (`weighting="ndcg2"`), and the plain pairwise logistic loss in bits (`weighting="none"`, [`ranknet_loss`] as a
    sum).

    Gains are `2^y - 1`. Where y is a teacher's score this breaks: logits are negative, and a score of 1000 overflows.
    So by default y comes from the teacher's order: the share of the other passages of the list that the teacher puts
    below this one, 1 for the best passage, 0 for the worst, equal for equal scores. `gains="grades"` takes the
    teacher's scores as relevance grades (0, 1, 2, ...), which is right for human judgements.

    Inputs:
        - List: any order.
        - Teacher: scores of any scale (`gains="ranks"`) or relevance grades (`gains="grades"`).
        - Scale: s / T of order 1..10, so T about 100 for squared log-odds scores.

    Args:
        scores (`torch.Tensor` of shape `(B, M)`): Student scores s(q, p). Any floating dtype; computed in float32,
            float64 stays.
        teacher_scores (`torch.Tensor` of shape `(B, M)`): Teacher scores, higher is better. Equal scores make no pair.
            They get no gradient.
        mask (`torch.BoolTensor` of shape `(B, M)`): `True` where there is a passage.
        weighting (`str`, *optional*, defaults to `"ndcg2"`): `"ndcg2"` as above, or `"none"` for weights of 1.
        gains (`str`, *optional*, defaults to `"ranks"`): Where the gains of `"ndcg2"` come from: `"ranks"` or
            `"grades"` (see above; grades must be between 0 and 100).
        temperature (`float`, *optional*, defaults to 1.0): Divides the student scores (T; sigma of the paper is 1 /
            T).
        reduction (`str`, *optional*, defaults to `"mean"`): `"mean"` over the lists with at least two passages, or
            `"none"` for the loss of each list.
        num_lists (`int`, `float` or `torch.Tensor` of one element, *optional*): Divides the sum over lists in place of
            the number of lists of this batch ([`count_rank_lists`]).

    Returns:
        `torch.Tensor` of shape `()`, or `(B,)` for `"none"`. 0, with zero gradient, where the teacher orders no pair.

    Raises:
        TypeError: If a dtype is wrong.
        ValueError: If `teacher_scores` are missing, shapes do not match, or a setting is out of range.
    """
    check_choice("weighting", weighting, ("none", "ndcg2"))
    check_choice("gains", gains, ("ranks", "grades"))
    if weighting == "none" and gains != "ranks":
        raise DGRValueError(f"gains={gains!r} has no effect with weighting='none', which weights every pair alike.")
    check_number("temperature", temperature, positive=True)
    check_reduction(reduction, num_lists)
    scores = check_scores(scores, mask)
    teacher_scores = check_teacher(teacher_scores, mask)

    pairs = preferred(teacher_scores, mask)
    terms = F.softplus(-differences(scores) / temperature) / math.log(2.0)
    if weighting == "ndcg2":
        terms = terms * ndcg2_weights(scores.detach(), teacher_scores, mask, gains)
    return reduce_lists(terms.masked_fill(~pairs, 0.0).sum((-1, -2)), mask, reduction, num_lists)


def ndcg2_weights(scores: Tensor, teacher_scores: Tensor, mask: Tensor, gains: Literal["ranks", "grades"]) -> Tensor:
    """The pair weights `delta_ij |G_i - G_j|` of NDCG-Loss2, `(B, M, M)`, in the dtype of `scores`."""
    if gains == "ranks":
        others = (mask.sum(-1, keepdim=True) - 1).clamp(min=1)
        grades = preferred(teacher_scores, mask).sum(-1).to(scores.dtype) / others
    else:
        grades = teacher_scores.to(scores.dtype)
    gain = torch.exp2(grades) - 1.0  # 0 at masked entries, whose grade is 0
    discounts = torch.log2(1.0 + ranks(teacher_scores, mask).to(scores.dtype))
    ideal = (gain / discounts).sum(-1, keepdim=True)
    gain = gain / ideal.masked_fill(ideal == 0, 1.0)  # 0 if all passages are alike: then there is no pair either

    distance = differences(ranks(scores, mask)).abs().clamp(min=1).to(scores.dtype)
    delta = 1.0 / torch.log2(1.0 + distance) - 1.0 / torch.log2(2.0 + distance)
    return delta * differences(gain).abs()


RANKNET = RankingLoss(partial(ranknet_loss, reduction="none"), name="ranknet", scales=TEMPERATURES)
MARGIN_MSE = RankingLoss(partial(margin_mse_loss, reduction="none"), name="margin_mse", scales=TEMPERATURES)
LAMBDA = RankingLoss(partial(lambda_loss, reduction="none"), name="lambda", scales=TEMPERATURES)
