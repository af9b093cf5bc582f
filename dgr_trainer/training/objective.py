"""The objective: from log-likelihoods of identifiers to passage scores, a ranking loss and a generation loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dgr_trainer.identifier_weights import ScoringSettings, identifier_weights
from dgr_trainer.student.likelihoods import TokenScores, sum_by_identifier
from dgr_trainer.training.losses import ORDER_LOSSES, SCORE_LOSSES
from dgr_trainer.training.teacher_agreement import kendall_tau, rank_accuracy, violated_margins

if TYPE_CHECKING:
    from dgr_trainer.training.arguments import DistillationTrainingArguments

_WITH_TEACHER_TEMPERATURE = ("listnet", "kl_divergence")
# Squared log-odds are in the hundreds to thousands, log-likelihoods are a few nats.
_MARGINS = {"log_odds": (300.0, 100.0), "log_likelihood": (1.0, 0.5)}
_TEMPERATURES = {"log_odds": 100.0, "log_likelihood": 1.0}
_GENERATION_WEIGHT_OF_LOG_ODDS = 500.0


@dataclass(frozen=True)
class RankingObjective:
    """A ranking loss with its settings, and the weights of the terms of the objective.

    Args:
        loss (`str`): Its name, one of `RANKING_LOSSES`.
        ranking_weight, generation_weight (`float`): Weights of the two terms.
        margin, margin_gap (`float`): Margins, in units of the scores.
        first_weight (`float`): Weight of the pairs of the first passage.
        temperature, teacher_temperature (`float`): Divisors of the student's and the teacher's scores.
        over_batch (`bool`): Average over the violated pairs of the batch in place of each list's.
    """

    loss: str
    ranking_weight: float
    generation_weight: float
    margin: float
    margin_gap: float
    first_weight: float
    temperature: float
    teacher_temperature: float
    over_batch: bool

    @classmethod
    def from_arguments(cls, args: DistillationTrainingArguments, kind: str) -> RankingObjective:
        """Settings with the defaults that suit a kind of score (`ScoringSettings.kind`)."""
        margin, margin_gap = _MARGINS[kind]
        in_hundreds = kind == "log_odds" and args.ranking_loss in ORDER_LOSSES
        generation_weight = _GENERATION_WEIGHT_OF_LOG_ODDS if in_hundreds else 1.0
        return cls(
            loss=args.ranking_loss,
            ranking_weight=args.ranking_weight,
            generation_weight=generation_weight if args.generation_weight is None else args.generation_weight,
            margin=margin if args.margin is None else args.margin,
            margin_gap=margin_gap if args.margin_gap is None else args.margin_gap,
            first_weight=args.first_weight,
            temperature=_TEMPERATURES[kind] if args.temperature is None else args.temperature,
            teacher_temperature=args.teacher_temperature,
            over_batch=args.active_pair_mean,
        )

    @property
    def has_margins(self) -> bool:
        """Whether the ranking loss is trained and holds passages apart by margins."""
        return self.ranking_weight > 0 and self.loss in ORDER_LOSSES

    def ranking_losses(self, scores: Tensor, teacher_scores: Tensor, mask: Tensor) -> Tensor:
        """The loss of each list, unweighted.

        Args:
            scores (`torch.Tensor` of shape `(B, M)`): Student scores, in the order to be taught.
            teacher_scores (`torch.Tensor` of shape `(B, M)`): Teacher scores.
            mask (`torch.BoolTensor` of shape `(B, M)`): Where there is a passage.

        Returns:
            `torch.Tensor` of shape `(B,)`, or `()` with `over_batch`.
        """
        if self.loss in ORDER_LOSSES:
            settings: dict[str, Any] = {"margin": self.margin, "margin_gap": self.margin_gap}
            if self.loss == "distilled_ranknet":
                settings["first_weight"] = self.first_weight
            else:
                settings["num_candidates"] = None
            reduction = "active" if self.over_batch else "none"
            return ORDER_LOSSES[self.loss](scores, mask, **settings, reduction=reduction)
        settings = {"temperature": self.temperature}
        if self.loss in _WITH_TEACHER_TEMPERATURE:
            settings["teacher_temperature"] = self.teacher_temperature
        return SCORE_LOSSES[self.loss](scores, teacher_scores, mask, **settings, reduction="none")

    def statistics(self, scores: Tensor, teacher_scores: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """How each list agrees with what is taught, `(B,)` each; NaN for lists with nothing to compare."""
        taught = None if self.loss in ORDER_LOSSES else teacher_scores
        found = {
            "rank_accuracy": rank_accuracy(scores, mask, taught),
            "kendall_tau": kendall_tau(scores, mask, taught),
        }
        if self.loss in ORDER_LOSSES:
            found["violated_margins"] = violated_margins(scores, mask, margin=self.margin, margin_gap=self.margin_gap)
        return found


def passage_scores(
    log_likelihoods: Tensor, batch: Mapping[str, Tensor], corpus_tokens: int, settings: ScoringSettings
) -> Tensor:
    """s(q, p): the sum of the discounted weights of a passage's identifiers.

    Args:
        log_likelihoods (`torch.Tensor` of shape `(B, K)`): l(i|q) of each identifier of each query.
        batch (`Mapping[str, torch.Tensor]`): A batch of the collator.
        corpus_tokens (`int`): All tokens of the corpus.
        settings ([`ScoringSettings`]): How identifiers are weighed.

    Returns:
        `torch.Tensor` of shape `(B, M)`, 0 where there is no passage.
    """
    weights = identifier_weights(
        log_likelihoods, batch["identifier_counts"], corpus_tokens, settings, batch["identifier_is_pseudo_query"]
    )
    slots = batch["passage_identifiers"]
    own = weights.gather(1, slots.clamp(min=0).flatten(1)).view(slots.shape)
    return (own * batch["passage_factors"]).masked_fill(slots < 0, 0.0).sum(-1)


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


def ranked(mask: Tensor) -> Tensor:
    """Which lists have anything to compare, `(B,)` bool."""
    return mask.sum(-1) >= 2


def nan_unless(values: Tensor, present: Tensor) -> Tensor:
    """Values with NaN where there is nothing to report, for averages that leave it out."""
    return torch.where(present, values.detach(), torch.full_like(values, float("nan")))
