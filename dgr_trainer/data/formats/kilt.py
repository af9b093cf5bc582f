"""KILT's files: the knowledge source (`kilt_knowledgesource.json`) and the tasks (`nq-dev-kilt.jsonl`).

A page of Wikipedia is judged relevant if the provenance of an output names it; `PAGE-NUMBER` names a paragraph of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from dgr_trainer.data.formats.answer_lists import check_answers
from dgr_trainer.data.ids import as_id
from dgr_trainer.data.passages import PassageRows, passage_row
from dgr_trainer.errors import DGRTypeError, DGRValueError
from dgr_trainer.files.records import Record, Records, read_records

TASK_FIELDS = frozenset({"id", "input", "output"})
"""Fields by which a record of a task is known."""
PAGE_FIELDS = frozenset({"wikipedia_id", "wikipedia_title", "text"})
"""Fields by which a page of the knowledge source is known."""
UNITS = ("page", "paragraph")
_MARKS = ("BULLET::::", "Section::::", "SECTION::::")


def page_rows(path: str | os.PathLike[str], unit: str) -> PassageRows:
    """The passages of a knowledge source.

    Args:
        path (`str` or `os.PathLike`): the file.
        unit (`str`): what a passage is: `"page"`, whose id is the page's, or `"paragraph"`, whose id is `PAGE-NUMBER`,
            numbers counting from 0 as in KILT's provenance. The first paragraph of a page is its title, and is no
            passage.

    Raises:
        ValueError: if `unit` is unknown; while reading, if a record is no page.
    """
    if unit not in UNITS:
        raise DGRValueError(f"unit is {unit!r}, but a passage of a knowledge source is one of {', '.join(UNITS)}.")
    records = read_records(path)

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, record in records.rows:
            where = records.location(number)
            missing = sorted(PAGE_FIELDS - set(record))
            if missing:
                raise DGRValueError(f"{where}: no field {missing}. The fields found are {sorted(record)}.")
            paragraphs = record["text"]
            if not isinstance(paragraphs, list) or not all(isinstance(one, str) for one in paragraphs):
                raise DGRTypeError(f"{where}: the text is {paragraphs!r:.60}, but it has to be a list of paragraphs.")
            page, title = as_id(record["wikipedia_id"], "page", where), record["wikipedia_title"]
            texts = [_plain(paragraph) for paragraph in paragraphs]
            # The title stands at the head of a page's paragraphs as well.
            body = range(1 if texts and texts[0] == str(title).strip() else 0, len(texts))
            if unit == "page":
                passages = [(page, "\n".join(texts[at] for at in body if texts[at]))]
            else:
                passages = [(f"{page}-{at}", texts[at]) for at in body if texts[at]]
            for id, text in passages:
                yield number, passage_row(where, id=id, title=title, text=text, pseudo_queries=None, docid=None)

    return PassageRows(rows(), records.location, os.fspath(path))


def task_rows(records: Records) -> Iterator[tuple[int, str, str, list[str]]]:
    """Read the queries of a task.

    Args:
        records ([`Records`]): of the file.

    Yields:
        `tuple[int, str, str, list[str]]`: line, query id, input, answers of the outputs.

    Raises:
        TypeError: if a field is of another type.
        ValueError: if a field is missing.
    """
    for number, record in records.rows:
        where = records.location(number)
        outputs = _outputs(where, record)
        answers = [output["answer"] for output in outputs if output.get("answer")]
        if not isinstance(record["input"], str):
            raise DGRTypeError(f"{where}: the input is {record['input']!r:.60}, not a string.")
        query_id = as_id(record["id"], "query", where)
        yield number, query_id, record["input"], list(dict.fromkeys(check_answers(where, answers)))


def task_judgements(records: Records, unit: str = "page") -> Iterator[tuple[int, str, str, int]]:
    """Read the provenance of a task's outputs.

    Args:
        records ([`Records`]): of the file.
        unit (`str`, *optional*, defaults to `"page"`): as of [`page_rows`]; a provenance of several paragraphs judges
            each of them.

    Yields:
        `tuple[int, str, str, int]`: line, query id, passage id, relevance (1).
    """
    for number, record in records.rows:
        where = records.location(number)
        query_id = as_id(record.get("id"), "query", where)
        for output in _outputs(where, record):
            for source in output.get("provenance") or []:
                page = as_id(source.get("wikipedia_id"), "page", where)
                if unit == "page":
                    yield number, query_id, page, 1
                elif source.get("start_paragraph_id") is not None:
                    start = int(source["start_paragraph_id"])
                    for at in range(start, int(source.get("end_paragraph_id") or start) + 1):
                        yield number, query_id, f"{page}-{at}", 1


def _outputs(where: str, record: Record) -> list[Record]:
    missing = sorted(TASK_FIELDS - set(record))
    if missing:
        raise DGRValueError(f"{where}: no field {missing}. The fields found are {sorted(record)}.")
    outputs = record["output"] or []
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise DGRTypeError(f"{where}: output is {outputs!r:.60}, but it has to be a list of objects.")
    return outputs


def _plain(paragraph: str) -> str:
    for mark in _MARKS:
        paragraph = paragraph.replace(mark, "")
    return paragraph.strip()
