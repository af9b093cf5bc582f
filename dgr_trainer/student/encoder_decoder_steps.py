"""Runs an encoder-decoder student step by step: the encoder reads the prompts once, the decoder a token at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import EncoderDecoderCache

from dgr_trainer.errors import DGRValueError
from dgr_trainer.student.forward_arguments import cache_argument
from dgr_trainer.student.model_facts import model_device, start_token_id


class EncoderDecoderSteps:
    """Runs a model's decoder step by step. See [`Steps`].

    Args:
        model ([`~transformers.PreTrainedModel`]): An encoder-decoder model in generation mode.
        prompts (`list[list[int]]`): Token ids of the encoder's inputs. Each is one row of the first step.
        cached (`bool`): Whether to use the decoder's cache; without it, each step reads all tokens again.

    Attributes:
        scores (`torch.Tensor` of float32, shape `(prompts, vocabulary)`): Log-probabilities of the first token.
    """

    def __init__(self, model: Any, prompts: list[list[int]], *, cached: bool) -> None:
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
        self._cached = cached
        self._cache: Any = None
        self._cache_name = cache_argument(model)
        # What each row has read, if it has to be read again.
        self._tokens = torch.empty(len(prompts), 0, dtype=torch.long, device=self.device)
        self._prompt_rows = np.arange(len(prompts))
        self._rows = self._states, self._mask
        self.scores = self.step(self._prompt_rows, np.full(len(prompts), start_token_id(model)))

    def step(self, parents: np.ndarray, tokens: np.ndarray) -> Tensor:
        """Read one token per row; see [`Steps`].

        Raises:
            ValueError: if the model returns no encoder-decoder cache.
        """
        read = torch.from_numpy(tokens).to(self.device)[:, None]
        rows = torch.from_numpy(parents).to(self.device)
        self._reorder(parents, rows)
        states, mask = self._rows
        arguments = {"decoder_input_ids": read, "use_cache": True, self._cache_name: self._cache}
        if not self._cached:
            self._tokens = torch.cat([self._tokens[rows], read], dim=1)
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

    def _reorder(self, parents: np.ndarray, rows: Tensor) -> None:
        prompt_rows = self._prompt_rows[parents]
        # Beams of a prompt share its encoder states.
        same = np.array_equal(prompt_rows, self._prompt_rows)
        if self._cache is not None:
            (self._cache.self_attention_cache if same else self._cache).reorder_cache(rows)
        if not same:
            prompts = torch.from_numpy(prompt_rows).to(self.device)
            self._rows = self._states[prompts], self._mask[prompts]
            self._prompt_rows = prompt_rows
