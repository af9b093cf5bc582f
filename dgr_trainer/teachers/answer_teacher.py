"""Rerankers that are language models and answer whether a passage is relevant to a query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from dgr_trainer.data.passages import Passage
from dgr_trainer.errors import DGRValueError
from dgr_trainer.teachers.pair_teacher import ModelTeacher
from dgr_trainer.teachers.prompts import Prompt, PromptTokens, find_prompt


@dataclass(eq=False, repr=False)
class AnswerTeacher(ModelTeacher):
    """A reranker that reads a prompt and scores by the logits of its answers. Arguments: see the subclasses.

    Raises:
        ValueError: if an answer is not one token of the model, the prompt does not fit, or as `ModelTeacher` does.
    """

    input_ends: ClassVar[bool]  # whether inputs end with the special tokens that the tokenizer puts after a text

    prompt: Prompt | str

    def __post_init__(self) -> None:
        super().__post_init__()
        self._prompt = find_prompt(self.prompt)
        answers = (self._prompt.yes,) if self._prompt.no is None else (self._prompt.yes, self._prompt.no)
        self._answers = [answer_token(self.tokenizer, word, self.name) for word in answers]
        assert self.max_length is not None  # set by ModelTeacher
        self._tokens = PromptTokens(self.tokenizer, self._prompt, self.max_length, self.name, ends=self.input_ends)

    def content(self, query: str, passage: Passage) -> tuple[bytes, bytes]:
        """Return the query; title and text of the passage."""
        title = passage.title.encode(errors="surrogatepass")
        text = passage.text.encode(errors="surrogatepass")
        return query.encode(errors="surrogatepass"), len(title).to_bytes(8, "little") + title + text

    def encode(self, pairs: Sequence[tuple[str, Passage]]) -> Sequence[np.ndarray]:
        """Return the token ids of the prompts."""
        return self._tokens(pairs)

    def settings(self) -> Mapping[str, object]:
        """Return the settings of the model and the prompt."""
        return {**super().settings(), "prompt": asdict(self._prompt)}

    def _answer_scores(self, logits: Any) -> np.ndarray:
        """Return the scores of logits `(n, vocabulary)` of the next token: shape `(n,)`, float64."""
        answers: np.ndarray = logits[:, self._answers].double().cpu().numpy()
        return np.asarray(answers[:, 0] - answers[:, 1] if answers.shape[1] == 2 else answers[:, 0])


def answer_token(tokenizer: Any, word: str, name: str) -> int:
    """Return the token of an answer. Raises a `ValueError` if the word is not a single token of the vocabulary."""
    ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise DGRValueError(
            f"The answer {word!r} is the tokens {tokenizer.convert_ids_to_tokens(ids)} of {name}, but it has to be a "
            "single known one. Give a Prompt with the answers that the model was trained on."
        )
    return int(ids[0])
