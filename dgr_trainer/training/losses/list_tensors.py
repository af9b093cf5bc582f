"""Rank lists as masked tensors: the checks, comparisons and averages that the losses share.

Everything here works on whole batches without looking at values on the host: no `.item()`, no boolean indexing, no
loop over the batch. So nothing synchronises with the accelerator, and shapes stay static for `torch.compile`.
"""

import math
import numbers
from typing import Literal

import torch
from torch import Tensor

from dgr_trainer.errors import DGRTypeError, DGRValueError

Reduction = Literal["mean", "none"]


def check_scores(scores: Tensor, mask: Tensor) -> Tensor:
    """Check the student's scores and return them in at least float32, with masked entries replaced by 0.

    The replacement also cuts the gradient: whatever a masked entry holds, NaN and infinity included, reaches neither a
    loss nor a gradient.

    Args:
        scores (`torch.Tensor` of shape `(B, M)`, floating point): Passage scores of `B` rank lists, padded to `M`.
        mask (`torch.BoolTensor` of shape `(B, M)`): `True` where there is a passage.

    Returns:
        `torch.Tensor` of shape `(B, M)`: float64 if `scores` is float64, float32 otherwise.

    Raises:
        TypeError: If `scores` is not floating point or `mask` is not bool.
        ValueError: If `scores` is not two-dimensional or the shapes differ.
    """
    if not scores.is_floating_point():
        raise DGRTypeError(
            f"scores must be floating point, but their dtype is {scores.dtype}: call scores.float() first."
        )
    if scores.dim() != 2:
        raise DGRValueError(
            f"scores must have the shape (lists, passages), but it is {tuple(scores.shape)}. For a single list of M "
            "passages pass scores[None] and mask[None]."
        )
    check_mask(mask)
    if mask.shape != scores.shape:
        raise DGRValueError(
            f"mask must have the shape of scores, {tuple(scores.shape)}, but it is {tuple(mask.shape)}: it says of "
            "each score whether there is a passage."
        )
    if scores.dtype != torch.float64:
        scores = scores.float()
    return scores.masked_fill(~mask, 0.0)


def check_mask(mask: Tensor) -> None:
    """Raise a `TypeError` if the mask is not bool: an integer or additive mask would silently be misread."""
    if mask.dtype != torch.bool:
        raise DGRTypeError(
            f"mask must be a bool tensor (True = there is a passage), but its dtype is {mask.dtype}: for a 0/1 mask "
            "call mask.bool()."
        )


def check_teacher(teacher_scores: Tensor | None, mask: Tensor) -> Tensor:
    """Check the teacher's scores and return them detached, in their dtype, with masked entries replaced by 0.

    Args:
        teacher_scores (`torch.Tensor` of shape `(B, M)`, real): Higher is better. Ranks go in negated.
        mask (`torch.BoolTensor` of shape `(B, M)`): `True` where there is a passage.

    Returns:
        `torch.Tensor` of shape `(B, M)`. The dtype is kept, so that scores that differ in float64 are not tied in
        float32.

    Raises:
        TypeError: If `teacher_scores` are neither floating point nor integers.
        ValueError: If `teacher_scores` are missing or do not have the shape of `mask`.
    """
    if teacher_scores is None:
        raise DGRValueError(
            "teacher_scores are missing, and this loss needs them. Pass a (lists, passages) tensor, or use "
            "distilled_ranknet_loss or margin_rank_loss, which only need the passages in the teacher's order."
        )
    if teacher_scores.dtype == torch.bool or teacher_scores.is_complex():
        raise DGRTypeError(
            f"teacher_scores must be floating point or integers, but their dtype is {teacher_scores.dtype}: call "
            "teacher_scores.float() first."
        )
    if teacher_scores.shape != mask.shape:
        raise DGRValueError(
            f"teacher_scores must have the shape of scores, {tuple(mask.shape)}, but it is "
            f"{tuple(teacher_scores.shape)}: one teacher score for each passage."
        )
    return teacher_scores.detach().masked_fill(~mask, 0)


def check_ranks(taught_ranks: Tensor | None, mask: Tensor) -> Tensor:
    """Check the ranks to be taught and return them as levels: 0 for the best passages, 1 for the next, without gaps.

    Args:
        taught_ranks (`torch.Tensor` of shape `(B, M)`, integer, *optional*): Lower is better, equal for passages that
            are not to be told apart. By default the order of the list, without ties.
        mask (`torch.BoolTensor` of shape `(B, M)`): `True` where there is a passage.

    Returns:
        `torch.LongTensor` of shape `(B, M)`. Masked entries hold any value, and make no level.

    Raises:
        TypeError: If `taught_ranks` are no integers.
        ValueError: If they do not have the shape of `mask`.
    """
    if taught_ranks is None:
        return positions(mask)
    if taught_ranks.dtype == torch.bool or taught_ranks.is_floating_point() or taught_ranks.is_complex():
        raise DGRTypeError(
            f"taught_ranks must be integers, but their dtype is {taught_ranks.dtype}: 0 for the best passage of each "
            "list, equal for passages that are not to be told apart."
        )
    if taught_ranks.shape != mask.shape:
        raise DGRValueError(
            f"taught_ranks must have the shape of scores, {tuple(mask.shape)}, but it is "
            f"{tuple(taught_ranks.shape)}: one rank for each passage."
        )
    equal_before = earlier(mask) & (taught_ranks.unsqueeze(-1) == taught_ranks.unsqueeze(-2))
    first_of_level = mask & ~equal_before.any(-2)
    return (first_of_level.unsqueeze(-1) & (taught_ranks.unsqueeze(-1) < taught_ranks.unsqueeze(-2))).sum(-2)


def check_judged(judged: Tensor, mask: Tensor) -> Tensor:
    """Check which lists are judged, and return it.

    Args:
        judged (`torch.BoolTensor` of shape `(B,)`): `True` for lists whose first passage is first by a judgement.
        mask (`torch.BoolTensor` of shape `(B, M)`): `True` where there is a passage.

    Raises:
        TypeError: If `judged` is not bool.
        ValueError: If it does not have one value for each list.
    """
    if judged.dtype != torch.bool:
        raise DGRTypeError(f"judged must be a bool tensor, but its dtype is {judged.dtype}: call judged.bool().")
    if judged.shape != mask.shape[:1]:
        raise DGRValueError(
            f"judged must have the shape ({len(mask)},), but it is {tuple(judged.shape)}: one value for each list."
        )
    return judged


def check_number(name: str, value: float, *, positive: bool = False) -> None:
    """Raise a `ValueError` that names the setting if it is not a finite number >= 0 (> 0 if `positive`)."""
    if isinstance(value, numbers.Real) and math.isfinite(value) and (value > 0 or (value == 0 and not positive)):
        return
    raise DGRValueError(f"{name} must be a finite number {'> 0' if positive else '>= 0'}, but it is {value!r}.")


def check_share(name: str, value: float) -> None:
    """Raise a `ValueError` that names the setting if it is not a number from 0 to 1."""
    if not (isinstance(value, numbers.Real) and 0 <= value <= 1):
        raise DGRValueError(f"{name} must be a number from 0 to 1, but it is {value!r}.")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise a `ValueError` that names the setting and its choices if `value` is none of them."""
    if value not in choices:
        allowed = ", ".join(repr(choice) for choice in choices)
        raise DGRValueError(f"{name} must be one of {allowed}, but it is {value!r}.")


def count_rank_lists(mask: Tensor) -> Tensor:
    """Count the lists that can be learnt from: those with at least two passages.

    Sum it over gradient accumulation steps and processes and pass the total to the losses as `num_lists`.

    Args:
        mask (`torch.BoolTensor` of shape `(B, M)`): `True` where there is a passage.

    Returns:
        `torch.LongTensor` of shape `()`, on the device of `mask`.

    Raises:
        TypeError: If `mask` is not bool.
    """
    check_mask(mask)
    return (mask.sum(-1) >= 2).sum()


def check_reduction(
    reduction: str, num_lists: int | float | Tensor | None, choices: tuple[str, ...] = ("mean", "none")
) -> None:
    """Check `reduction` against `choices`, and `num_lists` against `reduction`."""
    check_choice("reduction", reduction, choices)
    if num_lists is None:
        return
    if reduction in ("none", "active"):
        raise DGRValueError(
            f"num_lists is what a mean over lists divides by, and reduction={reduction!r} takes none: leave one of "
            "them out."
        )
    if not isinstance(num_lists, Tensor):
        check_number("num_lists", num_lists)
    elif num_lists.numel() != 1:
        raise DGRValueError(f"num_lists must be a single number, but its shape is {tuple(num_lists.shape)}.")


def reduce_lists(
    losses: Tensor, mask: Tensor, reduction: str, num_lists: int | float | Tensor | None = None
) -> Tensor:
    """Return the losses of the lists (`"none"`), or their sum over the number of lists (everything else).

    Args:
        losses (`torch.Tensor` of shape `(B,)`): Loss of each list, 0 where the list has fewer than two passages.
        mask (`torch.BoolTensor` of shape `(B, M)`): `True` where there is a passage.
        reduction (`str`): `"none"`, or any name of a mean over lists.
        num_lists (`int`, `float` or `torch.Tensor` of one element, *optional*): Divides the sum in place of
            `count_rank_lists(mask)`. At least 1 is divided by.

    Returns:
        `torch.Tensor` of shape `(B,)` or `()`.
    """
    if reduction == "none":
        return losses
    if num_lists is None:
        num_lists = count_rank_lists(mask)
    if isinstance(num_lists, Tensor):
        return losses.sum() / num_lists.reshape(()).clamp(min=1)
    return losses.sum() / max(num_lists, 1)


def positions(mask: Tensor) -> Tensor:
    """0-based position of each passage among the passages that are there, `(B, M)` int64. Masked: any value."""
    return mask.cumsum(-1) - 1


def both_present(mask: Tensor) -> Tensor:
    """`(B, M, M)` bool: entries i and j both hold a passage."""
    return mask.unsqueeze(-1) & mask.unsqueeze(-2)


def earlier(mask: Tensor) -> Tensor:
    """`(B, M, M)` bool: passage i comes before passage j in the list."""
    return both_present(mask).triu(diagonal=1)


def preferred(values: Tensor, mask: Tensor) -> Tensor:
    """`(B, M, M)` bool: passage i has a larger value than passage j. Equal values make no pair."""
    return both_present(mask) & (values.unsqueeze(-1) > values.unsqueeze(-2))


def ahead(values: Tensor, mask: Tensor) -> Tensor:
    """`(B, M, M)` bool: passage i comes before passage j when the list is sorted by value, highest first.

    A total order: among equal values the list position decides.
    """
    tied = values.unsqueeze(-1) == values.unsqueeze(-2)
    return preferred(values, mask) | (tied & earlier(mask))


def ranks(values: Tensor, mask: Tensor) -> Tensor:
    """1-based rank of each passage by value, highest first, `(B, M)` int64. Masked entries: 1."""
    return 1 + ahead(values, mask).sum(-2)


def differences(values: Tensor) -> Tensor:
    """`(B, M, M)`: value of i minus value of j."""
    return values.unsqueeze(-1) - values.unsqueeze(-2)


def mean_over_pairs(terms: Tensor, pairs: Tensor) -> Tensor:
    """Mean of `terms` `(B, M, M)` over the pairs of each list, `(B,)`. No pair: 0, with zero gradient."""
    total = terms.masked_fill(~pairs, 0.0).sum((-1, -2))
    return total / pairs.sum((-1, -2)).clamp(min=1)
