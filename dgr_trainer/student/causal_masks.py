"""Masks of packed rows for causal models: which layers look at the whole path, and which at its last tokens only."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

from dgr_trainer.student.scored_tokens import attention_mask_of, tree_mask

_FULL, _SLIDING = "full_attention", "sliding_attention"


def attention_of(base: Any) -> str:
    """The attention implementation of a causal model."""
    return str(
        getattr(base.config.get_text_config(), "_attn_implementation", None) or base.config._attn_implementation
    )


def mask_obstacle(base: Any) -> str | None:
    """Why a causal model cannot be given the masks of packed rows; `None` if nothing speaks against it."""
    name, config = type(base).__name__, base.config.get_text_config()
    attention = attention_of(base)
    if attention not in ("sdpa", "eager"):
        return (
            f"The model uses attn_implementation={attention!r}, which does not support the mask for several "
            "identifiers in one row (attn_implementation='sdpa' does)"
        )
    if "position_ids" not in inspect.signature(base.forward).parameters or getattr(config, "alibi", False):
        return f"{name} takes no positions of tokens"
    if getattr(config, "expert_capacity", None):
        return f"The experts of {name} drop tokens of rows that are longer than their capacity"
    unknown = sorted({*(getattr(config, "layer_types", None) or ())} - {_FULL, _SLIDING})
    if unknown:
        return f"{name} has layers of the type {unknown[0]}, which take no mask of single tokens"
    for attribute in ("attention_chunk_size", "attention_types"):
        if getattr(config, attribute, None):
            return f"{name} limits attention by places in a row ({attribute})"
    return None


def packed_masks(base: Any, ends: Tensor, positions: Tensor) -> Tensor | dict[str, Tensor]:
    """The masks, `(R, 1, N, N)`, of rows of prefix trees: one, or one for each type of layer.

    The convention is that of `transformers.masking_utils.create_masks_for_generate`. A window counts tokens of the
    path, not cells of the row.

    Args:
        base ([`~transformers.PreTrainedModel`]): The model.
        ends (`torch.LongTensor` of shape `(R, N)`): The index in its row after the last cell that sees each cell.
        positions (`torch.LongTensor` of shape `(R, N)`): The position of each cell on its path.
    """
    return masks_by_layer_type(base, tree_mask(ends), positions, positions)


def masks_by_layer_type(
    base: Any, seen: Tensor, positions: Tensor, key_positions: Tensor
) -> Tensor | dict[str, Tensor]:
    """The masks, `(R, 1, N, M)`, of some tokens: one, or one for each type of layer, in the form of the attention.

    Args:
        base ([`~transformers.PreTrainedModel`]): The model.
        seen (`torch.Tensor` of bool, shape `(R, N, M)`): Which keys belong to what stands before each token.
        positions (`torch.LongTensor` of shape `(R, N)`): The position of each token.
        key_positions (`torch.LongTensor` of shape `(R, M)`): The position of each key.
    """
    config = base.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    types = {*(getattr(config, "layer_types", None) or ())} or {_FULL if window is None else _SLIDING}
    masks = {}
    for layer_type in sorted(types):
        allowed = seen
        if layer_type == _SLIDING:
            assert window is not None
            allowed = seen & (positions.unsqueeze(-1) - key_positions.unsqueeze(1) < window)
        masks[layer_type] = attention_mask_of(allowed, attention_of(base), base.dtype)
    return next(iter(masks.values())) if len(masks) == 1 else masks
