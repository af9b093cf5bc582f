"""Hinge losses on the order of a list: distilled RankNet (DGR) and the margin rank loss (LTRGR).

The order to be taught is the order of the list: the best passage first. Teacher scores are not needed. Passages that
the teacher does not tell apart, because it gives them equal scores, have equal ranks: they are no pair, and they count
as one place, so that a loss does not depend on their order in the list.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from dgr_trainer.errors import DGRValueError

from .list_tensors import (
    Reduction,
    check_choice,
    check_number,
    check_ranks,
    check_reduction,
    check_scores,
    check_teacher,
    differences,
    mean_over_pairs,
    positions,
    preferred,
    reduce_lists,
)
from .normalization import standardize_scores
from .ranking_loss import RankingLoss

# Squared log-odds are in the hundreds to thousands, log-likelihoods are a few nats.
_MARGINS = {"log_odds": {"margin": 300.0, "margin_gap": 100.0}, "log_likelihood": {"margin": 1.0, "margin_gap": 0.5}}
# A fifth of the published one (PUBLISHED_GENERATION_FACTOR), beside which the ranking loss has too little say.
_GENERATION_WEIGHTS = {"log_odds": 100.0}


Normalization = Literal["none", "list"]
MarginGrowth = Literal["ranks", "teacher_scores"]
_MARGIN_SETTINGS = ("margin", "margin_gap", "normalization", "margin_growth", "num_candidates")


def margin_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of the settings of a loss with margins, those that say which pairs have a margin, and how large it is.

    Args:
        settings (`Mapping[str, Any]`): All settings. A loss with `num_candidates` compares the first passage with the
            others, any other one all passages with each other.

    Returns:
        `dict[str, Any]`: Arguments of `count_violated_margins` and `violated_margins`.
    """
    chosen = {name: settings[name] for name in _MARGIN_SETTINGS if name in settings}
    return {**chosen, "pairs": "first" if "num_candidates" in settings else "all"}


def pair_hinges(
    scores: Tensor,
    mask: Tensor,
    levels: Tensor,
    margin: float,
    margin_gap: float,
    teacher_scores: Tensor | None = None,
) -> Tensor:
    """Amounts by which the pairs of each list fall short of their margins.

    Args:
        scores (`torch.Tensor` of shape `(B, M)`): Checked scores (see `check_scores`).
        mask (`torch.BoolTensor` of shape `(B, M)`): `True` where there is a passage.
        levels (`torch.LongTensor` of shape `(B, M)`): Place of each passage (see `check_ranks`).
        margin (`float`): Margin between neighbours, in units of the scores.
        margin_gap (`float`): What each place between the two passages adds to the margin.
        teacher_scores (`torch.Tensor` of shape `(B, M)`, *optional*): If given, margins grow with the differences of
            these scores in place of the places (see `teacher_steps`).

    Returns:
        `torch.Tensor` of shape `(B, M, M)`: at (i, j), for passages of which i has the better place, `max(0, s_j - s_i
        + margin + (places between) * margin_gap)`; 0 elsewhere.
    """
    steps = -differences(levels).to(scores.dtype)
    if teacher_scores is not None:
        steps = teacher_steps(teacher_scores.to(scores.dtype), mask, levels)
    margins = torch.relu(margin + margin_gap * (steps - 1))
    return torch.relu(margins - differences(scores)).masked_fill(~taught_pairs(levels, mask), 0.0)


def teacher_steps(teacher_scores: Tensor, mask: Tensor, levels: Tensor) -> Tensor:
    """How many places apart two passages are by the teacher's scores, `(B, M, M)`, at least 0.

    A place is the mean difference of neighbours: the range of the teacher's scores in the list over the number of
    places between its first and its last. So with equal differences they are the differences of the places, and a pair
    that the teacher hardly tells apart counts as less than one. A passage that comes first by a judgement, and not by
    its score, is 0 places above those that the teacher scores higher. Where all scores are equal, places are counted.
    """
    lowest = teacher_scores.masked_fill(~mask, torch.inf).amin(-1)
    highest = teacher_scores.masked_fill(~mask, -torch.inf).amax(-1)
    places = levels.masked_fill(~mask, 0).amax(-1).clamp(min=1)
    place = torch.where(mask.any(-1), (highest - lowest) / places, torch.zeros_like(highest))[:, None, None]
    told_apart = place > 0
    steps = differences(teacher_scores) / torch.where(told_apart, place, torch.ones_like(place))
    return torch.where(told_apart, steps.clamp(min=0), -differences(levels).to(steps.dtype))


def margin_scores(
    scores: Tensor,
    mask: Tensor,
    teacher_scores: Tensor | None,
    normalization: Normalization,
    margin_growth: MarginGrowth,
) -> tuple[Tensor, Tensor | None]:
    """Checked scores, standardised if margins are in units of the list's own spread, and what margins grow with.

    Raises:
        TypeError: If a dtype is wrong.
        ValueError: If a choice is unknown, or margins grow with the teacher's scores and there are none.
    """
    check_choice("normalization", normalization, get_args(Normalization))
    check_choice("margin_growth", margin_growth, get_args(MarginGrowth))
    scores = check_scores(scores, mask)
    if normalization == "list":
        scores = standardize_scores(scores, mask)
    return scores, check_teacher(teacher_scores, mask) if margin_growth == "teacher_scores" else None


def taught_pairs(levels: Tensor, mask: Tensor) -> Tensor:
    """`(B, M, M)` bool: passage i has a better place than passage j."""
    return preferred(-levels, mask)


def first_pairs(levels: Tensor, mask: Tensor, num_candidates: int | None) -> Tensor:
    """`(B, M, M)` bool: passage i has the best place, and passage j is one of the first `num_candidates` behind it."""
    first = mask & (levels == 0)
    used = mask & (levels >= 1)
    if num_candidates is not None:
        used = used & (positions(mask) - first.sum(-1, keepdim=True) < num_candidates)
    return first.unsqueeze(-1) & used.unsqueeze(-2)


def distilled_ranknet_loss(
    scores: Tensor,
    mask: Tensor,
    *,
    taught_ranks: Tensor | None = None,
    margin: float,
    margin_gap: float,
    first_weight: float = 3.0,
    teacher_scores: Tensor | None = None,
    normalization: Normalization = "none",
    margin_growth: MarginGrowth = "ranks",
    reduction: Literal["weights", "active", "sum", "none"] = "weights",
    num_lists: int | float | Tensor | None = None,
) -> Tensor:
    r"""Distilled RankNet: the student must separate the passages by margins that grow with their distance in the list.

    For a list of passages in the order to be taught, 1 the best:

    $$\sum_{i<j} w_i \max(0,\; s_j - s_i + m + (j - i - 1)\, g), \qquad w_1 = \text{first\_weight},\; w_i = 1/i$$

    Source: Li et al., "Distillation Enhanced Generative Retrieval" (arXiv 2402.10769), section on distilled RankNet.
    It is a hinge with incremental margins, not the logistic loss of [`ranknet_loss`].

    Passages with equal `taught_ranks` make no pair and share a place, and i and j count places. So the loss does not
    depend on the order of these passages in the list.

    Inputs:
        - List: the relevant passage, then the others in the teacher's order (or the teacher's order alone).
        - Teacher: not needed; its ties are in `taught_ranks`.
        - Scale: margins in units of the scores. The paper has 300 and 100, for squared log-odds scores.

    Args:
        scores (`torch.Tensor` of shape `(B, M)`): Student scores s(q, p), in the order to be taught. Any floating
            dtype; computed in float32, float64 stays.
        mask (`torch.BoolTensor` of shape `(B, M)`): `True` where there is a passage. A masked entry counts as removed:
            it does not widen the gap between its neighbours, nor does it move the weights.
        taught_ranks (`torch.Tensor` of shape `(B, M)`, integer, *optional*): Rank of each passage in the order to be
            taught, lower is better, equal where the teacher does not tell passages apart. By default no two are equal.
        margin (`float`): Margin m between neighbours, in units of the scores.
        margin_gap (`float`): What each place between the two adds to the margin (g).
        first_weight (`float`, *optional*, defaults to 3.0): Weight of the pairs of the first passage.
        teacher_scores (`torch.Tensor` of shape `(B, M)`, *optional*): The teacher's scores, for
            `margin_growth="teacher_scores"`.
        normalization (`str`, *optional*, defaults to `"none"`): `"list"`: scores are standardised first
            ([`standardize_scores`]), so that margins are in units of the standard deviation of the list, whatever the
            scale of the scores.
        margin_growth (`str`, *optional*, defaults to `"ranks"`): What `margin_gap` is multiplied by: `"ranks"`, the
            places between the two passages, or `"teacher_scores"`, the difference of their teacher scores over the
            mean difference of neighbours in the list, less one. The two are equal if the teacher's scores are evenly
            spaced.
        reduction (`str`, *optional*, defaults to `"weights"`):
            - `"weights"`: the weighted mean of each list's hinges (divided by the sum of the weights of its pairs,
              satisfied or not), then the mean over lists. Lists of different length count alike, and satisfying one
              pair leaves the others' weights alone.
            - `"active"`: the mean of the weighted hinges over all pairs of the whole batch that violate their margin,
              as in the published experiments (0 instead of NaN if none does). It is no mean over lists: a batch in
              several accumulation steps gives another value and gradient than the same batch at once.
            - `"sum"`: the formula above as it stands, mean over lists. Grows with the length of the list.
            - `"none"`: the per-list losses of `"weights"`.
        num_lists (`int`, `float` or `torch.Tensor` of one element, *optional*): Divides the sum over lists in place of
            the number of lists of this batch with at least two passages ([`count_rank_lists`]). For `"weights"` and
            `"sum"`.

    Returns:
        `torch.Tensor` of shape `()`, or `(B,)` for `"none"`. 0, with zero gradient, where there is no violated pair.

    Raises:
        TypeError: If `scores` is not floating point or `mask` is not bool.
        ValueError: If shapes do not match, a setting is out of range, or `num_lists` does not go with `reduction`.

    Example:

    ```python
    >>> scores = torch.tensor([[10.0, 8.0, 9.5]])
    >>> mask = torch.ones(1, 3, dtype=torch.bool)
    >>> # hinges: (1, 2) 3-2 = 1, (1, 3) 3+1-0.5 = 3.5, (2, 3) 3+1.5 = 4.5; weights 3, 3, 1/2
    >>> distilled_ranknet_loss(scores, mask, margin=3.0, margin_gap=1.0, reduction="sum")
    tensor(15.7500)

    ```
    """
    check_number("margin", margin)
    check_number("margin_gap", margin_gap)
    check_number("first_weight", first_weight, positive=True)
    check_reduction(reduction, num_lists, ("weights", "active", "sum", "none"))
    scores, growth = margin_scores(scores, mask, teacher_scores, normalization, margin_growth)
    levels = check_ranks(taught_ranks, mask)

    weights = (1.0 / (levels + 1).clamp(min=1).to(scores.dtype)).masked_fill(levels == 0, first_weight).unsqueeze(-1)
    hinges = weights * pair_hinges(scores, mask, levels, margin, margin_gap, growth)
    if reduction == "active":
        return hinges.sum() / (hinges > 0).sum().clamp(min=1)
    losses = hinges.sum((-1, -2))
    if reduction != "sum":
        pair_weights = (weights * taught_pairs(levels, mask)).sum((-1, -2))
        losses = losses / pair_weights.masked_fill(pair_weights == 0, 1.0)
    return reduce_lists(losses, mask, reduction, num_lists)


def margin_rank_loss(
    scores: Tensor,
    mask: Tensor,
    *,
    taught_ranks: Tensor | None = None,
    margin: float,
    margin_gap: float,
    num_candidates: int | None = 2,
    teacher_scores: Tensor | None = None,
    normalization: Normalization = "none",
    margin_growth: MarginGrowth = "ranks",
    reduction: Reduction = "mean",
    num_lists: int | float | Tensor | None = None,
) -> Tensor:
    r"""Margin rank loss: the first passage must beat the others, by more the later they come.

    For a list (p, n_1, n_2, ..., n_R), the mean over its R terms

    $$\frac{1}{R} \sum_{r=1}^{R} \max(0,\; s_{n_r} - s_p + m + (r - 1)\, g)$$

    With `num_candidates=2` (the default), margin 300 and gap 100 this is the rank loss of LTRGR (Li et al., "Learning
    to Rank in Generative Retrieval", arXiv 2306.15222), `0.5 max(0, s_n1 - s_p + 300) + 0.5 max(0, s_n2 - s_p + 400)`:
    n_1 is the student's best candidate and n_2 another one, which the caller draws. Where a second relevant passage is
    drawn for the second term, take the mean of two calls, `(p, n_1)` with `margin` and `(p', n_2)` with `margin +
    margin_gap`. With `num_candidates=None` and the candidates in the teacher's order it is "margin to the relevant
    passage only", the ablation of distilled RankNet (Li et al., arXiv 2402.10769) that does not compare candidates
    with each other.

    Candidates with equal `taught_ranks` share a margin, and passages that share the first rank are not compared: each
    must beat the others, and the loss is the mean over these pairs.

    Inputs:
        - List: the relevant passage, then candidates.
        - Teacher: not needed; its ties are in `taught_ranks`.
        - Scale: margins in units of the scores. The paper has 300 and 100, for squared log-odds scores.

    Args:
        scores (`torch.Tensor` of shape `(B, M)`): Student scores s(q, p), relevant passage first. Any floating dtype;
            computed in float32, float64 stays.
        mask (`torch.BoolTensor` of shape `(B, M)`): `True` where there is a passage. A masked entry counts as removed.
        taught_ranks (`torch.Tensor` of shape `(B, M)`, integer, *optional*): Rank of each passage in the order to be
            taught, lower is better, equal where the teacher does not tell passages apart. By default no two are equal.
        margin (`float`): Margin m over the first candidate, in units of the scores.
        margin_gap (`float`): What each further candidate adds to the margin (g).
        num_candidates (`int`, *optional*, defaults to 2): How many candidates are used, from the front of the list.
            `None` for all. A list with fewer takes the mean over those it has.
        teacher_scores (`torch.Tensor` of shape `(B, M)`, *optional*): The teacher's scores, for
            `margin_growth="teacher_scores"`.
        normalization (`str`, *optional*, defaults to `"none"`): `"list"`: scores are standardised first
            ([`standardize_scores`]), so that margins are in units of the standard deviation of the list, whatever the
            scale of the scores.
        margin_growth (`str`, *optional*, defaults to `"ranks"`): What `margin_gap` is multiplied by: `"ranks"`, the
            places between the two passages, or `"teacher_scores"`, the difference of their teacher scores over the
            mean difference of neighbours in the list, less one. The two are equal if the teacher's scores are evenly
            spaced.
        reduction (`str`, *optional*, defaults to `"mean"`): `"mean"` over the lists with at least two passages, or
            `"none"` for the loss of each list.
        num_lists (`int`, `float` or `torch.Tensor` of one element, *optional*): Divides the sum over lists in place of
            the number of lists of this batch ([`count_rank_lists`]).

    Returns:
        `torch.Tensor` of shape `()`, or `(B,)` for `"none"`. 0, with zero gradient, where there is no violated pair.

    Raises:
        TypeError: If `scores` is not floating point or `mask` is not bool.
        ValueError: If shapes do not match, a setting is out of range, or `num_lists` does not go with `reduction`.
    """
    check_number("margin", margin)
    check_number("margin_gap", margin_gap)
    if num_candidates is not None and num_candidates < 1:
        raise DGRValueError(
            f"num_candidates must be at least 1, or None for all candidates, but it is {num_candidates}."
        )
    check_reduction(reduction, num_lists)
    scores, growth = margin_scores(scores, mask, teacher_scores, normalization, margin_growth)
    levels = check_ranks(taught_ranks, mask)

    pairs = first_pairs(levels, mask, num_candidates)
    hinges = pair_hinges(scores, mask, levels, margin, margin_gap, growth)
    return reduce_lists(mean_over_pairs(hinges, pairs), mask, reduction, num_lists)


def _distilled_ranknet(
    scores: Tensor,
    mask: Tensor,
    *,
    taught_ranks: Tensor | None = None,
    margin: float,
    margin_gap: float,
    first_weight: float,
    active_pair_mean: bool,
    teacher_scores: Tensor | None = None,
    normalization: Normalization = "none",
    margin_growth: MarginGrowth = "ranks",
) -> Tensor:
    """[`distilled_ranknet_loss`] of each list, or of the active pairs of the batch."""
    return distilled_ranknet_loss(
        scores,
        mask,
        taught_ranks=taught_ranks,
        margin=margin,
        margin_gap=margin_gap,
        first_weight=first_weight,
        teacher_scores=teacher_scores,
        normalization=normalization,
        margin_growth=margin_growth,
        reduction="active" if active_pair_mean else "none",
    )


DISTILLED_RANKNET = RankingLoss(
    _distilled_ranknet,
    teaches="order",
    name="distilled_ranknet",
    settings={"first_weight": 3.0, "active_pair_mean": False},
    scales=_MARGINS,
    generation_weights=_GENERATION_WEIGHTS,
)
MARGIN_RANK = RankingLoss(
    partial(margin_rank_loss, reduction="none"),
    teaches="order",
    name="margin_rank",
    settings={"num_candidates": None},
    scales=_MARGINS,
    generation_weights=_GENERATION_WEIGHTS,
)
