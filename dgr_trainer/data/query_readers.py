"""Files of queries, and the list of their formats."""

from __future__ import annotations

from collections.abc import Iterator

from dgr_trainer.data.columns import QUERY_COLUMNS, header_columns, warn_of_header
from dgr_trainer.data.formats import dpr, kilt, trec_topics
from dgr_trainer.data.formats.answer_lists import check_answers
from dgr_trainer.data.ids import as_id
from dgr_trainer.data.record_fields import advice, record_fields
from dgr_trainer.data.rows import QueryRow
from dgr_trainer.data.sources import FileFormat, FileSource
from dgr_trainer.data.texts import as_text
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.lines import line_location, numbered_lines

_NEEDED = (("query_id",), ("query",))


def record_queries(file: FileSource) -> Iterator[QueryRow]:
    """The queries of a file of records (JSON Lines, a JSON array, CSV, Parquet, Arrow).

    Queries of a file that is named after `hf:` need no ids, like those of a dataset: their numbers are their ids.

    Raises:
        TypeError: if a query is no string, or answers are no list of strings.
        ValueError: if a record has no id or no query.
    """
    records = file.records()
    needed = _NEEDED if file.columns is None else _NEEDED[1:]
    for count, (number, values) in enumerate(
        record_fields(records, QUERY_COLUMNS, needed, "a query", advice(file, _ADVICE))
    ):
        location = records.location(number)
        query_id = as_id(values.get("query_id", count), "query", location)
        query = as_text(values["query"], f"query {query_id!r}", location)
        answers = values.get("answers") or []
        if isinstance(answers, str) and file.kind in ("csv", "tsv"):
            answers = [answers]
        yield QueryRow(location, query_id, query, check_answers(location, answers))


def tsv_queries(file: FileSource) -> Iterator[QueryRow]:
    """The queries of a tab-separated file: id and query on each line, or the columns that the first line names.

    A first line that looks like a header of unknown names is warned of.

    Raises:
        ValueError: if a line does not have two columns or those of the header, or an id is invalid.
    """
    columns: dict[str, int] | None = None
    first: list[str] | None = None
    width = 2
    for number, line in numbered_lines(file.path):
        location = line_location(file.path, number)
        cells = line.split("\t")
        if columns is None:
            columns = header_columns(location, cells, QUERY_COLUMNS, _NEEDED)
            if columns is not None:
                width = len(cells)
                continue
            columns, first = {"query_id": 0, "query": 1}, cells
        elif first is not None:
            warn_of_header(location, first, cells, ("query_id", "query"))
            first = None
        if len(cells) != width:
            expected = "two are expected: id and query" if width == 2 else f"the first line names {width}"
            raise DGRValueError(f"{location}: {len(cells)} columns, but {expected}, separated by a tab.")
        answer = cells[columns["answers"]] if "answers" in columns else ""
        query_id = as_id(cells[columns["query_id"]], "query", location)
        yield QueryRow(location, query_id, cells[columns["query"]], [answer] if answer else [])


_ADVICE = "Name the ones to use in place of the path: hf:PATH,query_id=FIELD,query=FIELD."

FORMATS: tuple[FileFormat[Iterator[QueryRow]], ...] = (
    FileFormat("DPR questions", dpr.is_question_file, dpr.question_rows),
    FileFormat("TREC topics", trec_topics.recognises, trec_topics.query_rows),
    FileFormat("TSV", lambda file: file.kind == "tsv", tsv_queries),
    FileFormat("DPR training set", dpr.is_training_set, dpr.training_queries),
    FileFormat("DPR results", dpr.is_retriever_results, dpr.result_queries),
    FileFormat("KILT task", kilt.is_task, kilt.task_queries),
    FileFormat("records", lambda file: file.holds_records, record_queries, by_name=True),
)
"""File formats of queries: the first that recognises a file reads it."""
