"""TREC's topics as published, in SGML or XML.

`<top> <num> Number: 301 <title> International Organized Crime <desc> ... </top>`, or with the number as an attribute:
`<topic number="1"> <query>coronavirus origin</query> ... </topic>`. The title of a topic is its query; where there is
no title, its `<query>`, `<question>` or `<summary>` is.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from itertools import islice

from dgr_trainer.data.ids import as_id
from dgr_trainer.data.rows import QueryRow
from dgr_trainer.data.sources import FileSource
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.lines import line_location, numbered_lines

_BEGIN = re.compile(r"<(top|topic)[\s>]", re.ASCII | re.IGNORECASE)
_PREAMBLE = 100
"""Lines of declarations and comments that may come before the first topic."""
_TOPICS = ("top", "topic")
_MARK = re.compile(r"<(/?[A-Za-z][\w-]*)((?:\s+[\w:-]+\s*=\s*(?:\"[^\"]*\"|'[^']*'|[^\s\"'>]+))*)\s*/?>", re.ASCII)
_ATTRIBUTE = re.compile(r"([\w:-]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'>]+))", re.ASCII)
_CDATA = re.compile(r"<!\[CDATA\[(.*?)\]\]>")
_COMMENT = re.compile(r"<!--.*?-->")
_NUMBERS = ("num", "number", "id", "qid")
_TEXTS = ("title", "query", "question", "summary")
# In many files a label precedes the number or the title.
_LABEL = re.compile(r"\s*(number|topic):", re.IGNORECASE)


def recognises(file: FileSource) -> bool:
    """Whether a text file begins with a mark, and a topic is near."""
    if file.kind not in ("", "tsv"):
        return False
    lines = [line.lstrip() for _, line in islice(numbered_lines(file.path), _PREAMBLE)]
    if not lines or not lines[0].startswith("<"):
        return False
    return lines[0].lower().startswith("<?xml") or any(_BEGIN.search(line) for line in lines)


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
    current = end = ""
    found = False
    for number, line in numbered_lines(path):
        for mark, attributes, text in _pieces(line):
            if mark in _TOPICS:
                if begin:
                    raise DGRValueError(
                        f"{line_location(path, number)}: a topic begins inside the one of line {begin}. "
                        f"End it: <{end}>."
                    )
                begin, current, end = number, "", f"/{mark}"
                fields = {name: [value] for name, value in attributes.items() if name in _NUMBERS}
            elif mark.removeprefix("/") in _TOPICS:
                if mark != end or not begin:
                    raise DGRValueError(
                        f"{line_location(path, number)}: <{mark}>, but no topic has begun (<{mark[1:]}>)."
                    )
                yield _query(line_location(path, begin), fields)
                begin, current, found = 0, "", True
            elif mark:
                current = "" if mark.startswith("/") else mark
            if begin and current and text.strip():
                fields.setdefault(current, []).append(text)
    if begin:
        raise DGRValueError(
            f"{line_location(path, begin)}: the topic does not end (<{end}>). The file is cut off: fetch it again."
        )
    if not found:
        raise DGRValueError(
            f"{path}: begins as XML, but holds no topic (<top> or <topic>). Queries may be JSON Lines."
        )


def _pieces(line: str) -> Iterator[tuple[str, dict[str, str], str]]:
    """The marks of a line, each with its attributes and the text up to the next one.

    What precedes the first mark has an empty one.
    """
    line = _CDATA.sub(lambda found: html.escape(found[1]), _COMMENT.sub("", line))
    mark, attributes, position = "", dict[str, str](), 0
    for found in _MARK.finditer(line):
        yield mark, attributes, line[position : found.start()]
        mark, position = found[1].lower(), found.end()
        attributes = {
            name.lower(): html.unescape(next(filter(None, values), ""))
            for name, *values in _ATTRIBUTE.findall(found[2])
        }
    yield mark, attributes, line[position:]


def _query(location: str, fields: dict[str, list[str]]) -> QueryRow:
    values = []
    for names in (_NUMBERS, _TEXTS):
        texts = {name: " ".join(fields.get(name, ())) for name in names}
        value = next((text for text in (_plain(text) for text in texts.values()) if text), "")
        if not value:
            raise DGRValueError(
                f"{location}: the topic has no <{names[0]}>. It needs a number ({', '.join(_NUMBERS)}) and a query "
                f"({', '.join(_TEXTS)}). It has {', '.join(f'<{name}>' for name in fields) or 'nothing'}."
            )
        values.append(value)
    return QueryRow(location, as_id(values[0], "query", location), values[1], [])


def _plain(text: str) -> str:
    return " ".join(html.unescape(_LABEL.sub("", text, count=1) if _LABEL.match(text) else text).split())
