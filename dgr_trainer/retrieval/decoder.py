"""Runs a student's decoder step by step."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import EncoderDecoderCache

from dgr_trainer.errors import DGRValueError
from dgr_trainer.student.generation_mode import generation_mode
from dgr_trainer.student.model_facts import model_device, start_token_id, underlying_model
from dgr_trainer.student.probing import log_probabilities, samples, tolerance
from dgr_trainer.student.sharding import is_sharded

logger = logging.getLogger(__name__)

_FOUND = "_dgr_decodes_with_cache"


class Decoder:
    """Runs a model's decoder step by step, with its cache if it has one that works.

    Args:
        model ([`~transformers.PreTrainedModel`]): An encoder-decoder model in generation mode.
        prompts (`list[list[int]]`): Token ids of the encoder's inputs. Each is one row of the first step.
        cached (`bool`, *optional*):
            Whether to use the cache; without it, each step reads all tokens again. By default what
            `decodes_with_cache` has found.
    """

    def __init__(self, model: Any, prompts: list[list[int]], *, cached: bool | None = None) -> None:
        self.model = model
        self.device = model_device(model)
        width = max(map(len, prompts))
        pad = model.config.pad_token_id or 0
        ids = torch.tensor([ids + [pad] * (width - len(ids)) for ids in prompts], device=self.device)
        mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in prompts], device=self.device)
        encoded = model.get_encoder()(input_ids=ids, attention_mask=mask, return_dict=True)
        self._encoder_outputs = type(encoded)
        self._states = encoded[0]
        self._mask = mask
        self._cached = vars(model).get(_FOUND, True) if cached is None else cached
        self._cache: Any = None
        # transformers 5.24 renamed the argument.
        parameters = inspect.signature(type(model).forward).parameters
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"
        self._tokens = torch.empty(0, dtype=torch.long, device=self.device)
        self._prompt_rows = np.arange(len(prompts))
        self._rows = self._states, self._mask

    def step(self, parents: np.ndarray, tokens: np.ndarray) -> Tensor:
        """Read one token per row.

        Args:
            parents (`np.ndarray` of int64, shape `(rows,)`): The row of the previous step that each row extends. Not
                used in the first step.
            tokens (`np.ndarray` of int64, shape `(rows,)`): The tokens.

        Returns:
            `torch.Tensor` of float32, shape `(rows, vocabulary)`: log-probabilities of the next token.

        Raises:
            ValueError: if the model returns no encoder-decoder cache.
        """
        read = torch.from_numpy(tokens).to(self.device)[:, None]
        if self._tokens.numel():
            self._reorder(parents)
            self._tokens = torch.cat([self._tokens[torch.from_numpy(parents).to(self.device)], read], dim=1)
        else:
            self._tokens = read
        states, mask = self._rows
        arguments = {"decoder_input_ids": read, "use_cache": True, self._cache_name: self._cache}
        if not self._cached:
            arguments = {
                "decoder_input_ids": self._tokens,
                "decoder_attention_mask": torch.ones_like(self._tokens),
                "use_cache": False,
            }
        outputs = self.model(
            encoder_outputs=self._encoder_outputs(last_hidden_state=states),
            attention_mask=mask,
            return_dict=True,
            **arguments,
        )
        if self._cached:
            self._cache = getattr(outputs, self._cache_name)
            if not isinstance(self._cache, EncoderDecoderCache):
                raise DGRValueError(f"{type(self.model).__name__} does not return an EncoderDecoderCache.")
        logits: Tensor = outputs.logits[:, -1]
        return logits.float().log_softmax(dim=-1)

    def _reorder(self, parents: np.ndarray) -> None:
        rows = torch.from_numpy(parents).to(self.device)
        prompt_rows = self._prompt_rows[parents]
        if np.array_equal(prompt_rows, self._prompt_rows):  # Beams of a prompt share its encoder states.
            if self._cached:
                self._cache.self_attention_cache.reorder_cache(rows)
            return
        if self._cached:
            self._cache.reorder_cache(rows)
        prompts = torch.from_numpy(prompt_rows).to(self.device)
        self._rows = self._states[prompts], self._mask[prompts]
        self._prompt_rows = prompt_rows


def decodes_with_cache(model: nn.Module) -> bool:
    """Find out whether a model's decoder gives the same log-probabilities step by step as it does at once.

    The first call takes a few steps, which takes some milliseconds, and remembers the result. A model whose weights
    are sharded is not tried.

    Args:
        model (`nn.Module`): An encoder-decoder model, wrapped or not.

    Returns:
        `bool`: whether its cache can be used; if not, each step has to read all tokens.

    Raises:
        ValueError: if the model cannot generate step by step.
    """
    base = underlying_model(model)
    if _FOUND in vars(base) or is_sharded(base) or any(parameter.is_meta for parameter in base.parameters()):
        return bool(vars(base).get(_FOUND, True))
    name = type(base).__name__
    reasons = []
    with generation_mode(model) as student:
        for cached in (True, False):
            try:
                difference = _largest_difference(student, cached)
            except Exception as error:
                reasons.append(f"{type(error).__name__}: {error}")
                continue
            if difference is None:
                break
            reasons.append(f"log-probabilities that are off by {difference:.2g}")
        else:
            raise DGRValueError(
                f"{name} cannot generate step by step: with its cache it gives {reasons[0]}; without it, "
                f"{reasons[1]}. Use another model, such as BART or T5."
            )
    vars(base)[_FOUND] = cached
    if not cached:
        logger.warning(
            "The decoder cache of %s cannot be used for search (%s), so each step reads all tokens again: the results "
            "are the same, but it is slower than a model such as BART or T5.",
            name,
            reasons[0],
        )
    return cached


def _largest_difference(student: Any, cached: bool) -> float | None:
    """How far three steps are from the log-probabilities of ordinary calls; `None` if by rounding only."""
    sample, start = samples(student), start_token_id(student)
    a, b, c = sample.identifiers[0][1][:3]
    steps = [  # Rows that change places and prompts that lose or gain rows, as in a search.
        ([0, 1], [start, start]),
        ([1, 0, 0], [b, a, b]),
        ([2, 1, 0, 0], [c, c, a, b]),
        ([1, 3], [a, c]),
    ]
    decoder = Decoder(student, sample.prompts, cached=cached)
    rows: list[tuple[int, list[int]]] = [(prompt, []) for prompt in range(len(sample.prompts))]
    largest = 0.0
    for parents, tokens in steps:
        rows = [(rows[parent][0], [*rows[parent][1], token]) for parent, token in zip(parents, tokens, strict=True)]
        actual = decoder.step(np.array(parents), np.array(tokens)).cpu()
        for row, (prompt, inputs) in enumerate(rows):
            expected = log_probabilities(student, sample.prompts[prompt], inputs)[-1].cpu()
            difference = (actual[row] - expected).abs()
            difference[(actual[row] == expected) | (difference <= tolerance(student, expected))] = 0.0
            largest = max(largest, float(difference.max()))
    return largest or None
