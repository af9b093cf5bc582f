"""TREC's topics as published: `<top> <num> Number: 301 <title> International Organized Crime <desc> ... </top>`.

The title of a topic is its query.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from itertools import chain

from dgr_trainer.data.ids import as_id
from dgr_trainer.data.rows import QueryRow
from dgr_trainer.data.sources import FileSource
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.lines import line_location, numbered_lines

_MARK = re.compile(r"<(/?\w+)>", re.ASCII)
# In many files a label precedes the number or the title.
_LABEL = {"num": re.compile(r"\s*number:", re.IGNORECASE), "title": re.compile(r"\s*topic:", re.IGNORECASE)}


def recognises(file: FileSource) -> bool:
    """Whether a text file begins with `<top>`."""
    if file.kind not in ("", "tsv"):
        return False
    first = next(numbered_lines(file.path), (0, ""))[1].lstrip().lower()
    return first.startswith("<top>")


def query_rows(file: FileSource) -> Iterator[QueryRow]:
    """Read topics.

    Args:
        file ([`FileSource`]): The file.

    Yields:
        [`QueryRow`]: Number and title of a topic, with the line on which it begins.

    Raises:
        ValueError: if a topic has no number or no title, or does not end.
    """
    path, begin = file.path, 0
    fields: dict[str, list[str]] = {}
    current = ""
    for number, line in numbered_lines(path):
        for mark, text in _pieces(line):
            if mark == "top":
                if begin:
                    raise DGRValueError(
                        f"{line_location(path, number)}: a topic begins inside the one of line {begin}. "
                        "End it: </top>."
                    )
                begin, fields, current = number, {}, ""
            elif mark == "/top":
                if not begin:
                    raise DGRValueError(f"{line_location(path, number)}: </top>, but no topic has begun (<top>).")
                yield _query(line_location(path, begin), fields)
                begin, current = 0, ""
            elif mark:
                current = "" if mark.startswith("/") else mark
            if begin and current and text.strip():
                fields.setdefault(current, []).append(text)
    if begin:
        raise DGRValueError(
            f"{line_location(path, begin)}: the topic does not end (</top>). The file is cut off: fetch it again."
        )


def _pieces(line: str) -> Iterable[tuple[str, str]]:
    """The marks of a line, each with the text up to the next one; what precedes the first has none."""
    parts = _MARK.split(line)
    return chain([("", parts[0])], zip((mark.lower() for mark in parts[1::2]), parts[2::2], strict=True))


def _query(location: str, fields: dict[str, list[str]]) -> QueryRow:
    values = {}
    for name, label in _LABEL.items():
        text = " ".join(fields.get(name, ()))
        values[name] = " ".join(html.unescape(label.sub("", text, count=1)).split())
        if not values[name]:
            raise DGRValueError(
                f"{location}: the topic has no <{name}>. It needs a <num> and a <title>, which is its query."
            )
    return QueryRow(location, as_id(values["num"], "query", location), values["title"], [])
