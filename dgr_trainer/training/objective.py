"""The objective: from log-likelihoods of identifiers to passage scores, a ranking loss and a generation loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dgr_trainer.identifier_weights import ScoringSettings, identifier_weights
from dgr_trainer.student.token_scores import TokenScores, sum_by_identifier
from dgr_trainer.training.arguments import DistillationTrainingArguments
from dgr_trainer.training.losses import RankingLoss
from dgr_trainer.training.losses.margin import margin_settings
from dgr_trainer.training.teacher_agreement import kendall_tau, rank_accuracy, violated_margins


@dataclass(frozen=True)
class RankingObjective:
    """A ranking loss with its settings, and the weights of the terms of the objective.

    Args:
        loss ([`RankingLoss`]): The ranking loss.
        settings (`Mapping[str, Any]`): Its settings.
        ranking_weight, generation_weight (`float`): Weights of the two terms.
        prefix_ranking (`bool`): Whether the ranking loss compares the prefixes of identifiers at every depth.
    """

    loss: RankingLoss
    settings: Mapping[str, Any]
    ranking_weight: float
    generation_weight: float
    prefix_ranking: bool = False

    @classmethod
    def from_arguments(cls, args: DistillationTrainingArguments, score_kind: str) -> RankingObjective:
        """The objective that training arguments describe.

        Args:
            args ([`DistillationTrainingArguments`]): Weights and settings; what they leave open has the default that
                suits the kind of scores.
            score_kind (`str`): `ScoringSettings.kind`: `"log_odds"` or `"log_likelihood"`.

        Raises:
            DGRValueError: if the arguments hold a setting that the loss does not have.
        """
        args.check_loss()
        loss = args.resolved_ranking_loss
        kind, spread = args.scale_of_defaults(score_kind)
        generation_weight = args.generation_weight
        if generation_weight is None:
            generation_weight = args.default_generation_weight(score_kind)
        settings = loss.with_settings(kind, args.settings_of_teacher | args.ranking_loss_settings, spread)
        return cls(loss, settings, args.ranking_weight, float(generation_weight), args.prefix_ranking)

    @property
    def has_margins(self) -> bool:
        """Whether the ranking loss is trained and separates passages by margins."""
        return self.ranking_weight > 0 and self.loss.has_margins(self.settings)

    def ranking_losses(
        self,
        scores: Tensor,
        teacher_scores: Tensor,
        mask: Tensor,
        taught_ranks: Tensor | None = None,
        judged: Tensor | None = None,
    ) -> Tensor:
        """The loss of each list, unweighted.

        Args:
            scores (`torch.Tensor` of shape `(B, M)`): Student scores, in the order to be taught.
            teacher_scores (`torch.Tensor` of shape `(B, M)`): Teacher scores.
            mask (`torch.BoolTensor` of shape `(B, M)`): Where there is a passage.
            taught_ranks (`torch.Tensor` of shape `(B, M)`, *optional*):
                Rank of each passage in the order to be taught, equal where the teacher does not tell passages apart.
            judged (`torch.BoolTensor` of shape `(B,)`, *optional*):
                Lists whose first passage is the relevant one; by default all.

        Returns:
            `torch.Tensor` of shape `(B,)`, or `()` for a loss that is no mean over lists.
        """
        return self.loss(scores, teacher_scores, mask, self.settings, taught_ranks, judged)

    def teaches_something(self, mask: Tensor, taught_ranks: Tensor) -> Tensor:
        """Which lists have two passages to compare, `(B,)` bool."""
        if self.loss.teaches == "order":
            return (mask & (taught_ranks > 0)).any(-1)
        return mask.sum(-1) >= 2

    def statistics(
        self, scores: Tensor, teacher_scores: Tensor, mask: Tensor, taught_ranks: Tensor | None = None
    ) -> dict[str, Tensor]:
        """How each list agrees with what is taught, `(B,)` each; NaN for lists with nothing to compare."""
        taught_scores: Tensor | None = teacher_scores
        if self.loss.teaches == "order":
            taught_scores = None if taught_ranks is None else -taught_ranks
        statistics = {
            "rank_accuracy": rank_accuracy(scores, mask, taught_scores),
            "kendall_tau": kendall_tau(scores, mask, taught_scores),
        }
        if self.loss.has_margins(self.settings):
            statistics["violated_margins"] = violated_margins(
                scores,
                mask,
                taught_ranks=taught_ranks,
                teacher_scores=teacher_scores,
                **margin_settings(self.settings),
            )
        return statistics


def passage_scores(
    log_likelihoods: Tensor, batch: Mapping[str, Tensor], corpus_tokens: int, settings: ScoringSettings
) -> Tensor:
    """Passage scores s(q, p): the sum of the discounted weights of a passage's identifiers.

    Args:
        log_likelihoods (`torch.Tensor` of shape `(B, K)`): l(i|q) of each identifier of each query.
        batch (`Mapping[str, torch.Tensor]`): A batch of the collator.
        corpus_tokens (`int`): All tokens of the corpus.
        settings ([`ScoringSettings`]): How identifiers are weighted.

    Returns:
        `torch.Tensor` of shape `(B, M)`, 0 where there is no passage.
    """
    weights = identifier_weights(
        log_likelihoods,
        batch["identifier_counts"],
        corpus_tokens,
        settings,
        batch["identifier_is_pseudo_query"],
        batch["identifier_origins"],
    )
    slots = batch["passage_identifiers"]
    passage_weights = weights.gather(1, slots.clamp(min=0).flatten(1)).view(slots.shape)
    return (passage_weights * batch["passage_factors"]).masked_fill(slots < 0, 0.0).sum(-1)


def generation_losses(tokens: TokenScores, batch: Mapping[str, Tensor], smoothing: float) -> Tensor:
    """Cross-entropy of the identifiers that a query should generate.

    Each identifier counts by the mean over its tokens, each query by the mean over its identifiers. Label smoothing is
    that of `transformers.trainer_pt_utils.LabelSmoother`.

    Args:
        tokens ([`TokenScores`] of shape `(B, R, T)`): Log-probabilities of the tokens.
        batch (`Mapping[str, torch.Tensor]`): A batch of the collator.
        smoothing (`float`): Share of the target that is spread over the vocabulary.

    Returns:
        `torch.Tensor` of shape `(B,)`, 0 for queries with nothing to generate.
    """
    weights, segments = batch["generation_weights"], batch["segments"]
    losses = -(1.0 - smoothing) * tokens.log_probabilities - smoothing * tokens.mean_log_probabilities
    lengths = sum_by_identifier((segments >= 0).to(losses.dtype), segments, weights.shape[1])
    means = sum_by_identifier(losses, segments, weights.shape[1]) / lengths.clamp(min=1.0)
    return (means * weights).sum(-1)


def nan_where_absent(values: Tensor, present: Tensor) -> Tensor:
    """Return values, detached, with NaN where there is nothing to report, so that averages leave it out."""
    return torch.where(present, values.detach(), torch.full_like(values, float("nan")))
