"""Log-probabilities of the tokens of a batch's identifiers, in one forward pass, in one of three ways.

- `"packed"`: many identifiers to a decoder row (see `packing`). In a row each prefix attends to the prefixes that it
  begins with, and its position is its length, so packed identifiers get the log-likelihoods that they get one by one.
  Decoders with relative positions need only the mask; for those with position embeddings, positions are replaced
  during the forward pass.
- `"rows"`: one identifier per row; the encoder still reads each prompt once, and logits are computed in pieces.
- `"plain"`: one identifier per row with its own copy of the prompt, by an ordinary call of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from dgr_trainer.student.forward_pass import Targets, predict, predict_plainly
from dgr_trainer.student.model_facts import packing_attention, start_token_id, underlying_model
from dgr_trainer.student.prefix_trees import EMPTY

ScoringWay = Literal["packed", "rows", "plain"]


class TokenScores(NamedTuple):
    """Log-probabilities of target tokens, 0 where there is no token.

    Args:
        log_probabilities (`torch.Tensor`, float32, shape of the labels): log p of each token.
        mean_log_probabilities (`torch.Tensor`, same shape): Mean of log p over the vocabulary, for label smoothing.
    """

    log_probabilities: Tensor
    mean_log_probabilities: Tensor


def token_scores(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    rows: Mapping[str, Tensor],
    way: ScoringWay,
    *,
    tokens_at_once: int | None = None,
) -> TokenScores:
    """Compute the log-probabilities of the tokens of packed identifiers with one forward pass of the model.

    Args:
        model (`nn.Module`): A sequence-to-sequence model, wrapped or not, with or without adapters.
        input_ids (`torch.LongTensor` of shape `(P, L)`): Prompts.
        attention_mask (`torch.LongTensor` of shape `(P, L)`): 1 where a prompt has a token.
        rows (`Mapping[str, torch.LongTensor]`): The arrays of [`PackedIdentifiers`], by name; others are ignored.
        way (`str`): `"packed"`, `"rows"` or `"plain"`; `scoring_way` knows which is right for the model.
        tokens_at_once (`int`, *optional*):
            Most decoder tokens, padding included, whose activations are kept for the backward pass (see
            `decoder_rows`). By default those of all rows. Has no effect on `"plain"`.

    Returns:
        [`TokenScores`] of shape `(B, C)`.

    Raises:
        ValueError: if the attention implementation of the model does not support the mask, or it has no start token.
    """
    labels, present = rows["labels"], rows["segments"] >= 0
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    start = start_token_id(model)
    positions = None
    if way == "packed":
        tokens, positions, ends, prompts = (
            rows[name].flatten(0, 1) for name in ("prefix_tokens", "prefix_depths", "prefix_ends", "row_prompts")
        )
        inputs["decoder_input_ids"] = torch.where(tokens == EMPTY, start, tokens)
        inputs["decoder_attention_mask"] = _packed_mask(ends, underlying_model(model))
        scored, sources = rows["scored_prefixes"].flatten(), rows["label_prefixes"].flatten()
    else:
        prompts, inputs["decoder_input_ids"], scored, sources = _one_identifier_a_row(rows, start)
        inputs["decoder_attention_mask"] = _mask_of_ones(inputs["decoder_input_ids"])
    targets = Targets(scored, sources, labels.clamp(min=0).flatten())
    if way == "plain":
        inputs |= {name: inputs[name][prompts] for name in ("input_ids", "attention_mask")}
        predicted = predict_plainly(model, inputs, targets)
    else:
        predicted = predict(
            model, inputs, targets, row_prompts=prompts, positions=positions, tokens_at_once=tokens_at_once
        )
    return TokenScores(*(flat.view_as(labels).masked_fill(~present, 0.0) for flat in predicted))


def pair_scores(
    model: nn.Module, batch: Mapping[str, Tensor], way: ScoringWay, *, tokens_at_once: int | None = None
) -> TokenScores:
    """Compute the log-probabilities of the label tokens of ordinary pairs with one forward pass of the model.

    Args:
        model (`nn.Module`): The model, wrapped or not.
        batch (`Mapping[str, torch.Tensor]`): `input_ids`, `attention_mask` and `labels` (negative for padding).
        way (`str`): How identifiers are scored; all but `"plain"` compute logits in pieces.
        tokens_at_once (`int`, *optional*): See `token_scores`.

    Returns:
        [`TokenScores`] of shape `(B, T)`.
    """
    present = batch["labels"] >= 0
    labels = batch["labels"].clamp(min=0)
    decoder_inputs = labels.roll(1, dims=-1)
    decoder_inputs[:, 0] = start_token_id(model)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    inputs |= {"decoder_input_ids": decoder_inputs, "decoder_attention_mask": _mask_of_ones(decoder_inputs)}
    everywhere = torch.arange(labels.numel(), device=labels.device)
    targets = Targets(everywhere, everywhere, labels.flatten())
    if way == "plain":
        predicted = predict_plainly(model, inputs, targets)
    else:
        predicted = predict(model, inputs, targets, tokens_at_once=tokens_at_once)
    return TokenScores(*(flat.view_as(labels).masked_fill(~present, 0.0) for flat in predicted))


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


def _mask_of_ones(tokens: Tensor) -> Tensor:
    """A mask without padding, which follows the tokens anyway; without a mask, some models guess one from the ids."""
    return torch.ones_like(tokens)


def _packed_mask(ends: Tensor, base: Any) -> Tensor:
    """The attention mask, `(R, 1, N, N)`, in the form that the model's attention implementation expects.

    Each prefix attends to the prefixes that it begins with, itself included.
    """
    attention = packing_attention(base)
    indices = torch.arange(ends.shape[1], device=ends.device)
    allowed = (indices <= indices.unsqueeze(-1)) & (indices.unsqueeze(-1) < ends.unsqueeze(1))
    if attention == "sdpa":
        return allowed.unsqueeze(1)
    additive = torch.zeros(allowed.shape, dtype=base.dtype, device=ends.device)
    return additive.masked_fill(~allowed, torch.finfo(base.dtype).min).unsqueeze(1)


def _one_identifier_a_row(rows: Mapping[str, Tensor], start: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Unpack to one identifier per row: prompts `(I,)`, decoder inputs `(I, T)`, states and sources of [`Targets`]."""
    labels, present = rows["labels"], rows["segments"] >= 0
    width = rows["prefix_tokens"].shape[-1]
    prefixes = rows["scored_prefixes"].flatten()[rows["label_prefixes"]]
    columns = rows["prefix_depths"].flatten()[prefixes]
    prompts = rows["row_prompts"].flatten()[prefixes // width]
    starts = present & (columns == 0)
    if not starts.any():
        starts[0, 0] = True  # An empty row, so that all processes run the model.
    row_numbers = starts.flatten().cumsum(0).view_as(starts) - 1
    inputs = labels.new_full((int(starts.sum()), int(columns.max()) + 1), 0)
    targets = torch.where(columns == 0, start, labels.clamp(min=0).roll(1, dims=-1))
    inputs[row_numbers[present], columns[present]] = targets[present]
    scored = (row_numbers.clamp(min=0) * inputs.shape[1] + columns).flatten()
    return prompts[starts], inputs, scored, torch.arange(scored.numel(), device=scored.device)
