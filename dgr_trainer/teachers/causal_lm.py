"""Causal language models as teachers: they answer yes or no to whether a passage is relevant."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

import numpy as np

from dgr_trainer.teachers.answer_teacher import AnswerTeacher
from dgr_trainer.teachers.prompts import PROMPTS, Prompt


@dataclass(eq=False, repr=False)
class CausalLMTeacher(AnswerTeacher):
    """Ranks candidates by whether a causal language model would answer yes.

    The score is the log-odds of yes against no, or the logit of yes if the prompt has no second answer.

    Args:
        model_name_or_path (`str` or `os.PathLike`): A model that `AutoModelForCausalLM` loads.
        corpus (`Corpus`): The passages.
        prompt ([`Prompt`] or `str`, *optional*, defaults to `"qwen3-reranker"`): `"qwen3-reranker"`,
            `"bge-reranker-gemma"`, or any [`Prompt`] for an instructed model.
        max_length (`int`, *optional*, defaults to 1024): Number of tokens at which inputs are cut; only passages, and
            queries that leave no room for them, are cut.
        dtype (`str`, *optional*, defaults to `"float32"`): `"float32"`, `"bfloat16"` or `"float16"`.
        batch_tokens (`int`, *optional*, defaults to 2048 on a CPU, else 16384): Maximum number of tokens of a batch,
            padding included. Inputs of similar length share a batch.
        compile (`bool`, *optional*, defaults to `False`): Whether to compile the model (`torch.compile`).
        device (`str`, *optional*): As for [`CrossEncoderTeacher`]. A model that needs several devices takes
            `model_kwargs={"device_map": "auto"}` instead.
        model_kwargs (`Mapping[str, Any]`, *optional*): Additional arguments of `from_pretrained`.
        cache (`str` or `os.PathLike`, *optional*): As for [`CrossEncoderTeacher`].
        progress (`bool`, *optional*, defaults to `True`): Whether to show a progress bar.
        results_on (`str`, *optional*, defaults to `"all"`): Which of several processes return the rankings: `"all"`,
            or only the `"main"` one.

    Raises:
        ValueError: if an answer is not one token of the model, the prompt does not fit, or a setting is out of range.

    Example:

    ```python
    teacher = CausalLMTeacher("Qwen/Qwen3-Reranker-0.6B", corpus, dtype="bfloat16", cache="scores")
    rankings = teacher.rank(queries, candidates.top(50))
    ```
    """

    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    input_ends: ClassVar[bool] = False

    prompt: Prompt | str = field(
        default="qwen3-reranker", metadata={"help": "Prompt that the model answers.", "choices": tuple(PROMPTS)}
    )
    _: KW_ONLY
    max_length: int | None = field(default=1024, metadata={"help": "Tokens at which inputs are cut."})

    def __post_init__(self) -> None:
        super().__post_init__()
        parameters = inspect.signature(self.model.forward).parameters
        # Only the logits of the last token are needed.
        self._options = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
        self._takes_positions = "position_ids" in parameters

    def _example_logits(self, model: Any) -> Any:
        from dgr_trainer.student.loading import causal_logits

        return causal_logits(model)

    def score(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """Return the log-odds of the two answers as the next token, or the logit of the only one."""
        # Padded on the left, so that all prompts end at the same position.
        mask = self._padded([np.ones(len(ids)) for ids in batch], 0, left=True)
        inputs = {
            "input_ids": self._padded(batch, self._padding_id or 0, left=True),
            "attention_mask": mask,
            **self._options,
        }
        if self._takes_positions:
            inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        return self._answer_scores(self._run(**inputs, use_cache=False).logits[:, -1])
