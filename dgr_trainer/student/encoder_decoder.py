"""Students that read a prompt with an encoder and write identifiers with a decoder, such as BART and T5.

Many identifiers are packed into a decoder row (see `packing`). In a row each prefix attends to the prefixes that it
begins with, and its position is its length, so packed identifiers get the log-likelihoods that they get one by one.
Decoders with relative positions need only the mask; for those with position embeddings, positions are replaced during
the forward pass. Where one identifier has a row, the encoder still reads each prompt once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dgr_trainer.student.decoder_rows import computes_positions_again
from dgr_trainer.student.decoding_ways import DecodingWay, known_way
from dgr_trainer.student.encoder_decoder_steps import EncoderDecoderSteps
from dgr_trainer.student.forward_pass import Targets, can_be_copied, predict, predict_plainly
from dgr_trainer.student.loading import seq2seq_logits
from dgr_trainer.student.model_facts import (
    decoder_position_limit,
    model_device,
    packing_attention,
    packing_obstacle,
    start_token_id,
    underlying_model,
)
from dgr_trainer.student.prefix_trees import EMPTY
from dgr_trainer.student.scored_tokens import (
    ScoringWay,
    TokenScores,
    attention_mask_of,
    mask_of_ones,
    scores_of,
    tree_mask,
)


class EncoderDecoderStudent:
    """A [`Student`] with an encoder and a decoder.

    Args:
        model (`nn.Module`): The model, wrapped or not, with or without adapters.
    """

    auto_class: ClassVar[str] = "AutoModelForSeq2SeqLM"
    peft_task: ClassVar[str] = "SEQ_2_SEQ_LM"
    example: ClassVar[str] = "BART or T5"
    reads_closed_prompts: ClassVar[bool] = True
    decoding_ways: ClassVar[tuple[DecodingWay, ...]] = ("cached", "reread")
    may_look_ahead: ClassVar[bool] = False

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.base: Any = underlying_model(model)

    @staticmethod
    def few_logits(model: Any, /) -> Tensor:
        """See [`Student`]."""
        return seq2seq_logits(model)

    @property
    def start_token_id(self) -> int | None:
        """The token that the decoder reads before the first token of an identifier."""
        return start_token_id(self.base)

    def identifier_limit(self, prompt_tokens: int) -> int | None:
        """The longest identifier in tokens: the positions of the decoder, whatever the prompt."""
        return decoder_position_limit(self.base)

    def packing_obstacle(self) -> str | None:
        """See [`Student`]."""
        obstacle = packing_obstacle(self.base)
        if obstacle is None:
            packing_attention(self.base)  # Raises an error that says how to load the model.
        return obstacle

    def loses_positions(self) -> bool:
        """See [`Student`]."""
        return computes_positions_again(self.base.get_decoder()) and not can_be_copied(self.model)

    def embedding_inputs(self, ids: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """See [`Student`]."""
        # The encoder's input differs from the decoder's in its length, and both differ from lists of positions.
        encoder, decoder = ids[[0, 0, 0]][None], ids[[0, 0]][None]
        inputs = {"input_ids": encoder, "attention_mask": torch.ones_like(encoder), "decoder_input_ids": decoder}
        return inputs, {"encoder": encoder, "decoder": decoder}

    def score(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        rows: Mapping[str, Tensor],
        way: ScoringWay,
        *,
        tokens_at_once: int | None = None,
    ) -> TokenScores:
        """See [`Student`]."""
        labels, present = rows["labels"], rows["segments"] >= 0
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        start = start_token_id(self.base)
        positions = None
        if way == "packed":
            tokens, positions, ends, prompts = (
                rows[name].flatten(0, 1) for name in ("prefix_tokens", "prefix_depths", "prefix_ends", "row_prompts")
            )
            inputs["decoder_input_ids"] = torch.where(tokens == EMPTY, start, tokens)
            attention = packing_attention(self.base)
            inputs["decoder_attention_mask"] = attention_mask_of(tree_mask(ends), attention, self.base.dtype)
            scored, sources = rows["scored_prefixes"].flatten(), rows["label_prefixes"].flatten()
        else:
            prompts, inputs["decoder_input_ids"], scored, sources = _one_identifier_a_row(rows, start)
            inputs["decoder_attention_mask"] = mask_of_ones(inputs["decoder_input_ids"])
        targets = Targets(scored, sources, labels.clamp(min=0).flatten())
        if way == "plain":
            inputs |= {name: inputs[name][prompts] for name in ("input_ids", "attention_mask")}
            predicted = predict_plainly(self.model, inputs, targets)
        else:
            predicted = predict(
                self.model, inputs, targets, row_prompts=prompts, positions=positions, tokens_at_once=tokens_at_once
            )
        return scores_of(predicted, present)

    def score_pairs(
        self, batch: Mapping[str, Tensor], way: ScoringWay, *, tokens_at_once: int | None = None
    ) -> TokenScores:
        """See [`Student`]."""
        present = batch["labels"] >= 0
        labels = batch["labels"].clamp(min=0)
        decoder_inputs = labels.roll(1, dims=-1)
        decoder_inputs[:, 0] = start_token_id(self.base)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        inputs |= {"decoder_input_ids": decoder_inputs, "decoder_attention_mask": mask_of_ones(decoder_inputs)}
        everywhere = torch.arange(labels.numel(), device=labels.device)
        targets = Targets(everywhere, everywhere, labels.flatten())
        if way == "plain":
            predicted = predict_plainly(self.model, inputs, targets)
        else:
            predicted = predict(self.model, inputs, targets, tokens_at_once=tokens_at_once)
        return scores_of(predicted, present)

    def pairs_are_joined(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> bool:
        """See [`Student`]: prompts and labels are never in one sequence."""
        return False

    def next_log_probabilities(self, prompt: Sequence[int], ids: Sequence[int]) -> Tensor:
        """See [`Student`]."""
        read = [start_token_id(self.base), *ids]
        device = model_device(self.base)
        prompt_ids, tokens = (torch.tensor([row], device=device) for row in (prompt, read))
        outputs = self.model(
            input_ids=prompt_ids,
            attention_mask=torch.ones_like(prompt_ids),
            decoder_input_ids=tokens,
            decoder_attention_mask=torch.ones_like(tokens),
            use_cache=False,
            return_dict=True,
        )
        log_p: Tensor = outputs.logits[0].float().log_softmax(-1)
        return log_p

    def prefill(self, prompts: list[list[int]], *, way: DecodingWay | None = None) -> EncoderDecoderSteps:
        """See [`Student`]."""
        return EncoderDecoderSteps(self.model, prompts, cached=(way or known_way(self.base)) != "reread")


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
