"""A cross-encoder as teacher: reads query and passage together and gives one score a pair."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.errors import DGRValueError
from dgr_trainer.teachers.pair_teacher import ModelTeacher
from dgr_trainer.teachers.templates import PairTemplate

SIMLM: dict[str, Any] = {"passage_template": "{title}: {text}", "missing_title": "-", "max_length": 192}
"""Settings of SimLM's rerankers (Wang et al., 2022), such as intfloat/simlm-msmarco-reranker."""


class _Input(NamedTuple):
    ids: np.ndarray
    types: np.ndarray | None


class CrossEncoderTeacher(ModelTeacher):
    """Ranks candidates by the raw scores of a cross-encoder.

    Any model that `AutoModelForSequenceClassification` loads, which the cross-encoders of sentence-transformers are. A
    model with one label scores by its logit, with no sigmoid over it; a model with two labels by the log-odds of the
    second, `logits[1] - logits[0]`.

    Args:
        model_name_or_path (`str` or `os.PathLike`): a sequence-classification model, a folder or a name on the hub.
        corpus (`Corpus`): the passages.
        query_template (`str`, *optional*, defaults to `"{query}"`): the first segment of the input.
        passage_template (`str`, *optional*, defaults to `"{passage}"`): the second segment. `{title}` and `{text}`
            are the passage's, `{passage}` is `title: text`, or the one that there is.
        template (`str`, *optional*): the only segment, for models that want one, such as
            `"Query: {query}\\nSentence: {text}"`.
        passage_first (`bool`, *optional*, defaults to `False`): whether the passage is the first segment.
        missing_title (`str`, *optional*, defaults to `""`): what `{title}` becomes for a passage without one.
        max_length (`int`, *optional*, defaults to what the model takes): tokens of an input; longer ones are cut.
        dtype (`str`, *optional*, defaults to `"float32"`): `"float32"`, `"bfloat16"` or `"float16"`.
        batch_tokens (`int`, *optional*, defaults to 2048 on a CPU, else 16384): tokens of a forward pass at most,
            padding included. Inputs of like length go together.
        compile (`bool`, *optional*, defaults to `False`): whether to compile the model (`torch.compile`).
        device (`str`, *optional*): such as `"cuda:1"`; by default the accelerator if there is one, and that of the
            process under `accelerate launch`.
        model_kwargs (`Mapping[str, Any]`, *optional*): further arguments of `from_pretrained`, such as `revision`,
            `trust_remote_code` or `attn_implementation`.
        progress (`bool`, *optional*, defaults to `True`): whether to show a progress bar.

    Raises:
        ValueError: if the model has more than two labels, takes fewer than `max_length` tokens, is made of further
            modules of sentence-transformers, or a setting is out of its range.

    Example:

    ```python
    candidates = BM25Teacher(corpus).rank(queries, k=100)
    rankings = CrossEncoderTeacher("cross-encoder/ms-marco-MiniLM-L6-v2", corpus).rank(queries, candidates)
    simlm = CrossEncoderTeacher("intfloat/simlm-msmarco-reranker", corpus, **SIMLM).rank(queries, candidates)
    ```
    """

    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str],
        corpus: Corpus,
        query_template: str = "{query}",
        passage_template: str = "{passage}",
        template: str | None = None,
        passage_first: bool = False,
        missing_title: str = "",
        max_length: int | None = None,
        dtype: str = "float32",
        batch_tokens: int | None = None,
        compile: bool = False,
        device: str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        progress: bool = True,
    ):
        self._template = PairTemplate(query_template, passage_template, template, missing_title)
        self._passage_first = passage_first
        _check_modules(model_name_or_path)
        from transformers import AutoModelForSequenceClassification

        super().__init__(
            model_name_or_path,
            corpus,
            AutoModelForSequenceClassification,
            max_length=max_length,
            dtype=dtype,
            batch_tokens=batch_tokens,
            compile=compile,
            device=device,
            model_kwargs=model_kwargs,
            progress=progress,
        )
        self.num_labels = self.model.config.num_labels
        if self.num_labels not in (1, 2):
            raise DGRValueError(
                f"{self.name} has {self.num_labels} labels, of which no one is the score of a pair. "
                "Give a model with one label, or with two (irrelevant, relevant)."
            )
        if self.tokenizer.pad_token_id is None:
            raise DGRValueError(
                f"The tokenizer of {self.name} has no padding token, so pairs cannot be put in batches. Set its "
                "pad_token (and the model's config.pad_token_id) and save both."
            )

    def content(self, query: str, passage: Passage) -> tuple[bytes, bytes]:
        """The filled-in segments; where there is one only, it is taken as the passage's."""
        segments = self._template(query, passage)
        return segments[0].encode(errors="surrogatepass") if len(segments) == 2 else b"", segments[-1].encode(
            errors="surrogatepass"
        )

    def encode(self, pairs: Sequence[tuple[str, Passage]]) -> Sequence[_Input]:
        """Token ids, and token types if the model has any."""
        columns = list(zip(*(self._template(*pair) for pair in pairs), strict=True))
        if self._passage_first:
            columns.reverse()
        encoded = self.tokenizer(
            *map(list, columns), truncation=True, max_length=self.max_length, return_attention_mask=False
        )
        types: Any = encoded.get("token_type_ids") or [None] * len(pairs)
        return [
            _Input(np.array(ids, np.int32), None if of is None else np.array(of, np.int32))
            for ids, of in zip(encoded["input_ids"], types, strict=True)
        ]

    def length(self, encoded: _Input) -> int:
        """Number of tokens of an input, padded as it is."""
        return super().length(encoded.ids)

    def score(self, batch: Sequence[_Input]) -> np.ndarray:
        """The logit, or the difference of the two."""
        inputs = {"input_ids": self._padded([one.ids for one in batch], self.tokenizer.pad_token_id)}
        inputs["attention_mask"] = self._padded([np.ones(len(one.ids)) for one in batch], 0)
        if batch[0].types is not None:
            inputs["token_type_ids"] = self._padded(
                [one.types for one in batch if one.types is not None], self.tokenizer.pad_token_type_id
            )
        logits = self._run(**inputs).logits.double().cpu().numpy()
        return logits[:, 1] - logits[:, 0] if self.num_labels == 2 else logits[:, 0]

    def settings(self) -> Mapping[str, object]:
        """What scores depend on beside query and passage; templates are in the content."""
        segments = "one" if self._template.single is not None else "two"
        return {**super().settings(), "segments": segments, "passage_first": self._passage_first}


def _check_modules(name: str | os.PathLike[str]) -> None:
    path = Path(name) / "modules.json"
    if not path.is_file():
        return
    modules = json.loads(path.read_text(encoding="utf-8"))
    if [module["type"].rpartition(".")[2] for module in modules] != ["Transformer"] or modules[0].get("path"):
        names = ", ".join(module["type"].rpartition(".")[2] for module in modules)
        raise DGRValueError(
            f"{name} is made of the modules {names} of sentence-transformers, not of a sequence-classification model "
            "alone. A language model that answers yes or no is CausalLMTeacher's; for others, give the loaded "
            "CrossEncoder's predict to FunctionTeacher."
        )
