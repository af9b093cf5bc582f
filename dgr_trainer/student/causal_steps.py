"""Runs a causal student step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgr_trainer.student.model_facts import model_device


class RereadingSteps:
    """Runs a causal model step by step; each step reads the prompt and all tokens again. See [`Steps`].

    Args:
        model ([`~transformers.PreTrainedModel`]): A causal model in generation mode.
        prompts (`list[list[int]]`): Token ids of the prompts.

    Attributes:
        scores (`torch.Tensor` of float32, shape `(prompts, vocabulary)`): Log-probabilities of the first token.
    """

    def __init__(self, model: Any, prompts: list[list[int]]) -> None:
        self.model = model
        self._rows = [list(prompt) for prompt in prompts]
        self.scores = self._read()

    def step(self, parents: np.ndarray, tokens: np.ndarray) -> Tensor:
        """Read one token per row; see [`Steps`]."""
        self._rows = [[*self._rows[parent], token] for parent, token in zip(parents, tokens.tolist(), strict=True)]
        return self._read()

    def _read(self) -> Tensor:
        width = max(map(len, self._rows))
        device = model_device(self.model)
        ids = torch.tensor([row + [0] * (width - len(row)) for row in self._rows], device=device)
        lengths = torch.tensor([len(row) for row in self._rows], device=device)
        mask = (torch.arange(width, device=device) < lengths[:, None]).long()
        logits: Tensor = self.model(input_ids=ids, attention_mask=mask, use_cache=False, return_dict=True).logits
        return logits[torch.arange(len(ids), device=device), lengths - 1].float().log_softmax(dim=-1)
