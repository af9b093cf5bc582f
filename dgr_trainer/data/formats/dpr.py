"""DPR's files: questions with answers (`nq-test.qa.csv`) and training sets (`biencoder-nq-train.json`).

Neither file has ids of questions: a question's id is its number in the file, from 0, as in Pyserini's topics. The
passages, `psgs_w100.tsv`, are read by `Corpus.read`.
"""

from __future__ import annotations

import ast
import csv
from collections.abc import Iterator
from typing import NamedTuple

from dgr_trainer.data.formats.answer_lists import check_answers
from dgr_trainer.data.ids import as_id
from dgr_trainer.data.rows import JudgementRow, QueryRow
from dgr_trainer.data.sources import FileSource
from dgr_trainer.data.texts import as_text
from dgr_trainer.errors import DGRTypeError, DGRValueError
from dgr_trainer.files.lines import line_location, numbered_lines
from dgr_trainer.files.records import Record, Records

_TRAINING_FIELDS = frozenset({"question", "positive_ctxs"})
_RESULT_FIELDS = frozenset({"question", "ctxs"})
# Natural Questions; TriviaQA and others; results of DPR's retriever; of Pyserini's.
_PASSAGE_ID_NAMES = ("passage_id", "psg_id", "id", "docid")


class Question(NamedTuple):
    """A question of a training set.

    Args:
        location (`str`): How errors name its record.
        query_id (`str`): Its number in the file, from 0.
        query (`str`): The question.
        answers (`list[str]`): Its answers.
        positives (`list[str]`): Ids of passages that hold an answer.
        hard_negatives (`list[str]`): Ids of passages that BM25 found and that hold none, best first.
    """

    location: str
    query_id: str
    query: str
    answers: list[str]
    positives: list[str]
    hard_negatives: list[str]


class Result(NamedTuple):
    """What a retriever found for a question.

    Args:
        location (`str`): How errors name its record.
        query_id (`str`): Id of the question, or its number in the file, from 0.
        query (`str`): The question.
        answers (`list[str]`): Its answers.
        passage_ids (`list[str]`): Passages that were found.
        scores (`list[float]`): Their scores.
        relevance (`dict[str, int]`): Whether a passage holds an answer (1 or 0), where the file says so.
    """

    location: str
    query_id: str
    query: str
    answers: list[str]
    passage_ids: list[str]
    scores: list[float]
    relevance: dict[str, int]


def is_question_file(file: FileSource) -> bool:
    """Whether the name ends in `.qa.csv`."""
    return file.name.endswith(".qa.csv")


def is_training_set(file: FileSource) -> bool:
    """Whether the first record is a question of a training set."""
    return _TRAINING_FIELDS <= file.fields


def is_retriever_results(file: FileSource) -> bool:
    """Whether the first record is a question with the passages that a retriever found."""
    return _RESULT_FIELDS <= file.fields


def question_rows(file: FileSource) -> Iterator[QueryRow]:
    """Read questions with answers: a question and a Python list of strings on each line, separated by a tab.

    Args:
        file ([`FileSource`]): The file.

    Yields:
        [`QueryRow`]

    Raises:
        ValueError: if a line does not have two columns, or its answers are no list of strings.
    """
    for count, (number, line) in enumerate(numbered_lines(file.path)):
        location = line_location(file.path, number)
        try:
            (cells,) = csv.reader([line], delimiter="\t")
        except csv.Error as error:
            raise DGRValueError(f"{location}: no line of a tab-separated file ({error}).") from None
        if len(cells) != 2:
            cells = line.split("\t")  # A question that begins with a quote of its own.
        if len(cells) != 2:
            raise DGRValueError(
                f"{location}: {len(cells)} columns, but two are expected: question and list of answers, separated by "
                "a tab."
            )
        yield QueryRow(location, str(count), cells[0], _answers(location, cells[1]))


def training_questions(records: Records) -> Iterator[Question]:
    """Read a training set.

    Args:
        records ([`Records`]): The records of the file.

    Yields:
        [`Question`]

    Raises:
        TypeError: if a field is of another type.
        ValueError: if a field, or the id of a passage, is missing.
    """
    for count, (number, record) in enumerate(records.rows):
        location = records.location(number)
        missing = sorted(_TRAINING_FIELDS - set(record))
        if missing:
            raise DGRValueError(f"{location}: no field {missing}. The fields found are {sorted(record)}.")
        question = as_text(record["question"], f"query {str(count)!r}", location)
        answers = record.get("answers") or []
        yield Question(
            location,
            str(count),
            question,
            check_answers(location, answers),
            _passage_ids(location, record, "positive_ctxs"),
            _passage_ids(location, record, "hard_negative_ctxs"),
        )


def training_queries(file: FileSource) -> Iterator[QueryRow]:
    """The questions of a training set."""
    for question in training_questions(file.records()):
        yield QueryRow(question.location, question.query_id, question.query, question.answers)


def training_judgements(file: FileSource) -> Iterator[JudgementRow]:
    """The positive passages of a training set, with relevance 1."""
    for question in training_questions(file.records()):
        for passage_id in question.positives:
            yield JudgementRow(question.location, question.query_id, passage_id, 1)


def retriever_results(records: Records) -> Iterator[Result]:
    """Read the results of DPR's retriever.

    A record has `question`, `answers` and `ctxs`; each of the latter has `id`, `score` and perhaps `has_answer`. If no
    passage of a question has a score, their order counts: of n passages the first gets the score n, the last gets 1.

    Args:
        records ([`Records`]): The records of the file.

    Yields:
        [`Result`]

    Raises:
        TypeError: if a field is of another type.
        ValueError: if a field, or the id or score of a passage, is missing.
    """
    for count, (number, record) in enumerate(records.rows):
        location = records.location(number)
        missing = sorted(_RESULT_FIELDS - set(record))
        if missing:
            raise DGRValueError(f"{location}: no field {missing}. The fields found are {sorted(record)}.")
        query_id = as_id(record.get("id", count), "query", location)
        question, passages = as_text(record["question"], f"query {query_id!r}", location), record["ctxs"]
        ids = _passage_ids(location, record, "ctxs")
        scored = any("score" in passage for passage in passages)
        scores = [_score(location, p) if scored else float(len(ids) - rank) for rank, p in enumerate(passages)]
        relevance: dict[str, int] = {}
        for id, passage in zip(ids, passages, strict=True):
            judged = passage.get("has_answer")
            if judged is not None and not isinstance(judged, bool):
                raise DGRTypeError(f"{location}: has_answer of passage {id!r} is {judged!r:.60}, not true or false.")
            if judged is not None:
                relevance[id] = int(judged)
        answers = check_answers(location, record.get("answers") or [])
        yield Result(location, query_id, question, answers, ids, scores, relevance)


def result_queries(file: FileSource) -> Iterator[QueryRow]:
    """The questions of a retriever's results."""
    for result in retriever_results(file.records()):
        yield QueryRow(result.location, result.query_id, result.query, result.answers)


def result_judgements(file: FileSource) -> Iterator[JudgementRow]:
    """The passages of a retriever's results that the file judges by `has_answer`."""
    for result in retriever_results(file.records()):
        for passage_id, relevance in result.relevance.items():
            yield JudgementRow(result.location, result.query_id, passage_id, relevance)


def _answers(location: str, cell: str) -> list[str]:
    try:
        answers = ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise DGRValueError(
            f"{location}: the answers (column 2) are {cell!r:.80}, which is no list. They are written as a Python "
            "list of strings, such as ['Paris', 'City of Light']."
        ) from None
    try:
        return check_answers(location, answers)
    except TypeError as error:
        raise DGRValueError(str(error)) from None


def _passage_ids(location: str, record: Record, field: str) -> list[str]:
    passages = record.get(field)
    if not isinstance(passages, list) and passages is not None:
        raise DGRTypeError(f"{location}: {field} is a {type(passages).__name__}, but it has to be a list of passages.")
    ids = []
    for passage in passages or []:
        if not isinstance(passage, dict):
            raise DGRTypeError(f"{location}: {field} holds {passage!r:.60}, not an object.")
        name = next((name for name in _PASSAGE_ID_NAMES if name in passage), None)
        if name is None:
            raise DGRValueError(
                f"{location}: a passage of {field} has no id ({', '.join(_PASSAGE_ID_NAMES)}). The fields found are "
                f"{sorted(passage)}."
            )
        ids.append(as_id(passage[name], "passage", location))
    return ids


def _score(location: str, passage: Record) -> float:
    value = passage.get("score")  # DPR writes it as a string.
    try:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError
        return float(value)
    except ValueError:
        raise DGRValueError(f"{location}: the score of a passage is {value!r:.60}, not a number.") from None
