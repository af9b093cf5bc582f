"""DPR's files: questions with answers (`nq-test.qa.csv`) and training sets (`biencoder-nq-train.json`).

Neither file has ids of questions: a question's id is its number in the file, from 0, as in Pyserini's topics. The
passages, `psgs_w100.tsv`, are read by `Corpus.read`.
"""

from __future__ import annotations

import ast
import csv
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from dgr_trainer.arrow import dataset_from_rows
from dgr_trainer.ids import as_id
from dgr_trainer.lines import numbered_lines, place
from dgr_trainer.rank_lists import FEATURES
from dgr_trainer.rankings import Rankings
from dgr_trainer.records import Record, Records, read_records

TRAINING_FIELDS = frozenset({"question", "positive_ctxs"})
"""Fields by which a record of a training set is known."""
_PASSAGE_ID_NAMES = ("passage_id", "psg_id", "id")  # Natural Questions; TriviaQA and others; results of a retriever.


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


def is_qa_file(name: str) -> bool:
    """Whether a file name (without the suffix of a compression) is that of questions with answers."""
    return name.lower().endswith(".qa.csv")


def qa_rows(path: str | os.PathLike[str]) -> Iterator[tuple[int, str, str, list[str]]]:
    """
    Read questions with answers: two columns between a tab, the question and a Python list of strings.

    Args:
        path (`str` or `os.PathLike`): the file.

    Yields:
        `tuple[int, str, str, list[str]]`: line, query id, question, answers.

    Raises:
        ValueError: if a line does not have two columns, or its answers are no list of strings.
    """
    for count, (number, line) in enumerate(numbered_lines(path)):
        where = place(path, number)
        try:
            (cells,) = csv.reader([line], delimiter="\t")
        except csv.Error as error:
            raise ValueError(f"{where}: no line of a tab-separated file ({error}).") from None
        if len(cells) != 2:
            raise ValueError(
                f"{where}: {len(cells)} columns, but two are expected: question and list of answers, between them a "
                "tab."
            )
        yield number, str(count), cells[0], _answers(where, cells[1])


def training_questions(records: Records) -> Iterator[Question]:
    """
    Read a training set.

    Args:
        records ([`Records`]): of the file.

    Yields:
        [`Question`]

    Raises:
        TypeError: if a field is of another type.
        ValueError: if a field, or the id of a passage, is missing.
    """
    for count, (number, record) in enumerate(records.rows):
        where = records.place(number)
        missing = sorted(TRAINING_FIELDS - set(record))
        if missing:
            raise ValueError(f"{where}: no field {missing}. The fields found are {sorted(record)}.")
        question, answers = record["question"], record.get("answers") or []
        if not isinstance(question, str):
            raise TypeError(f"{where}: the question is {question!r} ({type(question).__name__}), not a string.")
        yield Question(
            number,
            str(count),
            question,
            check_answers(where, answers),
            _passage_ids(where, record, "positive_ctxs"),
            _passage_ids(where, record, "hard_negative_ctxs"),
        )


def read_hard_negatives(path: str | os.PathLike[str], k: int = 100) -> Rankings:
    """
    Read the hard negatives of a training set, in their order: candidates for a teacher to rank.

    Args:
        path (`str` or `os.PathLike`): a file such as `biencoder-nq-train.json.gz`.
        k (`int`, *optional*, defaults to 100): passages to keep of a question.

    Returns:
        [`Rankings`]: by query id as `read_queries` gives it; memory-mapped.

    Raises:
        TypeError, ValueError: as the file is read, if it is malformed.
    """

    def rows() -> Iterator[dict[str, Any]]:
        for question in training_questions(read_records(path)):
            ids = list(dict.fromkeys(question.hard_negatives))[:k]
            scores = [float(score) for score in range(len(ids), 0, -1)]
            yield {"query_id": question.query_id, "passage_ids": ids, "scores": scores}

    return Rankings.from_dataset(dataset_from_rows(rows(), FEATURES, description="hard negatives"), "hard-negatives")


def check_answers(where: str, answers: object) -> list[str]:
    """The answers, if they are a list of strings; otherwise an error that says where they were found."""
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise TypeError(f"{where}: answers is {answers!r:.80}, but it has to be a list of strings.")
    return answers


def _answers(where: str, cell: str) -> list[str]:
    try:
        answers = ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise ValueError(
            f"{where}: the answers (column 2) are {cell!r:.80}, which is no list. They are written as a Python list "
            "of strings, such as ['Paris', 'City of Light']."
        ) from None
    try:
        return check_answers(where, answers)
    except TypeError as error:
        raise ValueError(str(error)) from None


def _passage_ids(where: str, record: Record, field: str) -> list[str]:
    found = record.get(field)
    if not isinstance(found, list) and found is not None:
        raise TypeError(f"{where}: {field} is a {type(found).__name__}, but it has to be a list of passages.")
    ids = []
    for passage in found or []:
        name = next((name for name in _PASSAGE_ID_NAMES if name in passage), None)
        if name is None:
            raise ValueError(
                f"{where}: a passage of {field} has no id ({', '.join(_PASSAGE_ID_NAMES)}). The fields found are "
                f"{sorted(passage)}."
            )
        ids.append(as_id(passage[name], "passage", where))
    return ids
