"""What columns and fields are called: the usual names, and which columns of a file or dataset hold which field.

JSON Lines, tables, lines under a header and datasets all take their names from here.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence

from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.delimited import unique_names

logger = logging.getLogger(__name__)

Usual = Mapping[str, Sequence[str]]
"""Usual names of the columns of each field, the more specific ones first."""

_PASSAGE_ID = ("passage_id", "passage-id", "docno", "doc_id", "corpus-id", "corpus_id", "pid", "document_id", "docid")
_QUERY_ID = ("query_id", "query-id", "qid", "q_id", "queryid", "topic_id")

PASSAGE_COLUMNS: Usual = {
    "id": ("id", "_id", *_PASSAGE_ID),  # A docid is the id where there is no other.
    "title": ("title",),
    "text": ("text", "contents", "content", "passage", "body", "passage_text"),
    "pseudo_queries": ("pseudo_queries",),
    "docid": ("docid",),
}
QUERY_COLUMNS: Usual = {
    "query_id": (*_QUERY_ID, "id", "_id"),
    "query": ("query", "question", "text", "input", "query_text"),  # KILT's tests have an input.
    "answers": ("answers", "answer"),
}
JUDGEMENT_COLUMNS: Usual = {
    "query_id": (*_QUERY_ID, "topic", "query"),
    "passage_id": _PASSAGE_ID,
    "relevance": ("relevance", "score", "label", "rel", "grade", "judgment", "judgement"),
}
RUN_COLUMNS: Usual = {
    "query_id": (*_QUERY_ID, "topic"),
    "passage_ids": ("passage_ids",),
    "scores": ("scores",),
    "passage_id": _PASSAGE_ID,  # A hit in each row, as in PyTerrier and ranx.
    "score": ("score",),
    "rank": ("rank",),
}

_KNOWN = frozenset(
    name
    for usual in (PASSAGE_COLUMNS, QUERY_COLUMNS, JUDGEMENT_COLUMNS, RUN_COLUMNS)
    for names in usual.values()
    for name in names
)
_NAME = re.compile(r"[A-Za-z_][\w-]{0,30}", re.ASCII)


def usual_columns(present: Iterable[str], usual: Usual, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Choose columns by their usual names, whatever their case.

    Args:
        present (`Iterable[str]`): The columns that there are.
        usual (`Mapping[str, Sequence[str]]`): Usual names of the columns by field.
        given (`Mapping[str, str]`, *optional*): Columns by field that are chosen already.

    Returns:
        `dict[str, str]`: Columns by field, none chosen for two fields; fields without a column are left out.
    """
    chosen = dict(given or {})
    by_name: dict[str, str] = {}
    for column in present:
        by_name.setdefault(column.strip().lower(), column)
    for field, names in usual.items():
        name = next((name for name in names if name in by_name), None)
        if field not in chosen and name is not None:
            chosen[field] = by_name.pop(name)
    return chosen


def header_columns(
    location: str,
    cells: Sequence[str],
    usual: Usual,
    needed: Sequence[Sequence[str]],
    given: Mapping[str, str] | None = None,
) -> dict[str, int] | None:
    """The columns that the first line of a file names.

    Args:
        location (`str`): Of the line, for errors.
        cells (`Sequence[str]`): The line's cells.
        usual (`Mapping[str, Sequence[str]]`): Usual names of the columns by field.
        needed (`Sequence[Sequence[str]]`): Groups of fields, of each of which one has to be named.
        given (`Mapping[str, str]`, *optional*): Columns by field that the user names: then the line is a header.

    Returns:
        `dict[str, int]`, *optional*: Positions of the columns by field; `None` if the line is no header.

    Raises:
        ValueError: if a column that the user names is not there, or two columns have the same name.
    """
    names = [cell.strip() for cell in cells]
    missing = [column for column in (given or {}).values() if column not in names]
    if missing:
        raise DGRValueError(f"{location}: there is no column {missing}; the columns are {names}.")
    chosen = usual_columns(names, usual, given)
    if not all(any(field in chosen for field in group) for group in needed):
        if not given:
            return None
        lacking = next(group for group in needed if not any(field in chosen for field in group))
        raise DGRValueError(
            f"{location}: no column for {' or '.join(lacking)}; the columns are {names}. Name it in place of the "
            f"path: hf:PATH,{lacking[0]}=COLUMN."
        )
    names = unique_names(location, cells)
    return {field: names.index(column) for field, column in chosen.items()}


def looks_like_header(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether the first line of a file looks like names of columns, though they are not known.

    Args:
        first (`Sequence[str]`): Cells of the first line.
        second (`Sequence[str]`): Cells of the second line.
    """
    if not all(_NAME.fullmatch(cell.strip()) for cell in first) or list(first) == list(second):
        return False
    if any(cell.strip().lower() in _KNOWN for cell in first):
        return True
    # The cells below a name of a column are of another kind: ids with digits, texts of several words.
    return not any(map(str.isdigit, first[0])) and any(map(str.isdigit, second[0]))


def warn_of_header(location: str, first: Sequence[str], second: Sequence[str], fields: Sequence[str]) -> None:
    """Log a warning if a first line that was read as data looks like names of columns.

    Args:
        location (`str`): Of the second line.
        first (`Sequence[str]`): Cells of the first line.
        second (`Sequence[str]`): Cells of the second line.
        fields (`Sequence[str]`): Fields whose columns have to be named.
    """
    if looks_like_header(first, second):
        logger.warning(
            "%s: the line before it, %s, looks like names of columns, but was read as data, since the names are not "
            "known. If it is a header, name the columns in place of the path: hf:PATH,%s.",
            location,
            list(first),
            ",".join(f"{field}=COLUMN" for field in fields),
        )
