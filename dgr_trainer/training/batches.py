"""Batches through the model: those of the collator and those of ordinary pairs, each in one forward pass."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dgr_trainer.training.log_probabilities import token_log_probabilities
from dgr_trainer.training.packing import IGNORED
from dgr_trainer.training.scoring import TokenScores, score_rows, start_token_id


def score_batch(model: nn.Module, batch: Mapping[str, Tensor]) -> TokenScores:
    """Log-probabilities `(B, R, T)` of a batch's tokens; rows and prompts without any are left out of the pass."""
    segments = batch["segments"]
    queries, num_rows, _ = segments.shape
    num_prompts = batch["input_ids"].shape[1]
    used = (segments >= 0).any(-1).flatten().nonzero().squeeze(-1)
    if not len(used):
        used = used.new_zeros(1)  # A pass with nothing in it, so that all processes make one.
    of_row = batch["row_prompts"].flatten()[used] + used // num_rows * num_prompts
    prompts, row_prompts = torch.unique(of_row, return_inverse=True)
    labels, of_identifier, positions = (
        batch[name].flatten(0, 1)[used] for name in ("labels", "segments", "positions")
    )
    scores = score_rows(
        model,
        batch["input_ids"].flatten(0, 1)[prompts],
        batch["attention_mask"].flatten(0, 1)[prompts],
        row_prompts,
        labels,
        of_identifier,
        positions,
    )
    values = [v.new_zeros(queries * num_rows, v.shape[-1]).index_copy(0, used, v).view_as(segments) for v in scores]
    return TokenScores(*values)


def count_items(batch: Mapping[str, Tensor]) -> Tensor:
    """What a batch's loss is a mean over: its queries, or the label tokens of pairs. At least 1."""
    labels = batch.get("labels")
    if labels is None:
        return torch.ones(())
    if "segments" in batch:
        return torch.tensor(float(len(labels)), device=labels.device)
    return (labels != IGNORED).sum().clamp(min=1).float()


def pair_losses(model: nn.Module, batch: Mapping[str, Tensor], smoothing: float) -> tuple[Tensor, Tensor]:
    """
    Cross-entropy of each label token of ordinary pairs.

    Args:
        model (`nn.Module`): The model as it comes.
        batch (`Mapping[str, torch.Tensor]`): `input_ids`, `attention_mask` and `labels` (-100 for padding).
        smoothing (`float`): Share of the target that is spread over the vocabulary.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: losses `(B, T)`, 0 at padding, and where there is a token, bool.
    """
    present = batch["labels"] != IGNORED
    targets = batch["labels"].clamp(min=0)
    inputs = targets.roll(1, dims=-1)
    inputs[:, 0] = start_token_id(model)
    outputs = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        decoder_input_ids=inputs,
        use_cache=False,
    )
    log_p, mean = token_log_probabilities(outputs["logits"] if isinstance(outputs, dict) else outputs[0], targets)
    return (-(1.0 - smoothing) * log_p - smoothing * mean).masked_fill(~present, 0.0), present
