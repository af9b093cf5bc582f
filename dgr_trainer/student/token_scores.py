"""Log-probabilities of the tokens of a batch's identifiers, in one forward pass, in one of three ways.

- `"packed"`: many identifiers to a row (see `packing`).
- `"rows"`: one identifier per row, by the same forward pass with logits in pieces.
- `"plain"`: one identifier per row, by an ordinary call of the model.

What these mean for an encoder-decoder and for a decoder-only model is in `encoder_decoder` and in `causal`.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from dgr_trainer.student.scored_tokens import ScoringWay, TokenScores, sum_by_identifier
from dgr_trainer.student.students import student_of

__all__ = ["ScoringWay", "TokenScores", "pair_scores", "sum_by_identifier", "token_scores"]


def token_scores(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    rows: Mapping[str, Tensor],
    way: ScoringWay,
    *,
    tokens_at_once: int | None = None,
) -> TokenScores:
    """Compute the log-probabilities of the tokens of packed identifiers: `Student.score` of a model's student."""
    return student_of(model).score(input_ids, attention_mask, rows, way, tokens_at_once=tokens_at_once)


def pair_scores(
    model: nn.Module, batch: Mapping[str, Tensor], way: ScoringWay, *, tokens_at_once: int | None = None
) -> TokenScores:
    """Compute the log-probabilities of the labels of ordinary pairs: `Student.score_pairs` of a model's student."""
    return student_of(model).score_pairs(batch, way, tokens_at_once=tokens_at_once)
