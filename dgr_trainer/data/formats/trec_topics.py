"""TREC's topics as published: `<top> <num> Number: 301 <title> International Organized Crime <desc> ... </top>`.

The title of a topic is its query.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterable, Iterator
from itertools import chain

from dgr_trainer.data.ids import as_id
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.lines import location, numbered_lines

_MARK = re.compile(r"<(/?\w+)>", re.ASCII)
# What stands in front of a number or a title in many files.
_LABEL = {"num": re.compile(r"\s*number:", re.IGNORECASE), "title": re.compile(r"\s*topic:", re.IGNORECASE)}


def are_topics(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as topics do."""
    first = next(numbered_lines(path), (0, ""))[1].lstrip().lower()
    return first.startswith("<top>")


def topic_rows(path: str | os.PathLike[str]) -> Iterator[tuple[int, str, str]]:
    """Read topics.

    Args:
        path (`str` or `os.PathLike`): the file.

    Yields:
        `tuple[int, str, str]`: line on which a topic begins, its number and its title.

    Raises:
        ValueError: if a topic has no number or no title, or does not end.
    """
    begin = 0
    fields: dict[str, list[str]] = {}
    current = ""
    for number, line in numbered_lines(path):
        for mark, text in _pieces(line):
            if mark == "top":
                if begin:
                    raise DGRValueError(
                        f"{location(path, number)}: a topic begins inside the one of line {begin}. End it: </top>."
                    )
                begin, fields, current = number, {}, ""
            elif mark == "/top":
                if not begin:
                    raise DGRValueError(f"{location(path, number)}: </top>, but no topic has begun (<top>).")
                yield begin, *_checked(location(path, begin), fields)
                begin, current = 0, ""
            elif mark:
                current = "" if mark.startswith("/") else mark
            if begin and current and text.strip():
                fields.setdefault(current, []).append(text)
    if begin:
        raise DGRValueError(
            f"{location(path, begin)}: the topic does not end (</top>). The file is cut off: fetch it again."
        )


def _pieces(line: str) -> Iterable[tuple[str, str]]:
    """The marks of a line, each with the text up to the next one; what precedes the first has none."""
    found = _MARK.split(line)
    return chain([("", found[0])], zip((mark.lower() for mark in found[1::2]), found[2::2], strict=True))


def _checked(where: str, fields: dict[str, list[str]]) -> tuple[str, str]:
    values = {}
    for name, label in _LABEL.items():
        text = " ".join(fields.get(name, ()))
        values[name] = " ".join(html.unescape(label.sub("", text, count=1)).split())
        if not values[name]:
            raise DGRValueError(
                f"{where}: the topic has no <{name}>. It needs a <num> and a <title>, which is its query."
            )
    return as_id(values["num"], "query", where), values["title"]
