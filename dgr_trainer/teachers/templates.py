"""Templates: how a query and a passage become the text that a cross-encoder reads."""

from __future__ import annotations

from string import Formatter

from dgr_trainer.corpus import Passage

PASSAGE_FIELDS = ("passage", "title", "text")


class PairTemplate:
    """Makes a cross-encoder's input of a query and a passage: two segments, or one.

    In templates stand `{query}` for the query, `{title}` and `{text}` for the passage's, and `{passage}` for both:
    `title: text`, or the one that there is. A brace that is meant is doubled.

    Args:
        query (`str`, *optional*, defaults to `"{query}"`): the first segment.
        passage (`str`, *optional*, defaults to `"{passage}"`): the second segment.
        single (`str`, *optional*): the only segment, instead of two, such as `"Query: {query}\\nSentence: {text}"`.

    Raises:
        ValueError: if a template has an unknown field, or lacks the query or the passage.
    """

    def __init__(self, query: str = "{query}", passage: str = "{passage}", single: str | None = None):
        self.query, self.passage, self.single = query, passage, single
        if single is None:
            _check("query_template", query, ("query",), (("query",),))
            _check("passage_template", passage, PASSAGE_FIELDS, (PASSAGE_FIELDS,))
        elif (query, passage) != ("{query}", "{passage}"):
            raise ValueError(
                "Both template and query_template or passage_template are given, but the input is either one segment "
                "or two. Give template alone, or the other two."
            )
        else:
            _check("template", single, ("query", *PASSAGE_FIELDS), (("query",), PASSAGE_FIELDS))

    def __call__(self, query: str, passage: Passage) -> tuple[str, ...]:
        """Fill in the templates.

        Args:
            query (`str`): the query.
            passage (`Passage`): the passage.

        Returns:
            `tuple[str, ...]`: one segment or two.
        """
        both = ": ".join(part for part in (passage.title, passage.text) if part)
        fields = {"query": query, "title": passage.title, "text": passage.text, "passage": both}
        if self.single is not None:
            return (self.single.format(**fields),)
        return self.query.format(**fields), self.passage.format(**fields)


def _check(name: str, template: str, allowed: tuple[str, ...], needed: tuple[tuple[str, ...], ...]) -> None:
    try:
        found = [field for _, field, _, _ in Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise ValueError(f"{name} {template!r} is not a template: {error}. Double a brace that is meant.") from error
    braced = ", ".join(f"{{{field}}}" for field in allowed)
    unknown = [field for field in found if field not in allowed]
    if unknown:
        raise ValueError(f"{name} {template!r} has the field {{{unknown[0]}}}, but only {braced} can be filled in.")
    for choice in needed:
        if not any(field in found for field in choice):
            fields = " or ".join(f"{{{field}}}" for field in choice)
            raise ValueError(f"{name} {template!r} has no {fields}, so every score would ignore it. Put it in.")
