"""Files of relevance judgements, and the list of their formats."""

from __future__ import annotations

from collections.abc import Iterator

from dgr_trainer.data.columns import JUDGEMENT_COLUMNS, header_columns
from dgr_trainer.data.formats import dpr, kilt
from dgr_trainer.data.grades import is_integer
from dgr_trainer.data.record_fields import advice, record_fields
from dgr_trainer.data.rows import JudgementRow, judgement_row
from dgr_trainer.data.sources import FileFormat, FileSource
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.lines import line_location, numbered_lines

_NEEDED = (("query_id",), ("passage_id",), ("relevance",))
_POSITIONS = {3: (0, 1, 2), 4: (0, 2, 3)}
"""Where query, passage and relevance are in BEIR's three columns and TREC's four."""


def line_judgements(file: FileSource) -> Iterator[JudgementRow]:
    """The judgements of a text file: TREC's four columns or BEIR's three, or those that the first line names.

    A first line is a header if it names the columns by their usual names; otherwise if it has three or four, of which
    the last is no grade but a name.

    Raises:
        ValueError: if a line has other columns than the first one, or its relevance is no integer up to 1000.
    """
    at: tuple[int, int, int] | None = None  # Where query, passage and relevance are.
    width = 0
    for number, line in numbered_lines(file.path):
        location = line_location(file.path, number)
        cells = line.split()
        if at is None:
            width = len(cells)
            named = header_columns(location, cells, JUDGEMENT_COLUMNS, _NEEDED)
            if named is not None:
                at = named["query_id"], named["passage_id"], named["relevance"]
                continue
            at = _POSITIONS.get(width)
            if at is not None and not is_integer(cells[-1]):
                if cells[0].lower() in JUDGEMENT_COLUMNS["query_id"]:
                    continue
                raise DGRValueError(
                    f"{location}: the relevance (last column) is {cells[-1]!r}, not an integer. If the line names the "
                    f"columns, its names are not known: {cells}. {_ADVICE}"
                )
        if at is None or len(cells) != width:
            expected = "four (query, iteration, passage, relevance) or three (query, passage, relevance)"
            if at is not None:
                expected = str(width)
            hint = " Six columns are a run: read_run reads it." if len(cells) == 6 else ""
            raise DGRValueError(f"{location}: {len(cells)} columns, but qrels have {expected} on every line.{hint}")
        query_id, passage_id, grade = cells[at[0]], cells[at[1]], cells[at[2]]
        if len(grade) < 4 and grade.isdecimal():
            yield JudgementRow(location, query_id, passage_id, int(grade))  # The ids hold no whitespace.
        else:
            yield judgement_row(location, query_id, passage_id, grade)


def record_judgements(file: FileSource) -> Iterator[JudgementRow]:
    """The judgements of a file of records (JSON Lines, a JSON array, CSV, Parquet, Arrow).

    Without a field of relevance every passage of a file that is named after `hf:` is relevant, as in a dataset.

    Raises:
        TypeError: if an id is neither a string nor an integer.
        ValueError: if a field is missing, an id is invalid, or a relevance is no integer.
    """
    records = file.records()
    needed = _NEEDED if file.columns is None else _NEEDED[:2]
    hint = "Rank lists are a run: read_run reads it." if "passage_ids" in file.fields else advice(file, _ADVICE)
    for number, values in record_fields(records, JUDGEMENT_COLUMNS, needed, "a judgement", hint):
        location = records.location(number)
        yield judgement_row(location, values["query_id"], values["passage_id"], values.get("relevance", 1))


_ADVICE = "Name the ones to use in place of the path: hf:PATH,query_id=FIELD,passage_id=FIELD,relevance=FIELD."

FORMATS: tuple[FileFormat[Iterator[JudgementRow]], ...] = (
    FileFormat("lines", lambda file: file.holds_lines, line_judgements),
    FileFormat("DPR training set", dpr.is_training_set, dpr.training_judgements),
    FileFormat("DPR results", dpr.is_retriever_results, dpr.result_judgements),
    FileFormat("KILT task", kilt.is_task, kilt.task_judgements),
    FileFormat("records", lambda file: file.holds_records, record_judgements, by_name=True),
)
"""File formats of judgements: the first that recognises a file reads it."""
