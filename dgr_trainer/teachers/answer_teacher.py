"""What teachers have in common that are language models and answer whether a passage is relevant to a query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.errors import DGRValueError
from dgr_trainer.teachers.pair_teacher import ModelTeacher
from dgr_trainer.teachers.prompts import PromptTokens
from dgr_trainer.teachers.templates import Prompt, find_prompt


class AnswerTeacher(ModelTeacher):
    """A teacher that reads a prompt and scores by the logits of its answers.

    Args:
        name_or_path, corpus, auto_class, **settings: see [`ModelTeacher`].
        prompt ([`Prompt`] or `str`): the prompt, or its name.
        ends (`bool`): whether the input ends as the tokenizer ends a text.

    Raises:
        ValueError: if an answer is not one token of the model, the prompt does not fit, or as `ModelTeacher` does.
    """

    def __init__(
        self, name_or_path: Any, corpus: Corpus, auto_class: Any, prompt: Prompt | str, *, ends: bool, **settings: Any
    ):
        super().__init__(name_or_path, corpus, auto_class, **settings)
        self.prompt = find_prompt(prompt)
        answers = (self.prompt.yes,) if self.prompt.no is None else (self.prompt.yes, self.prompt.no)
        self._answers = [answer_token(self.tokenizer, word, self.name) for word in answers]
        self._tokens = PromptTokens(self.tokenizer, self.prompt, self.max_length, self.name, ends=ends)

    def content(self, query: str, passage: Passage) -> tuple[bytes, bytes]:
        """Query; title and text."""
        title = passage.title.encode(errors="surrogatepass")
        text = passage.text.encode(errors="surrogatepass")
        return query.encode(errors="surrogatepass"), len(title).to_bytes(8, "little") + title + text

    def encode(self, pairs: Sequence[tuple[str, Passage]]) -> Sequence[np.ndarray]:
        """Token ids of the prompts."""
        return self._tokens(pairs)

    def settings(self) -> Mapping[str, object]:
        """What scores depend on beside query and passage."""
        return {**super().settings(), "prompt": asdict(self.prompt)}

    def _answer_scores(self, logits: Any) -> np.ndarray:
        """Scores of the logits `(n, vocabulary)` that follow the inputs: shape `(n,)`, float64."""
        values = logits[:, self._answers].double().cpu().numpy()
        return values[:, 0] - values[:, 1] if values.shape[1] == 2 else values[:, 0]


def answer_token(tokenizer: Any, word: str, name: str) -> int:
    """The token of an answer. Raises a `ValueError` if the word is not a single token of the vocabulary."""
    ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise DGRValueError(
            f"The answer {word!r} is the tokens {tokenizer.convert_ids_to_tokens(ids)} of {name}, but it has to be a "
            "single known one. Give a Prompt with the answers that the model was trained on."
        )
    return ids[0]
