"""A cross-encoder as teacher: reads query and passage together and gives each pair one score."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from dgr_trainer.data.passages import Passage
from dgr_trainer.errors import DGRValueError, input_errors
from dgr_trainer.teachers.pair_teacher import ModelTeacher
from dgr_trainer.teachers.templates import PairTemplate

SIMLM: dict[str, Any] = {"passage_template": "{title}: {text}", "missing_title": "-", "max_length": 192}
"""Settings of SimLM's rerankers (Wang et al., 2022), such as intfloat/simlm-msmarco-reranker."""


class _Input(NamedTuple):
    ids: np.ndarray
    types: np.ndarray | None


@dataclass(eq=False, repr=False)
class CrossEncoderTeacher(ModelTeacher):
    r"""Ranks candidates by the raw scores of a cross-encoder.

    Takes any model that `AutoModelForSequenceClassification` loads, which includes the cross-encoders of
    sentence-transformers. The score of a model with one label is its logit, without a sigmoid; that of a model with
    two labels is the log-odds of the second, `logits[1] - logits[0]`.

    Args:
        model_name_or_path (`str` or `os.PathLike`): A sequence-classification model, a folder or a name on the hub.
        corpus (`Corpus`): The passages.
        query_template (`str`, *optional*, defaults to `"{query}"`): The first segment of the input.
        passage_template (`str`, *optional*, defaults to `"{passage}"`): The second segment. `{title}` and `{text}`
            are those of the passage; `{passage}` is `title: text`, or whichever of the two is not empty.
        template (`str`, *optional*): The only segment, for models that read one instead of two, such as
            `"Query: {query}\nSentence: {text}"`.
        passage_first (`bool`, *optional*, defaults to `False`): Whether the passage is the first segment.
        missing_title (`str`, *optional*, defaults to `""`): Text for `{title}` if the passage has no title.
        max_length (`int`, *optional*, defaults to the maximum of the model): Number of tokens at which inputs are cut.
        dtype (`str`, *optional*, defaults to `"float32"`): `"float32"`, `"bfloat16"` or `"float16"`.
        batch_tokens (`int`, *optional*, defaults to 2048 on a CPU, else 16384): Maximum number of tokens of a batch,
            padding included. Inputs of similar length share a batch.
        compile (`bool`, *optional*, defaults to `False`): Whether to compile the model (`torch.compile`).
        device (`str`, *optional*): Such as `"cuda:1"`; by default the accelerator if there is one, and that of the
            process under `accelerate launch`.
        model_kwargs (`Mapping[str, Any]`, *optional*): Additional arguments of `from_pretrained`, such as `revision`,
            `trust_remote_code` or `attn_implementation`.
        cache (`str` or `os.PathLike`, *optional*): Folder in which scores are cached, by the content of query and
            passage; pairs that it contains are not scored again. Several models may share a folder.
        progress (`bool`, *optional*, defaults to `True`): Whether to show a progress bar.
        results_on (`str`, *optional*, defaults to `"all"`): Which of several processes return the rankings: `"all"`,
            or only the `"main"` one.

    Raises:
        ValueError: if the model has more than two labels, takes fewer than `max_length` tokens, consists of additional
            modules of sentence-transformers, or a setting is out of its range.

    Example:

    ```python
    candidates = BM25Teacher(corpus).rank(queries, k=100)
    rankings = CrossEncoderTeacher("cross-encoder/ms-marco-MiniLM-L6-v2", corpus).rank(queries, candidates)
    simlm = CrossEncoderTeacher("intfloat/simlm-msmarco-reranker", corpus, **SIMLM).rank(queries, candidates)
    ```
    """

    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"

    query_template: str = field(default="{query}", metadata={"help": "First segment of the input."})
    passage_template: str = field(
        default="{passage}", metadata={"help": "Text of a passage, of {passage}, {title} and {text}."}
    )
    template: str | None = field(
        default=None, metadata={"help": "Template of the only segment, for models that read one instead of two."}
    )
    passage_first: bool = field(default=False, metadata={"help": "The passage is the first segment."})
    missing_title: str = field(default="", metadata={"help": "Text for {title} if the passage has no title."})

    def __post_init__(self) -> None:
        self._template = PairTemplate(self.query_template, self.passage_template, self.template, self.missing_title)
        _check_modules(self.model_name_or_path)
        super().__post_init__()
        self.num_labels: int = self.model.config.num_labels
        if self.num_labels not in (1, 2):
            raise DGRValueError(
                f"{self.name} has {self.num_labels} labels, so none of them is the score of a pair. "
                "Give a model with one label, or with two (irrelevant, relevant)."
            )
        if self._padding_id is not None:
            self._set_padding(self._padding_id)

    def _example_logits(self, model: Any) -> Any:
        return model(**self.tokenizer("a", "b", return_tensors="pt").to(model.device)).logits

    def _special_tokens(self) -> int:
        return int(self.tokenizer.num_special_tokens_to_add(pair=self._template.single is None))

    def _set_padding(self, token_id: int) -> None:
        """Tell the model its padding: models such as GPT-2 score at the last token that is not the padding."""
        self.model.config.pad_token_id = token_id
        self.model.config.get_text_config().pad_token_id = token_id

    def content(self, query: str, passage: Passage) -> tuple[bytes, bytes]:
        """Return the filled-in segments; a single segment is returned as the passage's."""
        *first, last = (segment.encode(errors="surrogatepass") for segment in self._template(query, passage))
        return first[0] if first else b"", last

    def encode(self, pairs: Sequence[tuple[str, Passage]]) -> Sequence[_Input]:
        """Return token ids, and token types if the model has any."""
        columns = list(zip(*(self._template(*pair) for pair in pairs), strict=True))
        if self.passage_first:
            columns.reverse()
        encoded = self.tokenizer(
            *map(list, columns), truncation=True, max_length=self.max_length, return_attention_mask=False
        )
        types: Any = encoded.get("token_type_ids") or [None] * len(pairs)
        return [
            _Input(np.array(ids, np.int32), None if row is None else np.array(row, np.int32))
            for ids, row in zip(encoded["input_ids"], types, strict=True)
        ]

    def length(self, encoded: _Input) -> int:
        """Return the number of tokens of an input, its padding to a multiple included."""
        return super().length(encoded.ids)

    def score(self, batch: Sequence[_Input]) -> np.ndarray:
        """Return the logit, or the difference of the two."""
        padding = self._padding_id
        if padding is None:
            # Neither tokenizer nor model has a padding token: any token will do that is in none of the inputs.
            used = {int(token) for encoded in batch for token in encoded.ids}
            padding = next(token for token in range(len(used) + 1) if token not in used)
            self._set_padding(padding)
        inputs = {"input_ids": self._padded([encoded.ids for encoded in batch], padding)}
        inputs["attention_mask"] = self._padded([np.ones(len(encoded.ids)) for encoded in batch], 0)
        if batch[0].types is not None:
            inputs["token_type_ids"] = self._padded(
                [encoded.types for encoded in batch if encoded.types is not None], self.tokenizer.pad_token_type_id
            )
        logits: np.ndarray = self._run(**inputs).logits.double().cpu().numpy()
        return np.asarray(logits[:, 1] - logits[:, 0] if self.num_labels == 2 else logits[:, 0])

    def settings(self) -> Mapping[str, object]:
        """Return the settings of the model and of the segments; the templates are part of the content."""
        segments = "one" if self._template.single is not None else "two"
        return {**super().settings(), "segments": segments, "passage_first": self.passage_first}


def _check_modules(name: str | os.PathLike[str]) -> None:
    path = Path(name) / "modules.json"
    if not path.is_file():
        return
    with input_errors(f"{path} is damaged", ValueError):
        modules = json.loads(path.read_text(encoding="utf-8"))
    if [module["type"].rpartition(".")[2] for module in modules] != ["Transformer"] or modules[0].get("path"):
        names = ", ".join(module["type"].rpartition(".")[2] for module in modules)
        raise DGRValueError(
            f"{name} consists of the sentence-transformers modules {names}, not of a sequence-classification model "
            "alone. Use CausalLMTeacher for a language model that answers yes or no; for other models, give the "
            "predict method of the loaded CrossEncoder to FunctionTeacher."
        )
