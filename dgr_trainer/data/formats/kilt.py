"""KILT's files: the knowledge source (`kilt_knowledgesource.json`) and the tasks (`nq-dev-kilt.jsonl`).

A page of Wikipedia is judged relevant if the provenance of an output names it; `PAGE-NUMBER` names a paragraph of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from dgr_trainer.data.formats.answer_lists import check_answers
from dgr_trainer.data.ids import as_id
from dgr_trainer.data.passages import NumberedPassages, passage_row
from dgr_trainer.data.rows import JudgementRow, QueryRow
from dgr_trainer.data.sources import FileSource
from dgr_trainer.data.texts import as_text
from dgr_trainer.errors import DGRTypeError, DGRValueError
from dgr_trainer.files.records import Record

_TASK_FIELDS = frozenset({"id", "input", "output"})
_PAGE_FIELDS = frozenset({"wikipedia_id", "wikipedia_title", "text"})
UNITS = ("page", "paragraph")
_MARKS = ("BULLET::::", "Section::::", "SECTION::::")


def is_knowledge_source(file: FileSource) -> bool:
    """Whether the first record is a page of the knowledge source."""
    return file.kind == "jsonl" and _PAGE_FIELDS <= file.fields


def is_task(file: FileSource) -> bool:
    """Whether the first record is one of a task."""
    return _TASK_FIELDS <= file.fields


def pages(file: FileSource, unit: str = "page") -> NumberedPassages:
    """The passages of a knowledge source.

    Args:
        file ([`FileSource`]): The file.
        unit (`str`, *optional*, defaults to `"page"`):
            What a passage is: `"page"`, whose id is the page's, or `"paragraph"`, whose id is `PAGE-NUMBER`, counting
            from 0 as in KILT's provenance. The first paragraph of a page is its title and not a passage.

    Raises:
        ValueError: if `unit` is unknown; while reading, if a record is no page.
    """
    if unit not in UNITS:
        raise DGRValueError(f"unit is {unit!r}, but a passage of a knowledge source is one of {', '.join(UNITS)}.")
    records = file.records()

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, record in records.rows:
            location = records.location(number)
            missing = sorted(_PAGE_FIELDS - set(record))
            if missing:
                raise DGRValueError(f"{location}: no field {missing}. The fields found are {sorted(record)}.")
            paragraphs = record["text"]
            if not isinstance(paragraphs, list) or not all(isinstance(paragraph, str) for paragraph in paragraphs):
                raise DGRTypeError(
                    f"{location}: the text is {paragraphs!r:.60}, but it has to be a list of paragraphs."
                )
            page, title = as_id(record["wikipedia_id"], "page", location), record["wikipedia_title"]
            texts = [_plain(paragraph) for paragraph in paragraphs]
            # The first paragraph of a page repeats its title.
            body = range(1 if texts and texts[0] == str(title).strip() else 0, len(texts))
            if unit == "page":
                passages = [(page, "\n".join(texts[number] for number in body if texts[number]))]
            else:
                passages = [(f"{page}-{number}", texts[number]) for number in body if texts[number]]
            for id, text in passages:
                yield number, passage_row(location, id=id, title=title, text=text, pseudo_queries=None, docid=None)

    return NumberedPassages(rows(), records.location, os.fspath(file.path))


def task_queries(file: FileSource) -> Iterator[QueryRow]:
    """Read the queries of a task.

    Args:
        file ([`FileSource`]): The file.

    Yields:
        [`QueryRow`]: An input with the answers of its outputs.

    Raises:
        TypeError: if a field is of another type.
        ValueError: if a field is missing.
    """
    records = file.records()
    for number, record in records.rows:
        location = records.location(number)
        outputs = _outputs(location, record)
        answers = [output["answer"] for output in outputs if output.get("answer")]
        query_id = as_id(record["id"], "query", location)
        query = as_text(record["input"], f"query {query_id!r}", location)
        yield QueryRow(location, query_id, query, list(dict.fromkeys(check_answers(location, answers))))


def task_judgements(file: FileSource, unit: str = "page") -> Iterator[JudgementRow]:
    """Read the provenance of a task's outputs.

    Args:
        file ([`FileSource`]): The file.
        unit (`str`, *optional*, defaults to `"page"`):
            As in [`pages`]; a provenance of several paragraphs judges each of them.

    Yields:
        [`JudgementRow`]: A page or paragraph, with relevance 1.
    """
    records = file.records()
    for number, record in records.rows:
        location = records.location(number)
        query_id = as_id(record.get("id"), "query", location)
        for output in _outputs(location, record):
            for source in output.get("provenance") or []:
                page = as_id(source.get("wikipedia_id"), "page", location)
                if unit == "page":
                    yield JudgementRow(location, query_id, page, 1)
                elif source.get("start_paragraph_id") is not None:
                    start = int(source["start_paragraph_id"])
                    for paragraph in range(start, int(source.get("end_paragraph_id") or start) + 1):
                        yield JudgementRow(location, query_id, f"{page}-{paragraph}", 1)


def _outputs(location: str, record: Record) -> list[Record]:
    missing = sorted(_TASK_FIELDS - set(record))
    if missing:
        raise DGRValueError(f"{location}: no field {missing}. The fields found are {sorted(record)}.")
    outputs = record["output"] or []
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise DGRTypeError(f"{location}: output is {outputs!r:.60}, but it has to be a list of objects.")
    return outputs


def _plain(paragraph: str) -> str:
    for mark in _MARKS:
        paragraph = paragraph.replace(mark, "")
    return paragraph.strip()
