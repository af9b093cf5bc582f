"""DPR's files: questions with answers (`nq-test.qa.csv`) and training sets (`biencoder-nq-train.json`).

Neither file has ids of questions: a question's id is its number in the file, from 0, as in Pyserini's topics. The
passages, `psgs_w100.tsv`, are read by `Corpus.read`.
"""

from __future__ import annotations

import ast
import csv
import os
from collections.abc import Iterator
from typing import NamedTuple

from dgr_trainer.data.formats.answer_lists import check_answers
from dgr_trainer.data.ids import as_id
from dgr_trainer.errors import DGRTypeError, DGRValueError
from dgr_trainer.files.lines import location, numbered_lines
from dgr_trainer.files.records import Record, Records

TRAINING_FIELDS = frozenset({"question", "positive_ctxs"})
"""Fields by which a record of a training set is known."""
RESULT_FIELDS = frozenset({"question", "ctxs"})
"""Fields by which a record of a retriever's results is known."""
# Natural Questions; TriviaQA and others; results of DPR's retriever; of Pyserini's.
_PASSAGE_ID_NAMES = ("passage_id", "psg_id", "id", "docid")


class Question(NamedTuple):
    """A question of a training set.

    Args:
        number (`int`): line of the file.
        query_id (`str`): its number in the file, from 0.
        query (`str`): the question.
        answers (`list[str]`): its answers.
        positives (`list[str]`): ids of passages that hold an answer.
        hard_negatives (`list[str]`): ids of passages that BM25 found and that hold none, best first.
    """

    number: int
    query_id: str
    query: str
    answers: list[str]
    positives: list[str]
    hard_negatives: list[str]


class Result(NamedTuple):
    """What a retriever found for a question.

    Args:
        where (`str`): place for errors.
        query_id (`str`): the id of the question, or its number in the file, from 0.
        query (`str`): the question.
        answers (`list[str]`): its answers.
        hits (`list[tuple[str, float]]`): passages and their scores.
        relevance (`dict[str, int]`): by passage, whether it holds an answer (1 or 0), where the file says so.
    """

    where: str
    query_id: str
    query: str
    answers: list[str]
    hits: list[tuple[str, float]]
    relevance: dict[str, int]


def is_qa_file(name: str) -> bool:
    """Whether a file name (without the suffix of a compression) is that of questions with answers."""
    return name.lower().endswith(".qa.csv")


def qa_rows(path: str | os.PathLike[str]) -> Iterator[tuple[int, str, str, list[str]]]:
    """Read questions with answers: two columns between a tab, the question and a Python list of strings.

    Args:
        path (`str` or `os.PathLike`): the file.

    Yields:
        `tuple[int, str, str, list[str]]`: line, query id, question, answers.

    Raises:
        ValueError: if a line does not have two columns, or its answers are no list of strings.
    """
    for count, (number, line) in enumerate(numbered_lines(path)):
        where = location(path, number)
        try:
            (cells,) = csv.reader([line], delimiter="\t")
        except csv.Error as error:
            raise DGRValueError(f"{where}: no line of a tab-separated file ({error}).") from None
        if len(cells) != 2:
            raise DGRValueError(
                f"{where}: {len(cells)} columns, but two are expected: question and list of answers, between them a "
                "tab."
            )
        yield number, str(count), cells[0], _answers(where, cells[1])


def training_questions(records: Records) -> Iterator[Question]:
    """Read a training set.

    Args:
        records ([`Records`]): of the file.

    Yields:
        [`Question`]

    Raises:
        TypeError: if a field is of another type.
        ValueError: if a field, or the id of a passage, is missing.
    """
    for count, (number, record) in enumerate(records.rows):
        where = records.location(number)
        missing = sorted(TRAINING_FIELDS - set(record))
        if missing:
            raise DGRValueError(f"{where}: no field {missing}. The fields found are {sorted(record)}.")
        question, answers = record["question"], record.get("answers") or []
        if not isinstance(question, str):
            raise DGRTypeError(f"{where}: the question is {question!r} ({type(question).__name__}), not a string.")
        yield Question(
            number,
            str(count),
            question,
            check_answers(where, answers),
            _passage_ids(where, record, "positive_ctxs"),
            _passage_ids(where, record, "hard_negative_ctxs"),
        )


def retriever_results(records: Records) -> Iterator[Result]:
    """Read the results of DPR's retriever: `question`, `answers` and `ctxs`, of which each has `id`, `score` and
    perhaps `has_answer`. A file without scores has the passages in their order.

    Args:
        records ([`Records`]): of the file.

    Yields:
        [`Result`]

    Raises:
        TypeError: if a field is of another type.
        ValueError: if a field, or the id or score of a passage, is missing.
    """
    for count, (number, record) in enumerate(records.rows):
        where = records.location(number)
        missing = sorted(RESULT_FIELDS - set(record))
        if missing:
            raise DGRValueError(f"{where}: no field {missing}. The fields found are {sorted(record)}.")
        question, passages = record["question"], record["ctxs"]
        if not isinstance(question, str):
            raise DGRTypeError(f"{where}: the question is {question!r:.60} ({type(question).__name__}), not a string.")
        ids = _passage_ids(where, record, "ctxs")
        scored = any("score" in passage for passage in passages)
        scores = [_score(where, passage) if scored else float(len(ids) - at) for at, passage in enumerate(passages)]
        relevance: dict[str, int] = {}
        for id, passage in zip(ids, passages, strict=True):
            judged = passage.get("has_answer")
            if judged is not None and not isinstance(judged, bool):
                raise DGRTypeError(f"{where}: has_answer of passage {id!r} is {judged!r:.60}, not true or false.")
            if judged is not None:
                relevance[id] = int(judged)
        query_id = as_id(record.get("id", count), "query", where)
        answers = check_answers(where, record.get("answers") or [])
        yield Result(where, query_id, question, answers, list(zip(ids, scores, strict=True)), relevance)


def _answers(where: str, cell: str) -> list[str]:
    try:
        answers = ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise DGRValueError(
            f"{where}: the answers (column 2) are {cell!r:.80}, which is no list. They are written as a Python list "
            "of strings, such as ['Paris', 'City of Light']."
        ) from None
    try:
        return check_answers(where, answers)
    except TypeError as error:
        raise DGRValueError(str(error)) from None


def _passage_ids(where: str, record: Record, field: str) -> list[str]:
    found = record.get(field)
    if not isinstance(found, list) and found is not None:
        raise DGRTypeError(f"{where}: {field} is a {type(found).__name__}, but it has to be a list of passages.")
    ids = []
    for passage in found or []:
        if not isinstance(passage, dict):
            raise DGRTypeError(f"{where}: {field} holds {passage!r:.60}, not an object.")
        name = next((name for name in _PASSAGE_ID_NAMES if name in passage), None)
        if name is None:
            raise DGRValueError(
                f"{where}: a passage of {field} has no id ({', '.join(_PASSAGE_ID_NAMES)}). The fields found are "
                f"{sorted(passage)}."
            )
        ids.append(as_id(passage[name], "passage", where))
    return ids


def _score(where: str, passage: Record) -> float:
    value = passage.get("score")  # DPR writes it as a string.
    try:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError
        return float(value)
    except ValueError:
        raise DGRValueError(f"{where}: the score of a passage is {value!r:.60}, not a number.") from None
