"""Files of queries, and the list of their formats."""

from __future__ import annotations

from collections.abc import Iterator

from dgr_trainer.data.formats import dpr, kilt, trec_topics
from dgr_trainer.data.formats.answer_lists import check_answers
from dgr_trainer.data.ids import as_id
from dgr_trainer.data.rows import QueryRow
from dgr_trainer.data.sources import FileFormat, FileSource
from dgr_trainer.errors import DGRTypeError, DGRValueError
from dgr_trainer.files.lines import line_location, numbered_lines

_ID_NAMES = ("id", "_id", "query_id", "qid")
_QUERY_NAMES = ("text", "query", "input")  # The last one is that of KILT's tests, which have no outputs.


def record_queries(file: FileSource) -> Iterator[QueryRow]:
    """The queries of a file of records (JSON Lines, a JSON array, Parquet, Arrow).

    Raises:
        TypeError: if a query is no string, or answers are no list of strings.
        ValueError: if a record has no id or no query.
    """
    records = file.records()
    for number, record in records.rows:
        location = records.location(number)
        id_name = next((name for name in _ID_NAMES if name in record), None)
        query_name = next((name for name in _QUERY_NAMES if name in record), None)
        if id_name is None or query_name is None:
            raise DGRValueError(
                f"{location}: a query needs an id ({', '.join(_ID_NAMES)}) and a text ({', '.join(_QUERY_NAMES)}). "
                f"The fields found are {sorted(record)}. Name the ones to use in place of the path: "
                "hf:PATH,query_id=FIELD,query=FIELD."
            )
        query = record[query_name]
        if not isinstance(query, str):
            raise DGRTypeError(f"{location}: the query is {query!r} ({type(query).__name__}), not a string.")
        answers = check_answers(location, record.get("answers") or [])
        yield QueryRow(location, as_id(record[id_name], "query", location), query, answers)


def tsv_queries(file: FileSource) -> Iterator[QueryRow]:
    """The queries of a tab-separated file: id and query on each line; a first line that names them is skipped.

    Raises:
        ValueError: if a line does not have two columns, or an id is invalid.
    """
    first = True
    for number, line in numbered_lines(file.path):
        location = line_location(file.path, number)
        cells = line.split("\t")
        if len(cells) != 2:
            raise DGRValueError(
                f"{location}: {len(cells)} columns, but two are expected: id and query, separated by a tab."
            )
        is_header = first and cells[0].strip().lower() in _ID_NAMES and cells[1].strip().lower() in _QUERY_NAMES
        first = False
        if not is_header:
            yield QueryRow(location, as_id(cells[0], "query", location), cells[1], [])


FORMATS: tuple[FileFormat[Iterator[QueryRow]], ...] = (
    FileFormat("DPR questions", dpr.is_question_file, dpr.question_rows),
    FileFormat("TREC topics", trec_topics.recognises, trec_topics.query_rows),
    FileFormat("TSV", lambda file: file.kind == "tsv", tsv_queries),
    FileFormat("DPR training set", dpr.is_training_set, dpr.training_queries),
    FileFormat("DPR results", dpr.is_retriever_results, dpr.result_queries),
    FileFormat("KILT task", kilt.is_task, kilt.task_queries),
    FileFormat("records", lambda file: file.holds_records, record_queries),
)
"""File formats of queries: the first that recognises a file reads it."""
