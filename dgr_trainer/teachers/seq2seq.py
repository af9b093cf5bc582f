"""Sequence-to-sequence rerankers as teachers: monoT5 and similar models, which answer with their first token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

import numpy as np

from dgr_trainer.teachers.answer_teacher import AnswerTeacher
from dgr_trainer.teachers.prompts import PROMPTS, Prompt


@dataclass(eq=False, repr=False)
class Seq2SeqTeacher(AnswerTeacher):
    """Ranks candidates by the first token that a sequence-to-sequence model would generate.

    The score is the log-odds of "true" against "false", which orders passages as monoT5's log-probability does.

    Args:
        model_name_or_path (`str` or `os.PathLike`): A model that `AutoModelForSeq2SeqLM` loads.
        corpus (`Corpus`): The passages.
        prompt ([`Prompt`] or `str`, *optional*, defaults to `"monot5"`): The encoder's input and the two answers. Some
            multilingual models were trained on other answers: `Prompt(MONOT5.segments, yes="yes", no="no")`.
        max_length (`int`, *optional*, defaults to 512): Number of tokens at which inputs are cut; only passages, and
            queries that leave no room for them, are cut.
        dtype (`str`, *optional*, defaults to `"float32"`): `"float32"`, `"bfloat16"` or `"float16"`.
        batch_tokens (`int`, *optional*, defaults to 2048 on a CPU, else 16384): Maximum number of tokens of a batch,
            padding included. Inputs of similar length share a batch.
        compile (`bool`, *optional*, defaults to `False`): Whether to compile the model (`torch.compile`).
        device (`str`, *optional*): As for [`CrossEncoderTeacher`].
        model_kwargs (`Mapping[str, Any]`, *optional*): Additional arguments of `from_pretrained`.
        cache (`str` or `os.PathLike`, *optional*): As for [`CrossEncoderTeacher`].
        progress (`bool`, *optional*, defaults to `True`): Whether to show a progress bar.
        results_on (`str`, *optional*, defaults to `"all"`): Which of several processes return the rankings: `"all"`,
            or only the `"main"` one.

    Raises:
        ValueError: if an answer is not one token of the model, the prompt does not fit, or a setting is out of range.

    Source: Nogueira, Jiang, Pradeep and Lin (2020), "Document Ranking with a Pretrained Sequence-to-Sequence Model".

    Example:

    ```python
    rankings = Seq2SeqTeacher("castorini/monot5-base-msmarco", corpus).rank(queries, candidates)
    ```
    """

    auto_class: ClassVar[str] = "AutoModelForSeq2SeqLM"
    input_ends: ClassVar[bool] = True

    prompt: Prompt | str = field(
        default="monot5", metadata={"help": "Prompt that the model answers.", "choices": tuple(PROMPTS)}
    )
    _: KW_ONLY
    max_length: int | None = field(default=512, metadata={"help": "Tokens at which inputs are cut."})

    def __post_init__(self) -> None:
        super().__post_init__()
        from dgr_trainer.student.model_facts import start_token_id

        self._start = start_token_id(self.model)

    def _example_logits(self, model: Any) -> Any:
        from dgr_trainer.student.loading import seq2seq_logits

        return seq2seq_logits(model)

    def score(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """Return the log-odds of the two answers as the first token."""
        outputs = self._run(
            input_ids=self._padded(batch, self._padding_id or 0),
            attention_mask=self._padded([np.ones(len(ids)) for ids in batch], 0),
            decoder_input_ids=self._padded([np.array([self._start])] * len(batch), self._start)[:, :1],
            use_cache=False,
        )
        return self._answer_scores(outputs.logits[:, 0])
