"""Templates: how a query and a passage become the text that a model reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter

from dgr_trainer.data.passages import Passage
from dgr_trainer.errors import DGRValueError

PASSAGE_FIELDS = ("passage", "title", "text")


def fill(template: str, query: str, passage: Passage, missing_title: str = "") -> str:
    """Fill in a template: `{query}`, `{title}`, `{text}`, and `{passage}` for `title: text`, or the one that there is.

    Args:
        template (`str`): what `check_template` let pass.
        query (`str`): the query.
        passage (`Passage`): the passage.
        missing_title (`str`, *optional*, defaults to `""`): what `{title}` becomes where there is none.

    Returns:
        `str`: the text.
    """
    both = ": ".join(part for part in (passage.title, passage.text) if part)
    return template.format(query=query, title=passage.title or missing_title, text=passage.text, passage=both)


def check_template(name: str, template: str, allowed: Sequence[str], needed: Sequence[Sequence[str]]) -> list[str]:
    """Check that a template can be filled in.

    Args:
        name (`str`): what errors call it.
        template (`str`): the template.
        allowed (`Sequence[str]`): the fields that can be filled in.
        needed (`Sequence[Sequence[str]]`): choices of fields, of each of which one has to be there.

    Returns:
        `list[str]`: the fields of the template.

    Raises:
        ValueError: if it is malformed, has another field, or lacks one.
    """
    try:
        found = [field for _, field, _, _ in Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise DGRValueError(
            f"{name} {template!r} is not a template: {error}. Double a brace that is meant."
        ) from error
    braced = ", ".join(f"{{{field}}}" for field in allowed)
    unknown = [field for field in found if field not in allowed]
    if unknown:
        raise DGRValueError(f"{name} {template!r} has the field {{{unknown[0]}}}, but only {braced} can be filled in.")
    for choice in needed:
        if not any(field in found for field in choice):
            fields = " or ".join(f"{{{field}}}" for field in choice)
            raise DGRValueError(f"{name} {template!r} has no {fields}, so every score would ignore it. Put it in.")
    return found


class PairTemplate:
    """Makes a cross-encoder's input of a query and a passage: two segments, or one.

    In templates stand `{query}` for the query, `{title}` and `{text}` for the passage's, and `{passage}` for both:
    `title: text`, or the one that there is. A brace that is meant is doubled.

    Args:
        query (`str`, *optional*, defaults to `"{query}"`): the first segment.
        passage (`str`, *optional*, defaults to `"{passage}"`): the second segment.
        single (`str`, *optional*): the only segment, instead of two, such as `"Query: {query}\\nSentence: {text}"`.
        missing_title (`str`, *optional*, defaults to `""`): what `{title}` becomes where there is none.

    Raises:
        ValueError: if a template has an unknown field, or lacks the query or the passage.
    """

    def __init__(
        self,
        query: str = "{query}",
        passage: str = "{passage}",
        single: str | None = None,
        missing_title: str = "",
    ):
        self.query, self.passage, self.single, self.missing_title = query, passage, single, missing_title
        if single is None:
            check_template("query_template", query, ("query",), (("query",),))
            check_template("passage_template", passage, PASSAGE_FIELDS, (PASSAGE_FIELDS,))
        elif (query, passage) != ("{query}", "{passage}"):
            raise DGRValueError(
                "Both template and query_template or passage_template are given, but the input is either one segment "
                "or two. Give template alone, or the other two."
            )
        else:
            check_template("template", single, ("query", *PASSAGE_FIELDS), (("query",), PASSAGE_FIELDS))

    def __call__(self, query: str, passage: Passage) -> tuple[str, ...]:
        """Fill in the templates.

        Args:
            query (`str`): the query.
            passage (`Passage`): the passage.

        Returns:
            `tuple[str, ...]`: one segment or two.
        """
        templates = (self.query, self.passage) if self.single is None else (self.single,)
        return tuple(fill(template, query, passage, self.missing_title) for template in templates)


@dataclass(frozen=True)
class Prompt:
    """A prompt to which a language model answers whether a passage is relevant to a query.

    It is a row of segments, each tokenised by itself. One of them holds the passage, and is cut at its end where the
    whole would be too long; the question that stands behind it never is.

    Args:
        segments (`tuple[str, ...]`): templates of `{query}`, `{title}`, `{text}` and `{passage}` (`title: text`).
        yes (`str`): the answer that means relevant; one token.
        no (`str`, *optional*): the answer that means irrelevant; one token. Where it is given, a score is the
            log-odds of yes against no; where it is not, the logit of yes.
        missing_title (`str`, *optional*, defaults to `""`): what `{title}` becomes where there is none.

    Raises:
        ValueError: if a segment has an unknown field, the query is missing, the passage is not in just one segment, or
            an answer is empty.
    """

    segments: tuple[str, ...]
    yes: str
    no: str | None = None
    missing_title: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "segments", tuple(self.segments))
        found = [
            check_template("a segment of the prompt", segment, ("query", *PASSAGE_FIELDS), ())
            for segment in self.segments
        ]
        with_passage = [index for index, fields in enumerate(found) if any(name in PASSAGE_FIELDS for name in fields)]
        if len(with_passage) != 1:
            raise DGRValueError(
                f"{len(with_passage)} of the {len(found)} segments of the prompt hold the passage, but one has to: "
                "the one that is cut where the input is too long."
            )
        if not any("query" in fields for fields in found):
            raise DGRValueError("No segment of the prompt has {query}, so every score would ignore it. Put it in.")
        if not self.yes or self.no == "":
            raise DGRValueError(
                "An answer is empty. Give the words that the model answers with, such as 'yes' and 'no'."
            )

    @property
    def cut(self) -> int:
        """`int`: which segment holds the passage."""
        held = [any(f"{{{field}}}" in segment for field in PASSAGE_FIELDS) for segment in self.segments]
        return held.index(True)

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
"""As the model cards of Qwen3-Reranker have it."""

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
"""As the model card of bge-reranker-v2-gemma has it: the score is the logit of "Yes"."""

PROMPTS = {"monot5": MONOT5, "qwen3-reranker": QWEN3_RERANKER, "bge-reranker-gemma": BGE_RERANKER_GEMMA}


def find_prompt(prompt: str | Prompt) -> Prompt:
    """A prompt, given or by its name. Raises a `ValueError` if there is none of that name."""
    if isinstance(prompt, Prompt):
        return prompt
    if prompt not in PROMPTS:
        raise DGRValueError(
            f"There is no prompt {prompt!r}. There are {', '.join(PROMPTS)}; or give a Prompt of your own."
        )
    return PROMPTS[prompt]
