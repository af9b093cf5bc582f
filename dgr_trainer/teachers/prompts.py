"""Prompts: what language models are asked about a query and a passage, and the tokens of the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from dgr_trainer.data.passages import Passage
from dgr_trainer.errors import DGRValueError
from dgr_trainer.teachers.templates import PASSAGE_FIELDS, check_template, fill, template_fields

_QUERY_SHARE = 0.75  # of the tokens that the prompt leaves, at most, if query and passage do not both fit
_NOTHING = Passage(id="-")


@dataclass(frozen=True)
class Prompt:
    """A prompt that asks a language model whether a passage is relevant to a query.

    It is a sequence of segments, each tokenised separately. One of them contains the passage, and is cut at its end if
    the input is too long; the question after it is never cut. A query that leaves no room for the passage is cut, too,
    wherever it stands.

    Args:
        segments (`tuple[str, ...]`): Templates of `{query}`, `{title}`, `{text}` and `{passage}` (`title: text`).
        yes (`str`): The answer that means relevant; one token.
        no (`str`, *optional*): The answer that means irrelevant; one token. If given, a score is the log-odds of yes
            against no; if not, the logit of yes.
        missing_title (`str`, *optional*, defaults to `""`): Text for `{title}` if the passage has no title.

    Raises:
        ValueError: if a segment has an unknown field, the query is missing, the passage is not in exactly one segment,
            or an answer is empty.
    """

    segments: tuple[str, ...]
    yes: str
    no: str | None = None
    missing_title: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "segments", tuple(self.segments))
        fields_per_segment = [
            check_template("a segment of the prompt", segment, ("query", *PASSAGE_FIELDS)) for segment in self.segments
        ]
        with_passage = sum(any(field in PASSAGE_FIELDS for field in fields) for fields in fields_per_segment)
        if with_passage != 1:
            raise DGRValueError(
                f"{with_passage} of the {len(self.segments)} segments of the prompt contain the passage, but exactly "
                "one has to: it is cut if the input is too long."
            )
        if not any("query" in fields for fields in fields_per_segment):
            raise DGRValueError("No segment of the prompt has {query}, so every score would ignore it. Add it.")
        if not self.yes or self.no == "":
            raise DGRValueError("An answer is empty. Give the words that the model answers, such as 'yes' and 'no'.")

    @property
    def passage_segment(self) -> int:
        """`int`: Index of the segment that contains the passage."""
        has_passage = [not set(PASSAGE_FIELDS).isdisjoint(template_fields(segment)) for segment in self.segments]
        return has_passage.index(True)

    def __call__(self, query: str, passage: Passage) -> tuple[str, ...]:
        """Fill in the segments."""
        return tuple(fill(segment, query, passage, self.missing_title) for segment in self.segments)


MONOT5 = Prompt(("Query: {query} Document: {passage}", "Relevant:"), yes="true", no="false")
"""Nogueira et al. (2020), "Document Ranking with a Pretrained Sequence-to-Sequence Model"."""

QWEN3_RERANKER = Prompt(
    (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n',
        "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
        "<Query>: {query}\n<Document>: {passage}",
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    ),
    yes="yes",
    no="no",
)
"""The prompt of the model cards of Qwen3-Reranker."""

BGE_RERANKER_GEMMA = Prompt(
    (
        "A: {query}",
        "\n",
        "B: {passage}",
        "\n",
        "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing "
        "a prediction of either 'Yes' or 'No'.",
    ),
    yes="Yes",
)
"""The prompt of the model card of bge-reranker-v2-gemma; the score is the logit of "Yes"."""

PROMPTS = {"monot5": MONOT5, "qwen3-reranker": QWEN3_RERANKER, "bge-reranker-gemma": BGE_RERANKER_GEMMA}


def find_prompt(prompt: str | Prompt) -> Prompt:
    """Return a prompt by its name; a `Prompt` is returned unchanged. Raises a `ValueError` for an unknown name."""
    if isinstance(prompt, Prompt):
        return prompt
    if prompt not in PROMPTS:
        raise DGRValueError(
            f"There is no prompt {prompt!r}. The named prompts are {', '.join(PROMPTS)}; or give a Prompt."
        )
    return PROMPTS[prompt]


class PromptTokens:
    """Tokenises the prompts of queries and passages.

    Args:
        tokenizer: Tokenizer of the model.
        prompt ([`Prompt`]): The prompt.
        max_length (`int`): Maximum number of tokens of an input, special tokens included.
        name (`str`): Name of the model, for errors.
        ends (`bool`): Whether the special tokens that the tokenizer puts after a text end the input. They do not for a
            causal model, which continues the input.

    Raises:
        ValueError: if the prompt leaves no room for the passage.
    """

    def __init__(self, tokenizer: Any, prompt: Prompt, max_length: int, name: str, *, ends: bool):
        self.tokenizer, self.prompt = tokenizer, prompt
        self._before, after = _special_tokens(tokenizer)
        self._after = after if ends else []
        self._room = max_length - len(self._before) - len(self._after)
        self._with_passage = prompt.passage_segment
        self._with_query = [index for index, one in enumerate(prompt.segments) if "query" in template_fields(one)]
        lengths = [len(ids) for ids in self._tokens(prompt("", _NOTHING))]
        left = self._room - sum(lengths)
        if left <= 0:
            alone = max_length - left
            raise DGRValueError(
                f"max_length is {max_length}, but the prompt of {name} alone has {alone} tokens. "
                "Give a larger max_length, or a shorter prompt."
            )
        around_query = sum(lengths[index] for index in self._with_query)
        others = [index for index in range(len(lengths)) if index not in (*self._with_query, self._with_passage)]
        without_fixed = self._room - sum(lengths[index] for index in others)
        # At least one token is left for the passage, however long the text around it is.
        self._query_limit = min(
            max(int(without_fixed * _QUERY_SHARE), around_query + int(left * _QUERY_SHARE)), around_query + left - 1
        )

    def __call__(self, pairs: Sequence[tuple[str, Passage]]) -> list[np.ndarray]:
        """Return the token ids of the prompt of each pair: shape `(tokens,)`, int32."""
        rows = self._segments(pairs)
        too_long = [number for number, row in enumerate(rows) if sum(map(len, row)) > self._room]
        cut = {query: self._cut(query) for query in dict.fromkeys(pairs[number][0] for number in too_long)}
        changed = [number for number in too_long if cut[pairs[number][0]] != pairs[number][0]]
        again = self._segments([(cut[query], passage) for query, passage in (pairs[number] for number in changed)])
        for number, row in zip(changed, again, strict=True):
            rows[number] = row
        return [np.array(self._joined(row), dtype=np.int32) for row in rows]

    def _segments(self, pairs: Sequence[tuple[str, Passage]]) -> list[list[list[int]]]:
        """Return the token ids of the segments of each pair."""
        if not pairs:
            return []
        prompts = [self.prompt(*pair) for pair in pairs]
        columns = [
            self._segment_tokens([segments[index] for segments in prompts])
            for index in range(len(self.prompt.segments))
        ]
        return [list(row) for row in zip(*columns, strict=True)]

    def _cut(self, query: str) -> str:
        """Return the start of a query that leaves room for the passage; all of it if it does so."""
        if self._query_tokens(query) <= self._query_limit:
            return query
        fits, exceeds = 0, len(query)
        while exceeds - fits > 1:
            middle = (fits + exceeds) // 2
            if self._query_tokens(query[:middle]) <= self._query_limit:
                fits = middle
            else:
                exceeds = middle
        return query[:fits]

    def _query_tokens(self, query: str) -> int:
        """Return the number of tokens of the segments that contain the query, without the passage."""
        segments = self.prompt(query, _NOTHING)
        return sum(map(len, self._tokens([segments[index] for index in self._with_query])))

    def _joined(self, segments: list[list[int]]) -> list[int]:
        excess = sum(map(len, segments)) - self._room
        if excess > 0:
            passage = segments[self._with_passage]
            segments[self._with_passage] = passage[: max(0, len(passage) - excess)]
        return [*self._before, *(token for ids in segments for token in ids), *self._after]

    def _segment_tokens(self, texts: list[str]) -> list[list[int]]:
        if len(set(texts)) == 1:
            return [self._tokens(texts[:1])[0]] * len(texts)
        return self._tokens(texts)

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self.tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)
        return cast(list[list[int]], encoded["input_ids"])


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the special tokens that the tokenizer puts before a text and after it."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start], whole[start + len(plain) :]
    return [], []
