"""Listwise losses from the teacher's scores: ListNet, KL divergence, ListMLE."""

from functools import partial

import torch
from torch import Tensor

from .list_tensors import (
    Reduction,
    check_judged,
    check_number,
    check_reduction,
    check_scores,
    check_share,
    check_teacher,
    positions,
    preferred,
    reduce_lists,
)
from .ranking_loss import TEMPERATURES, RankingLoss


def masked_log_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Log-softmax over the passages of each list, `(B, M)`; 0 at masked entries."""
    logits = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)  # not -inf: a list without passages gives no NaN
    return torch.log_softmax(logits, dim=-1).masked_fill(~mask, 0.0)


def listnet_loss(
    scores: Tensor,
    teacher_scores: Tensor,
    mask: Tensor,
    *,
    temperature: float = 1.0,
    teacher_temperature: float = 1.0,
    first_share: float = 0.0,
    judged: Tensor | None = None,
    reduction: Reduction = "mean",
    num_lists: int | float | Tensor | None = None,
) -> Tensor:
    r"""ListNet: cross-entropy between the teacher's and the student's probabilities of being first.

    For each list

    $$-\sum_i p_i \, \log \mathrm{softmax}(s / T)_i, \qquad p = (1 - w) \, \mathrm{softmax}(t / T_t) + w \, f$$

    where f is one at the first passage of a judged list, and w = 0 by default.

    Source: Cao et al., "Learning to Rank: From Pairwise Approach to Listwise Approach" (ICML 2007), the
    cross-entropy of top-one probabilities. The gradient is that of [`kl_divergence_loss`]; the value differs by the
    teacher's entropy, so its minimum is not 0.

    Inputs:
        - List: any order, or the judged passage first.
        - Teacher: scores, whose softmax is the target.
        - Scale: s / T and t / T_t of order 1..10: the softmax of raw log-odds scores is one-hot.

    Args:
        scores (`torch.Tensor` of shape `(B, M)`): Student scores s(q, p). Any floating dtype; computed in float32,
            float64 stays.
        teacher_scores (`torch.Tensor` of shape `(B, M)`): Teacher scores, higher is better. They get no gradient.
        mask (`torch.BoolTensor` of shape `(B, M)`): `True` where there is a passage.
        temperature (`float`, *optional*, defaults to 1.0): Divides the student scores (T). Or pass
            [`standardize_scores`] of them.
        teacher_temperature (`float`, *optional*, defaults to 1.0): Divides the teacher scores (T_t).
        first_share (`float`, *optional*, defaults to 0.0): Share of the target that the first passage of a judged list
            has besides (w): in a list of the collator, the relevant one.
        judged (`torch.BoolTensor` of shape `(B,)`, *optional*): Lists whose first passage is first by a judgement; in
            the others w is 0. By default all.
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
    log_student, target = _distributions(
        scores, teacher_scores, mask, temperature, teacher_temperature, first_share, judged, reduction, num_lists
    )
    return reduce_lists(-(target * log_student).sum(-1), mask, reduction, num_lists)


def kl_divergence_loss(
    scores: Tensor,
    teacher_scores: Tensor,
    mask: Tensor,
    *,
    temperature: float = 1.0,
    teacher_temperature: float = 1.0,
    first_share: float = 0.0,
    judged: Tensor | None = None,
    reduction: Reduction = "mean",
    num_lists: int | float | Tensor | None = None,
) -> Tensor:
    r"""KL divergence of the student's distribution over the passages from the teacher's.

    For each list

    $$\sum_i p_i (\log p_i - \log q_i), \qquad p = (1 - w) \, \mathrm{softmax}(t / T_t) + w \, f,\;
    q = \mathrm{softmax}(s / T)$$

    where f is one at the first passage of a judged list, and w = 0 by default. So w is the weight of the judgement and
    1 - w that of the teacher.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), section 2, over the
    passages of a list in place of classes, with its weighted average of soft and hard targets. The value is not
    multiplied by the square of a temperature.

    Inputs:
        - List: any order, or the judged passage first.
        - Teacher: scores, whose softmax is the target.
        - Scale: s / T and t / T_t of order 1..10: the softmax of raw log-odds scores is one-hot.

    Args:
        scores (`torch.Tensor` of shape `(B, M)`): Student scores s(q, p). Any floating dtype; computed in float32,
            float64 stays.
        teacher_scores (`torch.Tensor` of shape `(B, M)`): Teacher scores, higher is better. They get no gradient.
        mask (`torch.BoolTensor` of shape `(B, M)`): `True` where there is a passage.
        temperature (`float`, *optional*, defaults to 1.0): Divides the student scores (T). Or pass
            [`standardize_scores`] of them.
        teacher_temperature (`float`, *optional*, defaults to 1.0): Divides the teacher scores (T_t).
        first_share (`float`, *optional*, defaults to 0.0): Share of the target that the first passage of a judged list
            has besides (w): in a list of the collator, the relevant one.
        judged (`torch.BoolTensor` of shape `(B,)`, *optional*): Lists whose first passage is first by a judgement; in
            the others w is 0. By default all.
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
    log_student, target = _distributions(
        scores, teacher_scores, mask, temperature, teacher_temperature, first_share, judged, reduction, num_lists
    )
    divergences = (torch.xlogy(target, target) - target * log_student).sum(-1)
    return reduce_lists(divergences, mask, reduction, num_lists)


def _distributions(
    scores: Tensor,
    teacher_scores: Tensor,
    mask: Tensor,
    temperature: float,
    teacher_temperature: float,
    first_share: float,
    judged: Tensor | None,
    reduction: str,
    num_lists: int | float | Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Checks the arguments; log-probabilities of the student and the target, each `(B, M)`, 0 at masked entries."""
    check_number("temperature", temperature, positive=True)
    check_number("teacher_temperature", teacher_temperature, positive=True)
    check_share("first_share", first_share)
    check_reduction(reduction, num_lists)
    scores = check_scores(scores, mask)
    teacher_scores = check_teacher(teacher_scores, mask).to(scores.dtype)
    log_student = masked_log_softmax(scores / temperature, mask)
    target = masked_log_softmax(teacher_scores / teacher_temperature, mask).exp() * mask
    if first_share:
        first = (mask & (positions(mask) == 0)).to(target.dtype)
        shares = first_share * first.sum(-1, keepdim=True)
        if judged is not None:
            shares = shares * check_judged(judged, mask).unsqueeze(-1)
        target = (1 - shares) * target + shares * first
    return log_student, target


def listmle_loss(
    scores: Tensor,
    teacher_scores: Tensor,
    mask: Tensor,
    *,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
    num_lists: int | float | Tensor | None = None,
) -> Tensor:
    r"""ListMLE: negative log-likelihood of the teacher's order under the student's Plackett-Luce model.

    For each list, with the passages numbered in the teacher's order,

    $$\sum_i \Big[ \log \sum_{j \ge i} e^{s_j / T} - s_i / T \Big]$$

    Source: Xia et al., "Listwise Approach to Learning to Rank: Theory and Algorithm" (ICML 2008), the likelihood
    loss.

    Passages with equal teacher scores do not compete: the sum over j has i itself and the passages that the teacher
    puts below i. So no order among them is taught, and a list of equal scores has the loss 0.

    Inputs:
        - List: any order.
        - Teacher: scores of any scale: only their order counts.
        - Scale: s / T of order 1..10, so T about 100 for squared log-odds scores, or `standardize_scores`.

    Args:
        scores (`torch.Tensor` of shape `(B, M)`): Student scores s(q, p). Any floating dtype; computed in float32,
            float64 stays.
        teacher_scores (`torch.Tensor` of shape `(B, M)`): Teacher scores, higher is better (ranks: negate them). They
            get no gradient.
        mask (`torch.BoolTensor` of shape `(B, M)`): `True` where there is a passage.
        temperature (`float`, *optional*, defaults to 1.0): Divides the student scores (T).
        reduction (`str`, *optional*, defaults to `"mean"`): `"mean"` over the lists with at least two passages, or
            `"none"` for the loss of each list (a sum over its passages: long lists weigh more).
        num_lists (`int`, `float` or `torch.Tensor` of one element, *optional*): Divides the sum over lists in place of
            the number of lists of this batch ([`count_rank_lists`]).

    Returns:
        `torch.Tensor` of shape `()`, or `(B,)` for `"none"`. 0, with zero gradient, for lists with fewer than two
        passages.

    Raises:
        TypeError: If a dtype is wrong.
        ValueError: If `teacher_scores` are missing, shapes do not match, or a setting is out of range.
    """
    check_number("temperature", temperature, positive=True)
    check_reduction(reduction, num_lists)
    logits = check_scores(scores, mask) / temperature
    teacher_scores = check_teacher(teacher_scores, mask)

    # Lists are short, so "i and everything behind it" is one masked log-softmax for each i. Its gradient is exact at
    # scores in the thousands, where a (cumulative) log-sum-exp loses digits.
    # A masked passage has only itself behind it: its term is 0.
    diagonal = torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)
    behind = preferred(teacher_scores, mask) | diagonal
    remaining = logits.unsqueeze(-2).masked_fill(~behind, torch.finfo(logits.dtype).min)
    terms = -torch.log_softmax(remaining, dim=-1).diagonal(dim1=-2, dim2=-1)
    return reduce_lists(terms.sum(-1), mask, reduction, num_lists)


_TEACHER_TEMPERATURE = {"teacher_temperature": 1.0}
# Of the shares that were tried (0 to 1) one that was good on all corpora; docs/results.md has 0 and 1 beside it.
_FIRST_SHARE = 0.75
LISTNET = RankingLoss(
    partial(listnet_loss, reduction="none"), name="listnet", settings=_TEACHER_TEMPERATURE, scales=TEMPERATURES
)
KL_DIVERGENCE = RankingLoss(
    partial(kl_divergence_loss, reduction="none"),
    name="kl_divergence",
    settings=_TEACHER_TEMPERATURE | {"first_share": _FIRST_SHARE},
    scales=TEMPERATURES,
)
LISTMLE = RankingLoss(partial(listmle_loss, reduction="none"), name="listmle", scales=TEMPERATURES)
