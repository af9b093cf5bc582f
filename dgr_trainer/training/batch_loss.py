"""The loss of a batch: of queries with their rank lists, or of ordinary pairs, with the terms that are logged."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dgr_trainer.student.token_scores import sum_by_identifier
from dgr_trainer.training.batches import pair_losses, score_batch
from dgr_trainer.training.collator import DistillationCollator
from dgr_trainer.training.objective import RankingObjective, generation_losses, nan_where_absent, passage_scores
from dgr_trainer.training.prefix_ranking import prefix_lists, prefix_ranking_losses

TERMS = ("loss_ranking", "loss_generation", "violated_margins", "rank_accuracy", "kendall_tau")
"""Every term that may be logged beside the loss."""


class BatchLoss(NamedTuple):
    """The loss of a batch.

    Attributes:
        loss (`torch.Tensor` of shape `()`): The loss, with its gradient.
        parts (`torch.Tensor` of shape `(B,)`, or `(B, T)` for pairs): What it is made of, without a gradient: a value
            for each query, or for each label token, NaN where there is none. The loss is a mean of them.
        terms (`Mapping[str, torch.Tensor]`): Values of the terms, by name, in the shape of the parts or `()` for one
            value of the batch; NaN where there is nothing to report.
    """

    loss: Tensor
    parts: Tensor
    terms: Mapping[str, Tensor]


def distillation_loss(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    objective: RankingObjective,
    collator: DistillationCollator,
    queries: Tensor,
    *,
    smoothing: float,
    tokens_at_once: int,
) -> BatchLoss:
    """The loss of a batch of queries, by one forward pass.

    Args:
        model (`nn.Module`): The model, wrapped or not.
        batch (`Mapping[str, torch.Tensor]`): A batch of the collator.
        objective ([`RankingObjective`]): The ranking loss, and the weights of the terms.
        collator ([`DistillationCollator`]): It knows how passages are scored.
        queries (`torch.Tensor` of shape `()`): What the sum over queries is divided by.
        smoothing (`float`): Share of a generation target that is spread over the vocabulary.
        tokens_at_once (`int`): Decoder tokens whose activations are kept.
    """
    tokens = score_batch(model, batch, tokens_at_once)
    log_likelihoods = sum_by_identifier(
        tokens.log_probabilities, batch["segments"], batch["identifier_counts"].shape[1]
    )
    loss = tokens.log_probabilities.sum() * 0.0  # Every parameter gets a gradient, whatever the weights.
    parts = torch.zeros(len(batch["labels"]), device=loss.device)
    terms: dict[str, Tensor] = {}

    if objective.ranking_weight > 0:
        lists, judged = (batch["teacher_scores"], batch["list_mask"], batch["taught_ranks"]), batch["judged"]
        scores = passage_scores(log_likelihoods, batch, collator.corpus_tokens, collator.scoring)
        if objective.prefix_ranking:
            prefixes = prefix_lists(tokens.log_probabilities, batch)
            ranking = prefix_ranking_losses(prefixes, lists[0], lists[2], judged, objective.ranking_losses)
        else:
            ranking = objective.ranking_losses(scores, *lists, judged)
        # One loss of the batch is no sum over queries; everything else is.
        mean = ranking if ranking.dim() == 0 else ranking.sum() / queries
        loss = loss + objective.ranking_weight * mean
        parts = parts + objective.ranking_weight * ranking.detach()
        taught = objective.teaches_something(*lists[1:])
        terms["loss_ranking"] = ranking.detach() if ranking.dim() == 0 else nan_where_absent(ranking, taught)
        terms |= objective.statistics(scores.detach(), *lists)

    generation = generation_losses(tokens, batch, smoothing)
    if objective.generation_weight > 0:
        loss = loss + objective.generation_weight * generation.sum() / queries
        parts = parts + objective.generation_weight * generation.detach()
    terms["loss_generation"] = nan_where_absent(generation, batch["generation_weights"].sum(-1) > 0)
    return BatchLoss(loss, parts, terms)


def pair_loss(
    model: nn.Module, batch: Mapping[str, Tensor], label_tokens: Tensor, *, smoothing: float, tokens_at_once: int
) -> BatchLoss:
    """The loss of a batch of ordinary pairs: cross-entropy, divided by `label_tokens`. See `distillation_loss`."""
    losses, present = pair_losses(model, batch, smoothing, tokens_at_once)
    parts = nan_where_absent(losses, present)
    return BatchLoss(losses.sum() / label_tokens, parts, {"loss_generation": parts})
