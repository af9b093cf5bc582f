"""Computes the log-likelihoods of identifiers with one forward pass of a sequence-to-sequence model.

Identifiers are packed, many to a decoder row (see `packing`). In a row each prefix attends to the prefixes that it
begins with, and its position is its length, so packed identifiers get the log-likelihoods that they get one by one.
Decoders with relative positions need only the mask; for those with position embeddings, positions are replaced during
the forward pass. Decoders that support neither get one identifier per row; the encoder still reads each prompt once.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dgr_trainer.student.forward_pass import Targets, predict
from dgr_trainer.student.generation_mode import generation_mode
from dgr_trainer.student.model_facts import can_pack, packing_attention, start_token_id, underlying_model
from dgr_trainer.student.packing import pack_identifiers
from dgr_trainer.student.prefix_trees import EMPTY

logger = logging.getLogger(__name__)
_warned_unpacked: set[str] = set()


class TokenScores(NamedTuple):
    """Log-probabilities of target tokens, 0 where there is no token.

    Args:
        log_probabilities (`torch.Tensor`, float32, shape of the labels): log p of each token.
        mean_log_probabilities (`torch.Tensor`, same shape): Mean of log p over the vocabulary, for label smoothing.
    """

    log_probabilities: Tensor
    mean_log_probabilities: Tensor


def score_tokens(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    rows: Mapping[str, Tensor],
    *,
    packed: bool | None = None,
    tokens_at_once: int | None = None,
) -> TokenScores:
    """Compute the log-probabilities of the tokens of packed identifiers with one forward pass of the model.

    Args:
        model (`nn.Module`): A sequence-to-sequence model, wrapped or not, with or without adapters.
        input_ids (`torch.LongTensor` of shape `(P, L)`): Prompts.
        attention_mask (`torch.LongTensor` of shape `(P, L)`): 1 where a prompt has a token.
        rows (`Mapping[str, torch.LongTensor]`): The arrays of [`PackedIdentifiers`], by name; others are ignored.
        packed (`bool`, *optional*):
            Whether to run the rows as they are packed, or one identifier per row. By default the result of `can_pack`.
        tokens_at_once (`int`, *optional*):
            Most decoder tokens, padding included, whose activations are kept for the backward pass (see
            `decoder_rows`). By default those of all rows.

    Returns:
        [`TokenScores`] of shape `(B, C)`.

    Raises:
        ValueError: if the attention implementation of the model does not support the mask, or it has no start token.
    """
    base = underlying_model(model)
    if packed is None:
        packed = can_pack(model)
        if not packed and type(base).__name__ not in _warned_unpacked:
            _warned_unpacked.add(type(base).__name__)
            logger.warning(
                "The decoder of %s cannot restart its positions inside a row, so each identifier gets a separate row: "
                "the results are the same, but it is slower than a model such as BART or T5.",
                type(base).__name__,
            )
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    labels, present = rows["labels"], rows["segments"] >= 0
    positions = None
    if packed:
        tokens, positions, ends, prompts = (
            rows[name].flatten(0, 1) for name in ("prefix_tokens", "prefix_depths", "prefix_ends", "row_prompts")
        )
        inputs["decoder_input_ids"] = torch.where(tokens == EMPTY, start_token_id(model), tokens)
        inputs["decoder_attention_mask"] = _packed_mask(ends, base)
        scored, sources = rows["scored_prefixes"].flatten(), rows["label_prefixes"].flatten()
    else:
        prompts, inputs["decoder_input_ids"], scored, sources = _one_identifier_a_row(rows, start_token_id(model))
        # Padding follows the tokens, so none of them sees it. Without a mask, some models guess one from token ids.
        inputs["decoder_attention_mask"] = torch.ones_like(inputs["decoder_input_ids"])
    targets = Targets(scored, sources, labels.clamp(min=0).flatten())
    log_p, mean = predict(
        model, inputs, targets, row_prompts=prompts, positions=positions, tokens_at_once=tokens_at_once
    )
    return TokenScores(*(flat.view_as(labels).masked_fill(~present, 0.0) for flat in (log_p, mean)))


def score_identifiers(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    identifiers: Sequence[Sequence[Sequence[int]]],
    *,
    max_row_tokens: int = 256,
    max_batch_tokens: int = 2048,
) -> list[list[float]]:
    """Compute log-likelihoods of identifiers, without gradients and without dropout.

    Args:
        model (`nn.Module`): A sequence-to-sequence model.
        prompts (`Sequence[Sequence[int]]`): Token ids of the encoder input of each query.
        identifiers (`Sequence[Sequence[Sequence[int]]]`): Token ids of the identifiers to score for each query.
        max_row_tokens (`int`, *optional*, defaults to 256): Longest decoder row, in tokens.
        max_batch_tokens (`int`, *optional*, defaults to 2048):
            Most identifier tokens in one forward pass; a query that has more goes through the decoder in pieces.

    Returns:
        `list[list[float]]`: l(i|q) = sum of log p, natural logarithm, for each identifier of each query.
    """
    device = next(model.parameters()).device
    results = [[0.0] * len(query_identifiers) for query_identifiers in identifiers]
    # Queries with similar numbers of tokens share a batch.
    order = sorted((q for q in range(len(identifiers)) if identifiers[q]), key=lambda q: sum(map(len, identifiers[q])))
    with generation_mode(model) as student:
        while order:
            batch = _last_batch(order, identifiers, max_batch_tokens)
            order = order[: -len(batch)]
            batch_identifiers = [identifiers[q] for q in batch]
            prompt_numbers = [[0] * len(query_identifiers) for query_identifiers in batch_identifiers]
            packed = pack_identifiers(batch_identifiers, prompt_numbers, 1, max_row_tokens)
            rows = {name: torch.from_numpy(array).to(device) for name, array in packed._asdict().items()}
            input_ids = torch.zeros(len(batch), max(len(prompts[q]) for q in batch), dtype=torch.long)
            attention_mask = torch.zeros_like(input_ids)
            for b, q in enumerate(batch):
                prompt = torch.tensor(prompts[q])
                input_ids[b, : len(prompt)] = prompt
                attention_mask[b, : len(prompt)] = 1
            log_p = score_tokens(
                student, input_ids.to(device), attention_mask.to(device), rows, tokens_at_once=max_batch_tokens
            ).log_probabilities
            sums = sum_by_identifier(log_p, rows["segments"], max(map(len, batch_identifiers))).tolist()
            for q, query_sums in zip(batch, sums, strict=True):
                results[q] = query_sums[: len(identifiers[q])]
    return results


def _last_batch(order: Sequence[int], identifiers: Sequence[Sequence[Sequence[int]]], max_tokens: int) -> list[int]:
    """The queries at the end of `order`, at least one, with no more than `max_tokens` identifier tokens together."""
    batch: list[int] = []
    tokens = 0
    for q in reversed(order):
        tokens += sum(map(len, identifiers[q]))
        if batch and tokens > max_tokens:
            break
        batch.append(q)
    return batch


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
