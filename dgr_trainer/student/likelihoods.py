"""Log-likelihoods of identifiers, outside training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from dgr_trainer.student.generation_mode import generation_mode
from dgr_trainer.student.model_facts import model_device
from dgr_trainer.student.packing import pack_identifiers
from dgr_trainer.student.probing import scoring_way
from dgr_trainer.student.scored_tokens import sum_by_identifier
from dgr_trainer.student.token_scores import token_scores


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
        model (`nn.Module`): A student.
        prompts (`Sequence[Sequence[int]]`): Token ids of the prompt of each query.
        identifiers (`Sequence[Sequence[Sequence[int]]]`): Token ids of the identifiers to score for each query.
        max_row_tokens (`int`, *optional*, defaults to 256): Longest decoder row, in tokens.
        max_batch_tokens (`int`, *optional*, defaults to 2048):
            Most identifier tokens in one forward pass; a query that has more goes through the decoder in pieces.

    Returns:
        `list[list[float]]`: l(i|q) = sum of log p, natural logarithm, for each identifier of each query.
    """
    device = model_device(model)
    results = [[0.0] * len(query_identifiers) for query_identifiers in identifiers]
    # Queries with similar numbers of tokens share a batch.
    order = sorted((q for q in range(len(identifiers)) if identifiers[q]), key=lambda q: sum(map(len, identifiers[q])))
    way = scoring_way(model)
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
            log_p = token_scores(
                student, input_ids.to(device), attention_mask.to(device), rows, way, tokens_at_once=max_batch_tokens
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
