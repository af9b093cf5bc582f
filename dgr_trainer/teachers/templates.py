"""Templates: the text that a model reads for a query and a passage."""

from __future__ import annotations

from collections.abc import Sequence
from string import Formatter

from dgr_trainer.data.passages import Passage
from dgr_trainer.errors import DGRValueError, one_line

PASSAGE_FIELDS = ("passage", "title", "text")


def fill(template: str, query: str, passage: Passage, missing_title: str = "") -> str:
    """Fill in a template.

    Args:
        template (`str`): Template that `check_template` accepted, of `{query}`, `{title}`, `{text}` and `{passage}`:
            `title: text`, or whichever of the two is not empty.
        query (`str`): The query.
        passage (`Passage`): The passage.
        missing_title (`str`, *optional*, defaults to `""`): Text for `{title}` if the passage has no title.

    Returns:
        `str`: The text.
    """
    both = ": ".join(part for part in (passage.title, passage.text) if part)
    return template.format(query=query, title=passage.title or missing_title, text=passage.text, passage=both)


def template_fields(template: str) -> list[str]:
    """Return the fields of a template in their order. Raises a `ValueError` if it is malformed."""
    return [field for _, field, _, _ in Formatter().parse(template) if field is not None]


def check_template(
    name: str, template: str, allowed: Sequence[str], required: Sequence[Sequence[str]] = ()
) -> list[str]:
    """Check that a template can be filled in.

    Args:
        name (`str`): Name of the template, for errors.
        template (`str`): The template.
        allowed (`Sequence[str]`): Fields that can be filled in.
        required (`Sequence[Sequence[str]]`, *optional*): Groups of fields; the template needs one of each group.

    Returns:
        `list[str]`: The fields of the template.

    Raises:
        ValueError: if it is malformed, has an unknown field, or lacks a required one.
    """
    try:
        fields = template_fields(template)
        unknown = [field for field in fields if field not in allowed]
        if not unknown:
            template.format(**dict.fromkeys(fields, ""))  # A field may have a format that texts do not take.
    except (ValueError, LookupError) as error:
        raise DGRValueError(
            f"{name} {template!r} is not a template: {one_line(error)}. Write {{{{ and }}}} for literal braces."
        ) from error
    if unknown:
        known = ", ".join(f"{{{field}}}" for field in allowed)
        raise DGRValueError(f"{name} {template!r} has the field {{{unknown[0]}}}, but only {known} can be filled in.")
    for group in required:
        if not any(field in fields for field in group):
            choice = " or ".join(f"{{{field}}}" for field in group)
            raise DGRValueError(f"{name} {template!r} has no {choice}, so every score would ignore it. Add it.")
    return fields


class PairTemplate:
    r"""Makes the input of a cross-encoder from a query and a passage: two segments, or one.

    Templates contain `{query}` for the query, and `{title}`, `{text}` or `{passage}` (`title: text`, or whichever of
    the two is not empty) for the passage. Literal braces are doubled.

    Args:
        query (`str`, *optional*, defaults to `"{query}"`): The first segment.
        passage (`str`, *optional*, defaults to `"{passage}"`): The second segment.
        single (`str`, *optional*): The only segment, instead of two, such as `"Query: {query}\nSentence: {text}"`.
        missing_title (`str`, *optional*, defaults to `""`): Text for `{title}` if the passage has no title.

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
                "Both template and query_template or passage_template are given, but the input has either one segment "
                "or two. Give template alone, or the other two."
            )
        else:
            check_template("template", single, ("query", *PASSAGE_FIELDS), (("query",), PASSAGE_FIELDS))

    def __call__(self, query: str, passage: Passage) -> tuple[str, ...]:
        """Fill in the templates.

        Args:
            query (`str`): The query.
            passage (`Passage`): The passage.

        Returns:
            `tuple[str, ...]`: One segment or two.
        """
        templates = (self.query, self.passage) if self.single is None else (self.single,)
        return tuple(fill(template, query, passage, self.missing_title) for template in templates)
