"""Students that are decoder-only language models, such as Llama, Qwen3 and GPT-2: they go on writing the prompt.

There is no start token: the state of the prompt's last token predicts the first token of an identifier. The prompt
is the root of the tree of its identifiers' prefixes (see `causal_rows`), so each of them is read once. Where a model
does not take the mask that this needs, each identifier is a sequence with the prompt in front.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dgr_trainer.errors import DGRValueError
from dgr_trainer.student.causal_masks import mask_obstacle, packed_masks
from dgr_trainer.student.causal_rows import causal_rows, chains, without_left_padding
from dgr_trainer.student.causal_steps import CopiedPromptSteps, RereadingSteps, SharedPromptSteps
from dgr_trainer.student.decoding_ways import DecodingWay, known_way
from dgr_trainer.student.forward_pass import Targets, predict, predict_plainly
from dgr_trainer.student.loading import causal_logits
from dgr_trainer.student.model_facts import model_device, underlying_model
from dgr_trainer.student.packing import IGNORED
from dgr_trainer.student.scored_tokens import ScoringWay, TokenScores, scores_of

# Names of the tables of learned positions; rotary positions have no last one.
_POSITION_TABLES = ("wpe", "embed_positions", "position_embeddings")

_STEPS: dict[str, type[SharedPromptSteps] | type[CopiedPromptSteps] | type[RereadingSteps]] = {
    "shared": SharedPromptSteps,
    "copied": CopiedPromptSteps,
    "reread": RereadingSteps,
}


class CausalStudent:
    """A [`Student`] that is a causal language model.

    Args:
        model (`nn.Module`): The model, wrapped or not, with or without adapters.
    """

    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    peft_task: ClassVar[str] = "CAUSAL_LM"
    example: ClassVar[str] = "Qwen3, Llama or GPT-2"
    reads_closed_prompts: ClassVar[bool] = False
    decoding_ways: ClassVar[tuple[DecodingWay, ...]] = ("shared", "copied", "reread")
    may_look_ahead: ClassVar[bool] = True

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.base: Any = underlying_model(model)

    @staticmethod
    def few_logits(model: Any, /) -> Tensor:
        """See [`Student`]."""
        return causal_logits(model)

    @property
    def start_token_id(self) -> int | None:
        """There is none: the prompt's last token stands before the first token of an identifier."""
        return None

    def identifier_limit(self, prompt_tokens: int) -> int | None:
        """The longest identifier in tokens: the positions of the model that a prompt leaves, and one more.

        The last token of an identifier is predicted, but not read. Rotary positions have no end.
        """
        limit = getattr(self.base.config, "max_position_embeddings", None)
        decoder = self.base.get_decoder()
        learned = any(isinstance(getattr(decoder, name, None), nn.Embedding) for name in _POSITION_TABLES)
        return max(0, limit - prompt_tokens + 1) if learned and isinstance(limit, int) else None

    def packing_obstacle(self) -> str | None:
        """See [`Student`]."""
        return mask_obstacle(self.base)

    def loses_positions(self) -> bool:
        """See [`Student`]: positions are an input of the model, so they are never lost."""
        return False

    def embedding_inputs(self, ids: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """See [`Student`]."""
        tokens = ids[[0, 0, 0]][None]
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}, {"decoder": tokens}

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
        present = rows["segments"] >= 0
        if way == "packed":
            inputs, cells, _ = self._packed(input_ids, attention_mask, rows, tokens_at_once)
            states = cells[rows["scored_prefixes"].flatten()]
            targets = Targets(states, rows["label_prefixes"].flatten(), rows["labels"].clamp(min=0).flatten())
        else:
            inputs, targets = one_identifier_a_row(input_ids, attention_mask, rows)
        return scores_of(self._predicted(inputs, targets, way, tokens_at_once), present)

    def _packed(
        self, input_ids: Tensor, attention_mask: Tensor, rows: Mapping[str, Tensor], tokens_at_once: int | None
    ) -> tuple[dict[str, Any], Tensor, int]:
        """Inputs of the model, the flat cell of each prefix of the packed rows, and how many prefixes there are."""
        hidden_size = self.base.config.get_text_config().hidden_size
        made = causal_rows(input_ids, attention_mask, rows, hidden_size=hidden_size, tokens_at_once=tokens_at_once)
        inputs = {
            "input_ids": made.tokens,
            "attention_mask": packed_masks(self.base, made.ends, made.positions),
            "position_ids": made.positions,
        }
        return inputs, made.cells, made.num_prefixes

    def _predicted(
        self, inputs: dict[str, Any], targets: Targets, way: ScoringWay, tokens_at_once: int | None
    ) -> tuple[Tensor, Tensor]:
        if way == "plain":
            return predict_plainly(self.model, inputs, targets)
        return predict(self.model, inputs, targets, tokens_at_once=tokens_at_once)

    def score_pairs(
        self, batch: Mapping[str, Tensor], way: ScoringWay, *, tokens_at_once: int | None = None
    ) -> TokenScores:
        """See [`Student`]: labels are read after their prompt, and only they are predicted."""
        labels, present = batch["labels"], batch["labels"] >= 0
        if way == "packed":
            inputs, cells, num_prefixes = self._packed(
                batch["input_ids"], batch["attention_mask"], chains(labels), tokens_at_once
            )
            # Not those before padding: where labels differ in length, they would be most of the logits.
            firsts = torch.arange(0, labels.numel(), labels.shape[1], device=labels.device)[:, None]
            prefixes = (firsts + present.cumsum(-1) - 1).clamp(min=0).flatten()
            prefixes = prefixes[(~present).flatten().to(torch.int8).argsort(stable=True)[:num_prefixes]]
            sources = (present.flatten().cumsum(0) - 1).clamp(min=0)
            targets = Targets(cells[prefixes], sources, labels.clamp(min=0).flatten())
        else:
            inputs, targets = pair_rows(batch)
        return scores_of(self._predicted(inputs, targets, way, tokens_at_once), present)

    def pairs_are_joined(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> bool:
        """See [`Student`]: other trainers of causal models take the labels among `input_ids`, in the same places."""
        return bool(pairs) and all(
            len(ids) == len(labels)
            and all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))
            for ids, labels in pairs
        )

    def next_log_probabilities(self, prompt: Sequence[int], ids: Sequence[int]) -> Tensor:
        """See [`Student`]."""
        tokens = torch.tensor([[*prompt, *ids]], device=model_device(self.base))
        outputs = self.model(
            input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False, return_dict=True
        )
        log_p: Tensor = outputs.logits[0, len(prompt) - 1 :].float().log_softmax(-1)
        return log_p

    def prefill(
        self, prompts: list[list[int]], *, way: DecodingWay | None = None
    ) -> SharedPromptSteps | CopiedPromptSteps | RereadingSteps:
        """See [`Student`]."""
        way = way or known_way(self.base)
        if way is None:  # It was not tried, for example because its weights are sharded.
            way = "copied" if mask_obstacle(self.base) else "shared"
        return _STEPS[way](self.model, prompts)


def one_identifier_a_row(
    input_ids: Tensor, attention_mask: Tensor, rows: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Targets]:
    """Unpack to one sequence per identifier, prompt and identifier, padded on the right: inputs and [`Targets`]."""
    labels, present = rows["labels"], rows["segments"] >= 0
    width = rows["prefix_tokens"].shape[-1]
    prefixes = rows["scored_prefixes"].flatten()[rows["label_prefixes"]]
    depths = rows["prefix_depths"].flatten()[prefixes]
    prompts = rows["row_prompts"].flatten()[prefixes // width]
    starts = present & (depths == 0)
    if not starts.any():
        starts[0, 0] = True  # A row with nothing but a prompt, so that all processes run the model.
    lengths = attention_mask.sum(-1)
    _check_lengths(lengths[prompts[starts]])
    row_numbers = (starts.flatten().cumsum(0).view_as(starts) - 1).clamp(min=0)
    columns = lengths[prompts] - 1 + depths
    row_prompts = prompts[starts]
    size = max(int(columns.max()) + 1, int(lengths.max()))
    tokens = input_ids.new_zeros(len(row_prompts), size)
    ordered = without_left_padding(input_ids, attention_mask)
    tokens[:, : ordered.shape[1]] = ordered[row_prompts]
    seen = torch.zeros_like(tokens)
    seen[:, : ordered.shape[1]] = torch.arange(ordered.shape[1], device=seen.device) < lengths[row_prompts, None]
    follows = present & (depths > 0)  # The tokens that the model reads after the prompt.
    tokens[row_numbers[follows], columns[follows]] = labels.clamp(min=0).roll(1, dims=-1)[follows]
    seen[row_numbers[follows], columns[follows]] = 1
    scored = (row_numbers * size + columns).flatten()
    sources = torch.arange(scored.numel(), device=scored.device)
    return {"input_ids": tokens, "attention_mask": seen}, Targets(scored, sources, labels.clamp(min=0).flatten())


def _check_lengths(lengths: Tensor) -> None:
    if bool((lengths == 0).any()):
        raise DGRValueError(
            "A prompt has no tokens, so a model without an encoder has nothing to predict the first token of an "
            "identifier from. Give each row of input_ids at least one token, such as the tokenizer's BOS."
        )


def pair_rows(batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Targets]:
    """A row for each pair, the prompt and its labels, padded on the right: inputs and [`Targets`]."""
    labels, present = batch["labels"].clamp(min=0), batch["labels"] >= 0
    lengths = batch["attention_mask"].sum(-1, keepdim=True)
    prompts = without_left_padding(batch["input_ids"], batch["attention_mask"])
    _check_lengths(lengths)
    size = prompts.shape[1] + labels.shape[1]
    # The place of each label in its row, wherever it was padded; one more place takes the padding.
    places = torch.where(present, lengths + present.cumsum(-1) - 1, size)
    tokens = torch.nn.functional.pad(prompts, (0, labels.shape[1] + 1)).scatter(1, places, labels)[:, :size]
    seen = torch.arange(size, device=tokens.device) < lengths + present.sum(-1, keepdim=True)
    numbers = torch.arange(len(tokens), device=tokens.device)[:, None] * size
    scored = (numbers + torch.where(present, places - 1, 0)).flatten()
    sources = torch.arange(scored.numel(), device=scored.device)
    return {"input_ids": tokens, "attention_mask": seen.long()}, Targets(scored, sources, labels.flatten())
