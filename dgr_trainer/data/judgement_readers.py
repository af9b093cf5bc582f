"""Files of relevance judgements, and the list of their formats."""

from __future__ import annotations

from collections.abc import Iterator

from dgr_trainer.data.formats import dpr, kilt
from dgr_trainer.data.ids import as_id
from dgr_trainer.data.rows import JudgementRow
from dgr_trainer.data.sources import FileFormat, FileSource
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.lines import line_location, numbered_lines

_HEADER_NAMES = ("query-id", "query_id", "qid", "queryid", "query", "topic")
_HIGHEST_RELEVANCE = 1000
# What BEIR and others call the fields of judgements.
_FIELD_NAMES = (("query-id", "query_id", "qid"), ("corpus-id", "passage_id", "doc_id"), ("score", "relevance"))


def line_judgements(file: FileSource) -> Iterator[JudgementRow]:
    """The judgements of a text file: TREC's four columns or BEIR's three, perhaps with a header.

    Raises:
        ValueError: if a line has other columns than the first one, or its relevance is no integer up to 1000.
    """
    columns = 0
    for number, line in numbered_lines(file.path):
        location = line_location(file.path, number)
        cells = line.split()
        if columns == 0 and len(cells) in (3, 4) and cells[0].lower() in _HEADER_NAMES and not _is_integer(cells[-1]):
            columns = len(cells)
            continue
        if len(cells) not in (3, 4) or columns not in (0, len(cells)):
            expected = columns or "four (query, iteration, passage, relevance) or three (query, passage, relevance)"
            hint = " Six columns are a run: read_run reads it." if len(cells) == 6 else ""
            raise DGRValueError(f"{location}: {len(cells)} columns, but qrels have {expected} on every line.{hint}")
        columns = len(cells)
        if not _is_integer(cells[-1]):
            raise DGRValueError(f"{location}: the relevance (last column) is {cells[-1]!r}, not an integer.")
        relevance = int(cells[-1])
        if relevance > _HIGHEST_RELEVANCE:
            raise DGRValueError(
                f"{location}: the relevance (last column) is {relevance}, and the passage (the column before) "
                f"{cells[-2]!r}. Are the two swapped? Relevance is {_HIGHEST_RELEVANCE} at most."
            )
        yield JudgementRow(location, cells[0], cells[-2], relevance)


def record_judgements(file: FileSource) -> Iterator[JudgementRow]:
    """The judgements of a file of records (JSON Lines, a JSON array, Parquet, Arrow).

    Raises:
        TypeError: if an id is neither a string nor an integer.
        ValueError: if a field is missing, an id is invalid, or a relevance is no integer.
    """
    records = file.records()
    for number, record in records.rows:
        location = records.location(number)
        query_name, passage_name, relevance_name = (
            next((name for name in names if name in record), None) for names in _FIELD_NAMES
        )
        if query_name is None or passage_name is None or relevance_name is None:
            needed = " and ".join(" or ".join(names) for names in _FIELD_NAMES)
            hint = (
                " Name the ones to use in place of the path: hf:PATH,query_id=FIELD,passage_id=FIELD,relevance=FIELD."
            )
            if "passage_ids" in record:
                hint = " Rank lists are a run: read_run reads it."
            raise DGRValueError(
                f"{location}: a judgement needs {needed}. The fields found are {sorted(record)}.{hint}"
            )
        relevance = record[relevance_name]
        if isinstance(relevance, bool) or not isinstance(relevance, int):
            raise DGRValueError(f"{location}: the {relevance_name} is {relevance!r}, not an integer.")
        query_id = as_id(record[query_name], "query", location)
        yield JudgementRow(location, query_id, as_id(record[passage_name], "passage", location), relevance)


FORMATS: tuple[FileFormat[Iterator[JudgementRow]], ...] = (
    FileFormat("lines", lambda file: file.kind in ("", "tsv"), line_judgements),
    FileFormat("DPR training set", dpr.is_training_set, dpr.training_judgements),
    FileFormat("DPR results", dpr.is_retriever_results, dpr.result_judgements),
    FileFormat("KILT task", kilt.is_task, kilt.task_judgements),
    FileFormat("records", lambda file: file.holds_records, record_judgements),
)
"""File formats of judgements: the first that recognises a file reads it."""


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isdecimal()
