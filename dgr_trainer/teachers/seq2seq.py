"""Sequence-to-sequence rerankers as teachers: monoT5 and its kind, whose first word is the judgement."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.teachers.answer_teacher import AnswerTeacher
from dgr_trainer.teachers.templates import MONOT5, Prompt


class Seq2SeqTeacher(AnswerTeacher):
    """Ranks candidates by the first token that a sequence-to-sequence model would write.

    The score is the log-odds of "true" against "false", which orders passages as monoT5's log-probability does.

    Args:
        model_name_or_path (`str` or `os.PathLike`): a model that `AutoModelForSeq2SeqLM` loads.
        corpus (`Corpus`): the passages.
        prompt (`Prompt` or `str`, *optional*, defaults to monoT5's): what the encoder reads, and the two answers.
            Multilingual models were trained on others, such as `Prompt(MONOT5.segments, yes="yes", no="no")`.
        max_length (`int`, *optional*, defaults to 512): tokens of an input; longer passages are cut.
        dtype (`str`, *optional*, defaults to `"float32"`): `"float32"`, `"bfloat16"` or `"float16"`.
        batch_tokens (`int`, *optional*, defaults to 2048 on a CPU, else 16384): tokens of a forward pass at most,
            padding included. Inputs of like length go together.
        compile (`bool`, *optional*, defaults to `False`): whether to compile the model (`torch.compile`).
        device (`str`, *optional*): as for [`CrossEncoderTeacher`].
        model_kwargs (`Mapping[str, Any]`, *optional*): further arguments of `from_pretrained`.
        progress (`bool`, *optional*, defaults to `True`): whether to show a progress bar.

    Raises:
        ValueError: if an answer is not one token of the model, the prompt does not fit, or a setting is out of range.

    Source: Nogueira, Jiang, Pradeep and Lin (2020), "Document Ranking with a Pretrained Sequence-to-Sequence Model".

    Example:

    ```python
    rankings = Seq2SeqTeacher("castorini/monot5-base-msmarco", corpus).rank(queries, candidates)
    ```
    """

    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str],
        corpus: Corpus,
        prompt: Prompt | str = MONOT5,
        max_length: int | None = 512,
        dtype: str = "float32",
        batch_tokens: int | None = None,
        compile: bool = False,
        device: str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        progress: bool = True,
    ):
        from transformers import AutoModelForSeq2SeqLM

        super().__init__(
            model_name_or_path,
            corpus,
            AutoModelForSeq2SeqLM,
            prompt,
            ends=True,
            max_length=max_length,
            dtype=dtype,
            batch_tokens=batch_tokens,
            compile=compile,
            device=device,
            model_kwargs=model_kwargs,
            progress=progress,
        )

    def score(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """The log-odds of the first token."""
        start = self.model.config.decoder_start_token_id
        outputs = self._run(
            input_ids=self._padded(batch, self.tokenizer.pad_token_id),
            attention_mask=self._padded([np.ones(len(ids)) for ids in batch], 0),
            decoder_input_ids=self._padded([np.array([start])] * len(batch), start)[:, :1],
            use_cache=False,
        )
        return self._answer_scores(outputs.logits[:, 0])
