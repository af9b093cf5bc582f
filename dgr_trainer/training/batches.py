"""Run batches of the collator, and of ordinary pairs, through the model in one forward pass each."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dgr_trainer.student.packing import IGNORED
from dgr_trainer.student.probing import scoring_way
from dgr_trainer.student.token_scores import TokenScores, pair_scores, token_scores


def score_batch(model: nn.Module, batch: Mapping[str, Tensor], tokens_at_once: int | None = None) -> TokenScores:
    """Log-probabilities `(B, C)` of the tokens of a batch's identifiers."""
    prompts, attention_mask = (batch[name].flatten(0, 1) for name in ("input_ids", "attention_mask"))
    return token_scores(model, prompts, attention_mask, batch, scoring_way(model), tokens_at_once=tokens_at_once)


def count_items(batch: Mapping[str, Tensor]) -> Tensor:
    """Count what the loss of a batch is a mean over: its queries, or the label tokens of pairs. At least 1."""
    labels = batch.get("labels")
    if labels is None:
        return torch.ones(())
    if "segments" in batch:
        return torch.tensor(float(len(labels)), device=labels.device)
    return (labels != IGNORED).sum().clamp(min=1).float()


def pair_losses(
    model: nn.Module, batch: Mapping[str, Tensor], smoothing: float, tokens_at_once: int | None = None
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each label token of ordinary pairs.

    Args:
        model (`nn.Module`): The model, wrapped or not.
        batch (`Mapping[str, torch.Tensor]`): `input_ids`, `attention_mask` and `labels` (-100 for padding).
        smoothing (`float`): Share of the target that is spread over the vocabulary.
        tokens_at_once (`int`, *optional*): Decoder tokens whose activations are kept. By default all of them.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: losses `(B, T)`, 0 at padding, and where there is a token, bool.
    """
    tokens = pair_scores(model, batch, scoring_way(model, pairs=True), tokens_at_once=tokens_at_once)
    losses = -(1.0 - smoothing) * tokens.log_probabilities - smoothing * tokens.mean_log_probabilities
    return losses, batch["labels"] != IGNORED
