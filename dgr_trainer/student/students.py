"""Students: what the library asks of a model, and the one place that chooses how a model is asked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import transformers
from torch import Tensor, nn

from dgr_trainer.errors import DGRValueError
from dgr_trainer.student.causal import CausalStudent
from dgr_trainer.student.decoding_ways import DecodingWay
from dgr_trainer.student.encoder_decoder import EncoderDecoderStudent
from dgr_trainer.student.loading import load_model
from dgr_trainer.student.model_facts import underlying_model
from dgr_trainer.student.scored_tokens import ScoringWay, TokenScores


class Steps(Protocol):
    """A search of a student, which reads a token per row at each step.

    Attributes:
        scores (`torch.Tensor` of float32, shape `(prompts, vocabulary)`):
            Log-probabilities of the first token after each prompt: these are the rows that the first step extends.
    """

    scores: Tensor

    def step(self, parents: np.ndarray, tokens: np.ndarray) -> Tensor:
        """Read one token per row.

        Args:
            parents (`np.ndarray` of int64, shape `(rows,)`): The row of the previous step that each row extends.
            tokens (`np.ndarray` of int64, shape `(rows,)`): The tokens.

        Returns:
            `torch.Tensor` of float32, shape `(rows, vocabulary)`: log-probabilities of the next token.
        """
        ...


class Student(Protocol):
    """What the library asks of a model. It holds no state but the model, so make one wherever it is needed.

    Attributes:
        auto_class (`str`): Name of the class of transformers that loads such a model.
        peft_task (`str`): The task type of its adapters.
        example (`str`): Models of this kind, for errors.
        reads_closed_prompts (`bool`): Whether prompts may end with the end of sequence.
        decoding_ways (`tuple[str, ...]`): How it may be run step by step, the fastest first.
        may_look_ahead (`bool`): Whether transformers also loads models of this kind whose attention is not causal.
        model (`nn.Module`): The model as it was given: wrapped or not, with or without adapters.
        base ([`~transformers.PreTrainedModel`]): The model inside.
    """

    auto_class: ClassVar[str]
    peft_task: ClassVar[str]
    example: ClassVar[str]
    reads_closed_prompts: ClassVar[bool]
    decoding_ways: ClassVar[tuple[DecodingWay, ...]]
    may_look_ahead: ClassVar[bool]
    model: nn.Module
    base: Any

    @staticmethod
    def few_logits(model: Any, /) -> Tensor:
        """The logits of a model for a few tokens, see `loading.load_model`."""
        ...

    @property
    def start_token_id(self) -> int | None:
        """The token that a decoder reads before the first token of an identifier; `None` if the prompt stands there.

        Raises:
            ValueError: if the model needs one, and its configuration names none.
        """
        ...

    def identifier_limit(self, prompt_tokens: int) -> int | None:
        """The longest identifier, in tokens, after a prompt of so many; `None` if its positions have no end."""
        ...

    def packing_obstacle(self) -> str | None:
        """Why the model cannot score several identifiers in one row; `None` if nothing speaks against it.

        Raises:
            ValueError: if another attention implementation would do.
        """
        ...

    def loses_positions(self) -> bool:
        """Whether the backward pass would compute the positions of packed identifiers again, and wrongly."""
        ...

    def embedding_inputs(self, ids: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Inputs of a forward pass on some tokens.

        Args:
            ids (`torch.LongTensor` of shape `(n,)`): Token ids, of which it may use some.

        Returns:
            `tuple`: the inputs, by name, and the ids that are looked up in each of the embeddings that the model
            reads: `"encoder"`, if there is one, and `"decoder"`.
        """
        ...

    def score(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        rows: Mapping[str, Tensor],
        way: ScoringWay,
        *,
        tokens_at_once: int | None = None,
    ) -> TokenScores:
        """Log-probabilities of the tokens of packed identifiers by one forward pass of the wrapped model.

        Args:
            input_ids (`torch.LongTensor` of shape `(P, L)`): Prompts.
            attention_mask (`torch.LongTensor` of shape `(P, L)`): 1 where a prompt has a token.
            rows (`Mapping[str, torch.LongTensor]`): The arrays of [`PackedIdentifiers`], by name; others are ignored.
            way (`str`): `"packed"`, `"rows"` or `"plain"`; `scoring_way` knows which is right for the model.
            tokens_at_once (`int`, *optional*):
                Most tokens of the decoder, padding included, whose activations are kept for the backward pass (see
                `decoder_rows`). By default those of all rows. Has no effect on `"plain"`.

        Returns:
            [`TokenScores`] of shape `(B, C)`.

        Raises:
            ValueError: if the attention implementation of the model does not support the mask, or it has no start
                token.
        """
        ...

    def score_pairs(
        self, batch: Mapping[str, Tensor], way: ScoringWay, *, tokens_at_once: int | None = None
    ) -> TokenScores:
        """Log-probabilities of the label tokens of ordinary pairs by one forward pass of the wrapped model.

        Args:
            batch (`Mapping[str, torch.Tensor]`): `input_ids`, `attention_mask` and `labels` (negative for padding).
            way (`str`): How identifiers are scored; all but `"plain"` compute logits in pieces, and `"packed"` may
                put many pairs into a row.
            tokens_at_once (`int`, *optional*): See `score`.

        Returns:
            [`TokenScores`] of shape `(B, T)`.
        """
        ...

    def pairs_are_joined(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> bool:
        """Whether the labels of some pairs, `(input_ids, labels)`, are among their inputs, which gives them away."""
        ...

    def next_log_probabilities(self, prompt: Sequence[int], ids: Sequence[int]) -> Tensor:
        """Log-probabilities of the token after a prompt and after each token of an identifier, by one ordinary call.

        Returns:
            `torch.Tensor` of float32, shape `(len(ids) + 1, vocabulary)`.
        """
        ...

    def prefill(self, prompts: list[list[int]], *, way: DecodingWay | None = None) -> Steps:
        """Read prompts, each of which is one row of the first step of a search.

        Args:
            prompts (`list[list[int]]`): Token ids, without padding.
            way (`str`, *optional*): One of `decoding_ways`; by default the one that was found to work.

        Returns:
            [`Steps`]: the search. The model has to be in generation mode, and stay in it.
        """
        ...


def student_class(config: Any) -> type[EncoderDecoderStudent] | type[CausalStudent]:
    """The kind of student that a model with this configuration is."""
    return EncoderDecoderStudent if getattr(config, "is_encoder_decoder", False) else CausalStudent


def student_of(model: nn.Module) -> Student:
    """The student that a model is.

    Args:
        model (`nn.Module`): The model, wrapped or not, with or without adapters.

    Returns:
        [`Student`]: which holds the model as it was given.

    Raises:
        ValueError: if the model generates no text.
    """
    base = underlying_model(model)
    if not hasattr(base, "config") or not hasattr(base, "generate"):
        raise DGRValueError(
            f"{type(base).__name__} is not an encoder-decoder model that can generate, nor a causal language model. "
            f"Load the student with {EncoderDecoderStudent.auto_class} ({EncoderDecoderStudent.example}) or "
            f"{CausalStudent.auto_class} ({CausalStudent.example})."
        )
    kind: Any = student_class(base.config)
    student: Student = kind(model)
    return student


def load_student_model(name: str | os.PathLike[str], **arguments: Any) -> Any:
    """Load the model of a student with all its weights; its configuration says of which kind it is.

    Args:
        name (`str` or `os.PathLike`): A folder or a name on the hub.
        **arguments: Passed on to `from_pretrained`.

    Returns:
        [`~transformers.PreTrainedModel`]: the model.

    Raises:
        ValueError: if weights are missing, see `load_model`.
    """
    names = ("revision", "token", "cache_dir", "subfolder", "local_files_only", "force_download")
    of_hub = {name: arguments[name] for name in names if name in arguments}
    config = arguments.get("config") or transformers.AutoConfig.from_pretrained(
        name, trust_remote_code=arguments.get("trust_remote_code"), **of_hub
    )
    kind = student_class(config)
    return load_model(getattr(transformers, kind.auto_class), name, kind.few_logits, **arguments)
