"""Anserini's files: topics (the queries that Lucene reads) and runs (the rank lists that it writes)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

# Units of which Lucene makes at most one term: a character of a script without spaces, a symbol, or a run of letters
# and digits (cut every 255 characters). Lucene may join several of them, but never splits one.
_UNITS = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
    r"|[^\W\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]{1,255}"
    r"|[^\x00-\x7f\w\s]"
)


def one_line(query: str) -> str:
    """Put a query on one line: tabs, line ends and control characters become spaces.

    Args:
        query (`str`): The query.

    Returns:
        `str`: The same words; empty if there are none.
    """
    spaced = "".join(" " if unicodedata.category(letter) in ("Cc", "Cs") else letter for letter in query)
    return " ".join(spaced.split())


def cut_query(query: str, terms: int) -> tuple[str, bool]:
    """Cut a query before it has too many different terms; Lucene refuses a query of more than 1,024.

    Args:
        query (`str`): The query.
        terms (`int`): Maximum number of different terms.

    Returns:
        `tuple[str, bool]`: The query or its beginning, and whether it was cut.
    """
    seen: set[str] = set()
    for unit in _UNITS.finditer(query):
        seen.add(unit.group().lower())
        if len(seen) > terms:
            return query[: unit.start()].rstrip(), True
    return query, False


def write_topics(queries: Iterable[str], path: Path) -> None:
    """Write queries as a topic file of tab-separated lines. Query number i has the id `str(i)`.

    Args:
        queries (`Iterable[str]`): Non-empty results of `one_line`.
        path (`pathlib.Path`): The file.
    """
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for number, query in enumerate(queries):
            file.write(f"{number}\t{query}\n")


def read_run(path: Path) -> Iterator[tuple[int, str, float]]:
    """Read the run file that Anserini wrote for a topic file of `write_topics`.

    Args:
        path (`pathlib.Path`): The file, lines of `query Q0 passage rank score tag`. A passage id may contain spaces.

    Yields:
        `tuple[int, str, float]`: Query number, passage id, score.
    """
    with open(path, encoding="utf-8", newline="\n") as file:
        for line in file:
            number, _, rest = line.rstrip("\n").split(" ", 2)
            passage_id, _, score, _ = rest.rsplit(" ", 3)
            yield int(number), passage_id, float(score)
