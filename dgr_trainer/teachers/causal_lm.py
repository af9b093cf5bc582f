"""Causal language models as teachers: those that answer yes or no to whether a passage is relevant."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.teachers.answer_teacher import AnswerTeacher
from dgr_trainer.teachers.templates import QWEN3_RERANKER, Prompt


class CausalLMTeacher(AnswerTeacher):
    """Ranks candidates by whether a causal language model would answer yes.

    The score is the log-odds of yes against no, or the logit of yes where the prompt names no answer for no.

    Args:
        model_name_or_path (`str` or `os.PathLike`): a model that `AutoModelForCausalLM` loads.
        corpus (`Corpus`): the passages.
        prompt (`Prompt` or `str`, *optional*, defaults to Qwen3-Reranker's): `"qwen3-reranker"`,
            `"bge-reranker-gemma"`, or a [`~teachers.templates.Prompt`] of your own for any instructed model.
        max_length (`int`, *optional*, defaults to 1024): tokens of an input; longer passages are cut.
        dtype (`str`, *optional*, defaults to `"float32"`): `"float32"`, `"bfloat16"` or `"float16"`.
        batch_tokens (`int`, *optional*, defaults to 2048 on a CPU, else 16384): tokens of a forward pass at most,
            padding included. Inputs of like length go together.
        compile (`bool`, *optional*, defaults to `False`): whether to compile the model (`torch.compile`).
        device (`str`, *optional*): as for [`CrossEncoderTeacher`]. A model that needs several devices takes
            `model_kwargs={"device_map": "auto"}` instead.
        model_kwargs (`Mapping[str, Any]`, *optional*): further arguments of `from_pretrained`.
        progress (`bool`, *optional*, defaults to `True`): whether to show a progress bar.

    Raises:
        ValueError: if an answer is not one token of the model, the prompt does not fit, or a setting is out of range.

    Example:

    ```python
    teacher = CausalLMTeacher("Qwen/Qwen3-Reranker-0.6B", corpus, dtype="bfloat16")
    rankings = teacher.rank(queries, candidates.top(50), cache="scores")
    ```
    """

    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str],
        corpus: Corpus,
        prompt: Prompt | str = QWEN3_RERANKER,
        max_length: int | None = 1024,
        dtype: str = "float32",
        batch_tokens: int | None = None,
        compile: bool = False,
        device: str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        progress: bool = True,
    ):
        from transformers import AutoModelForCausalLM

        super().__init__(
            model_name_or_path,
            corpus,
            AutoModelForCausalLM,
            prompt,
            ends=False,
            max_length=max_length,
            dtype=dtype,
            batch_tokens=batch_tokens,
            compile=compile,
            device=device,
            model_kwargs=model_kwargs,
            progress=progress,
        )
        parameters = inspect.signature(self.model.forward).parameters
        # Logits of the whole vocabulary are needed at the last token only.
        self._options = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
        self._counts_positions = "position_ids" in parameters

    def score(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """The log-odds of the answer."""
        # Padded on the left, so that all prompts end at the same place.
        mask = self._padded([np.ones(len(ids)) for ids in batch], 0, left=True)
        inputs = {
            "input_ids": self._padded(batch, self.tokenizer.pad_token_id or 0, left=True),
            "attention_mask": mask,
            **self._options,
        }
        if self._counts_positions:
            inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        return self._answer_scores(self._run(**inputs, use_cache=False).logits[:, -1])
