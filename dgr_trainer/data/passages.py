"""A passage, and the checks of its values before it enters a corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dgr_trainer.data.ids import as_id
from dgr_trainer.data.texts import as_text
from dgr_trainer.errors import DGRTypeError

FIELDS = ("id", "title", "text", "pseudo_queries", "docid")


@dataclass(frozen=True)
class Passage:
    """A passage: what a retriever finds.

    Args:
        id (`str`): Id of the passage, without whitespace.
        title (`str`, *optional*, defaults to `""`): Title.
        text (`str`, *optional*, defaults to `""`): Body.
        pseudo_queries (`tuple[str, ...]`, *optional*, defaults to `()`): Queries generated for the passage.
        docid (`str`, *optional*): Identifier given to the passage by other means, such as a semantic id or a URL.
    """

    id: str
    title: str = ""
    text: str = ""
    pseudo_queries: tuple[str, ...] = ()
    docid: str | None = None


@dataclass(frozen=True)
class NumberedPassages:
    """Passages on their way into a corpus, read once.

    Args:
        rows (`Iterable[tuple[int, dict]]`): Number of the passage in its source, and its values by [`FIELDS`].
        location (`Callable[[int], str]`): How errors name the passage of that number.
        name (`str`): What messages call the source.
    """

    rows: Iterable[tuple[int, dict[str, Any]]]
    location: Callable[[int], str]
    name: str


def passage_row(
    location: str, *, id: object, title: object, text: object, pseudo_queries: object, docid: object
) -> dict[str, Any]:
    """Check the values of one passage and give them their types.

    Args:
        location (`str`): Where the passage was found, for errors.
        id (`object`): String or integer.
        title (`object`): String, or `None` for no title.
        text (`object`): String, or `None` for no text.
        pseudo_queries (`object`): List of strings, or `None`; blank ones are left out.
        docid (`object`): String, integer or `None`.

    Raises:
        TypeError: if a value is of another type.
        ValueError: if the id is empty or holds whitespace, or a text is not Unicode.
    """
    passage_id = as_id(id, "passage", location)
    for name, value in (("title", title), ("text", text), ("docid", docid)):
        if type(value) is str and value.isascii():
            continue
        if value is not None and not (name == "docid" and type(value) is int):
            as_text(value, f"{name} of passage {passage_id!r}", location)
    if pseudo_queries is None:
        pseudo_queries = ()
    elif isinstance(pseudo_queries, str) or not isinstance(pseudo_queries, Sequence):
        raise DGRTypeError(
            f"{location}: pseudo_queries is a {type(pseudo_queries).__name__}, but it has to be a list of strings."
        )
    for query in pseudo_queries:
        as_text(query, f"pseudo-query of passage {passage_id!r}", location)
    return {
        "id": passage_id,
        "title": title or "",
        "text": text or "",
        "pseudo_queries": [query for query in pseudo_queries if query.strip()],
        "docid": None if docid is None or docid == "" else str(docid),
    }
