"""How the segments of a prompt become the tokens of one input, cut where the passage ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dgr_trainer.data.passages import Passage
from dgr_trainer.errors import DGRValueError
from dgr_trainer.teachers.templates import Prompt

_QUERY_SHARE = 0.75  # of what the prompt leaves, at most, where query and passage do not both fit


class PromptTokens:
    """Tokenises the prompts of queries and passages.

    Args:
        tokenizer: the model's.
        prompt ([`Prompt`]): the prompt.
        max_length (`int`): tokens of an input at most, special tokens included.
        name (`str`): the model's name, for errors.
        ends (`bool`): whether what the tokenizer puts behind a text belongs there: not where the model is to go on.

    Raises:
        ValueError: if the prompt itself leaves no room for the passage.
    """

    def __init__(self, tokenizer: Any, prompt: Prompt, max_length: int, name: str, *, ends: bool):
        self.tokenizer, self.prompt = tokenizer, prompt
        self._before, after = _special_tokens(tokenizer)
        self._after = after if ends else []
        empty = sum(len(ids) for ids in self._tokens(prompt("", Passage(id="-"))))
        self._room = max_length - len(self._before) - len(self._after)
        if empty >= self._room:
            alone = empty + len(self._before) + len(self._after)
            raise DGRValueError(
                f"max_length is {max_length}, but the prompt of {name} alone has {alone} tokens. "
                "Give a larger max_length, or a shorter prompt."
            )

    def __call__(self, pairs: Sequence[tuple[str, Passage]]) -> list[np.ndarray]:
        """Token ids of each pair's prompt, int32."""
        filled = [self.prompt(*pair) for pair in pairs]
        columns = [self._batch([segments[index] for segments in filled]) for index in range(len(self.prompt.segments))]
        return [np.array(self._joined(list(row)), dtype=np.int32) for row in zip(*columns, strict=True)]

    def _joined(self, segments: list[list[int]]) -> list[int]:
        over = sum(map(len, segments)) - self._room
        cut = self.prompt.cut
        if over > 0:
            # A query that leaves no room for the passage is cut, too, if it is a segment of its own.
            fixed = sum(
                len(ids) for index, ids in enumerate(segments) if not self._holds_query(index) and index != cut
            )
            for index in range(len(segments)):
                if self._holds_query(index) and index != cut:
                    segments[index] = segments[index][: max(1, int((self._room - fixed) * _QUERY_SHARE))]
            others = sum(len(ids) for index, ids in enumerate(segments) if index != cut)
            segments[cut] = segments[cut][: self._room - others]
        return [*self._before, *(token for ids in segments for token in ids), *self._after]

    def _holds_query(self, index: int) -> bool:
        return "{query}" in self.prompt.segments[index]

    def _batch(self, texts: list[str]) -> list[list[int]]:
        if len(set(texts)) == 1:
            return [self._tokens(texts[:1])[0]] * len(texts)
        return self._tokens(texts)

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)["input_ids"]


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before a text and behind it."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start], whole[start + len(plain) :]
    return [], []
