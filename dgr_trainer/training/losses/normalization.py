"""Standardise the scores of a list for losses that depend on their scale."""

import torch
from torch import Tensor

from .list_tensors import check_number, check_scores


def standardize_scores(scores: Tensor, mask: Tensor, *, eps: float = 1e-6) -> Tensor:
    r"""Per list, scores minus their mean, over their standard deviation.

    Log-odds scores are in the hundreds to thousands and grow in training; a softmax of them is one-hot. Standardised
    scores have the same scale in every list, so they suit [`listnet_loss`], [`kl_divergence_loss`] and
    [`listmle_loss`], for the student and, where its scale is odd, for the teacher:

    ```python
    kl_divergence_loss(standardize_scores(scores, mask), standardize_scores(teacher_scores, mask), mask)
    ```

    This removes the spread of the scores: the loss sees the shape of the list, not how far its passages are apart. To
    keep the spread, use a temperature instead.

    Args:
        scores (`torch.Tensor` of shape `(B, M)`): Scores of any floating dtype; computed in float32, float64 stays.
            Gradients flow through mean and deviation.
        mask (`torch.BoolTensor` of shape `(B, M)`): `True` where there is a passage.
        eps (`float`, *optional*, defaults to 1e-6): Added to the variance (of the population), so that a list of equal
            scores becomes a list of zeros with a finite gradient.

    Returns:
        `torch.Tensor` of shape `(B, M)`, 0 at masked entries.

    Raises:
        TypeError: If `scores` is not floating point or `mask` is not bool.
        ValueError: If shapes do not match or `eps` is not positive.
    """
    check_number("eps", eps, positive=True)
    scores = check_scores(scores, mask)
    size = mask.sum(-1, keepdim=True).clamp(min=1)
    centred = (scores - scores.sum(-1, keepdim=True) / size).masked_fill(~mask, 0.0)
    variance = (centred**2).sum(-1, keepdim=True) / size
    return centred * torch.rsqrt(variance + eps)
