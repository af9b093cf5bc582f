"""Files of queries and of judgements: JSON Lines, tab-separated text, tables, DPR's, KILT's and TREC's files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dgr_trainer.data.formats import dpr, kilt, trec_topics
from dgr_trainer.data.formats.answer_lists import check_answers
from dgr_trainer.data.ids import as_id
from dgr_trainer.errors import DGRTypeError, DGRValueError
from dgr_trainer.files.compression import plain_name
from dgr_trainer.files.lines import existing_file, file_kind, location, numbered_lines
from dgr_trainer.files.records import Records, read_records

QUERY_ID_NAMES = ("id", "_id", "query_id", "qid")
QUERY_NAMES = ("text", "query", "input")  # The last one is that of KILT's tests, which have no outputs.
_QRELS_HEADER = ("query-id", "query_id", "qid", "queryid", "query", "topic")
_HIGHEST = 1000
# What BEIR and others call the columns of judgements in files of records.
_JUDGEMENT_NAMES = (("query-id", "query_id", "qid"), ("corpus-id", "passage_id", "doc_id"), ("score", "relevance"))


def query_rows(path: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    """The queries of a file, whatever its format.

    Yields:
        `tuple[str, str, str, list[str]]`: place for errors, query id, query, answers.

    Raises:
        TypeError, ValueError: if something is malformed, or the format is unknown.
    """
    kind = file_kind(existing_file(path))
    if dpr.is_qa_file(plain_name(path)):
        for number, query_id, query, answers in dpr.qa_rows(path):
            yield location(path, number), query_id, query, answers
    elif kind in ("", "tsv") and trec_topics.are_topics(path):
        for number, query_id, query in trec_topics.topic_rows(path):
            yield location(path, number), query_id, query, []
    elif kind == "tsv":
        yield from _tab_separated(path)
    elif kind:
        records, fields = read_records(path).peek()
        if dpr.TRAINING_FIELDS <= fields:
            for question in dpr.training_questions(records):
                yield records.location(question.number), question.query_id, question.query, question.answers
        elif dpr.RESULT_FIELDS <= fields:
            for result in dpr.retriever_results(records):
                yield result.where, result.query_id, result.query, result.answers
        elif kilt.TASK_FIELDS <= fields:
            for number, query_id, query, answers in kilt.task_rows(records):
                yield records.location(number), query_id, query, answers
        else:
            yield from _plain_records(records)
    else:
        raise DGRValueError(f"{path}: the name does not tell the format. Name it .jsonl or .tsv.")


def judgement_rows(path: Path) -> Iterator[tuple[str, str, str, int]]:
    """The judgements of a file, whatever its format.

    Yields:
        `tuple[str, str, str, int]`: place for errors, query id, passage id, relevance.

    Raises:
        ValueError: if something is malformed.
    """
    if file_kind(existing_file(path)) in ("", "tsv"):
        yield from _judgement_lines(path)
        return
    records, fields = read_records(path).peek()
    if dpr.TRAINING_FIELDS <= fields:
        for question in dpr.training_questions(records):
            for passage_id in question.positives:
                yield records.location(question.number), question.query_id, passage_id, 1
    elif dpr.RESULT_FIELDS <= fields:
        for result in dpr.retriever_results(records):
            for passage_id, relevance in result.relevance.items():
                yield result.where, result.query_id, passage_id, relevance
    elif kilt.TASK_FIELDS <= fields:
        for number, query_id, passage_id, relevance in kilt.task_judgements(records):
            yield records.location(number), query_id, passage_id, relevance
    else:
        yield from _judgement_records(records)


def _plain_records(records: Records) -> Iterator[tuple[str, str, str, list[str]]]:
    for number, record in records.rows:
        where = records.location(number)
        id_name = next((name for name in QUERY_ID_NAMES if name in record), None)
        name = next((name for name in QUERY_NAMES if name in record), None)
        if id_name is None or name is None:
            raise DGRValueError(
                f"{where}: a query needs an id ({', '.join(QUERY_ID_NAMES)}) and a text "
                f"({', '.join(QUERY_NAMES)}). The fields found are {sorted(record)}. Name the ones to use in place of "
                "the path: hf:PATH,query_id=FIELD,query=FIELD."
            )
        query = record[name]
        if not isinstance(query, str):
            raise DGRTypeError(f"{where}: the query is {query!r} ({type(query).__name__}), not a string.")
        answers = check_answers(where, record.get("answers") or [])
        yield where, as_id(record[id_name], "query", where), query, answers


def _tab_separated(path: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    first = True
    for number, line in numbered_lines(path):
        where = location(path, number)
        cells = line.split("\t")
        if len(cells) != 2:
            raise DGRValueError(
                f"{where}: {len(cells)} columns, but two are expected: id and query, between them a tab."
            )
        header = first and cells[0].strip().lower() in QUERY_ID_NAMES and cells[1].strip().lower() in QUERY_NAMES
        first = False
        if not header:
            yield where, as_id(cells[0], "query", where), cells[1], []


def _judgement_lines(path: Path) -> Iterator[tuple[str, str, str, int]]:
    columns = 0
    first: list[str] = []
    varies = ""  # where the second of four columns is another one for the first time
    one_passage = True
    for number, line in numbered_lines(path):
        where = location(path, number)
        cells = line.split()
        if columns == 0 and len(cells) in (3, 4) and cells[0].lower() in _QRELS_HEADER and not _is_integer(cells[-1]):
            columns = len(cells)
            continue
        if len(cells) not in (3, 4) or columns not in (0, len(cells)):
            wanted = (
                str(columns or "")
                or "four (query, iteration, passage, relevance) or three (query, passage, relevance)"
            )
            hint = " Six columns are a run: read_run reads it." if len(cells) == 6 else ""
            raise DGRValueError(f"{where}: {len(cells)} columns, but qrels have {wanted} on every line.{hint}")
        columns = len(cells)
        if not _is_integer(cells[-1]):
            raise DGRValueError(f"{where}: the relevance (last column) is {cells[-1]!r}, not an integer.")
        relevance = int(cells[-1])
        if relevance > _HIGHEST:
            raise DGRValueError(
                f"{where}: the relevance (last column) is {relevance}, and the passage (the column before) "
                f"{cells[-2]!r}. Are the two swapped? Relevance is {_HIGHEST} at most."
            )
        first = first or cells
        one_passage = one_passage and cells[-2] == first[-2]
        varies = varies or (where if cells[1] != first[1] else "")
        yield where, cells[0], cells[-2], relevance
    if columns == 4 and one_passage and varies:
        raise DGRValueError(
            f"{varies}: the passage (column 3) is {first[-2]!r} as on every other line, while column 2, which should "
            "be 0 on all, is another one. The order is: query, iteration (0), passage, relevance."
        )


def _judgement_records(records: Records) -> Iterator[tuple[str, str, str, int]]:
    for number, record in records.rows:
        where = records.location(number)
        names = [next((name for name in names if name in record), None) for names in _JUDGEMENT_NAMES]
        query, passage, relevance = names
        if query is None or passage is None or relevance is None:
            wanted = " and ".join(f"{' or '.join(options)}" for options in _JUDGEMENT_NAMES)
            hint = (
                " Name the ones to use in place of the path: hf:PATH,query_id=FIELD,passage_id=FIELD,relevance=FIELD."
            )
            if "passage_ids" in record:
                hint = " Rank lists are a run: read_run reads it."
            raise DGRValueError(f"{where}: a judgement needs {wanted}. The fields found are {sorted(record)}.{hint}")
        value = record[relevance]
        if isinstance(value, bool) or not isinstance(value, int):
            raise DGRValueError(f"{where}: the {relevance} is {value!r}, not an integer.")
        yield where, as_id(record[query], "query", where), as_id(record[passage], "passage", where), value


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isdecimal()
