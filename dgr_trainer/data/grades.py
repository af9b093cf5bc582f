"""Grades of relevance, and qrels: what is a grade, in files, datasets and mappings alike."""

from __future__ import annotations

import numbers
import re
from collections.abc import Mapping

from dgr_trainer.data.ids import as_id
from dgr_trainer.data.texts import is_missing
from dgr_trainer.errors import DGRTypeError, DGRValueError

Qrels = dict[str, dict[str, int]]
"""Relevance of passages by query id and passage id; 0 (or less) is not relevant."""

HIGHEST_GRADE = 1000
_WRITTEN = re.compile(r"[+-]?[0-9]+(\.0*)?", re.ASCII)


def is_integer(text: str) -> bool:
    """Whether a text is an integer, perhaps with zeros after a decimal point, as pandas writes it."""
    return _WRITTEN.fullmatch(text) is not None


def as_integer(value: object) -> int | None:
    """The integer that a value of the user's data stands for.

    Args:
        value (`object`): An integer, a float without a fraction, or a string of one of them.

    Returns:
        `int`, *optional*: The integer; `None` if the value is anything else, `True` and `False` among them.
    """
    if type(value) is int:
        return value
    if isinstance(value, str):
        text = value.strip()
        return int(text.partition(".")[0]) if is_integer(text) else None
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    return int(float(value)) if float(value).is_integer() else None  # NaN and infinity are no integers.


def as_grade(value: object, what: str, location: str) -> int:
    """Turn a value read from the user's data into a grade.

    Args:
        value (`object`): An integer, a float without a fraction, or a string of one of them.
        what (`str`): What it is, for the error.
        location (`str`): Where the value was found, for the error.

    Returns:
        `int`: The grade; 0 and less is not relevant.

    Raises:
        ValueError: if the value is anything else (`True` and `False` among them), or above 1000, as a passage id in
            the wrong column would be.
    """
    grade = as_integer(value)
    if grade is None:
        raise DGRValueError(f"{location}: {what} is {value!r:.60}, not an integer. {_advice(value)}")
    if grade > HIGHEST_GRADE:
        raise DGRValueError(
            f"{location}: {what} is {grade}, but relevance is {HIGHEST_GRADE} at most. Are the columns of passages "
            "and relevance swapped?"
        )
    return grade


def as_qrels(qrels: Mapping[str, Mapping[str, int]]) -> Qrels:
    """Check qrels that come as a mapping as those of a file are checked.

    Args:
        qrels (`Mapping[str, Mapping[str, int]]`): Relevance by query id and passage id. Ids may be integers.

    Returns:
        `dict[str, dict[str, int]]`: The same with ids that are strings and grades that are integers.

    Raises:
        TypeError: if an id is neither a string nor an integer, or the judgements of a query are no mapping.
        ValueError: if an id is invalid or occurs twice (as 1 and "1"), or a grade is no integer.
    """
    if not isinstance(qrels, Mapping):
        raise DGRTypeError(f"qrels is a {type(qrels).__name__}, but a mapping of query ids to judgements is needed.")
    checked: Qrels = {}
    for query, judgements in qrels.items():
        query_id = as_id(query, "query", "qrels")
        location = f"qrels of query {query_id!r}"
        if not isinstance(judgements, Mapping):
            raise DGRTypeError(
                f"{location}: the judgements are {judgements!r:.60} ({type(judgements).__name__}), but a mapping of "
                "passage ids to relevance is needed, such as {'p1': 1}."
            )
        if query_id in checked:
            raise DGRValueError(f"{location}: they occur twice, as a string and as an integer. Give them once.")
        grades: dict[str, int] = {}
        for passage, grade in judgements.items():
            passage_id = as_id(passage, "passage", location)
            if passage_id in grades:
                raise DGRValueError(
                    f"{location}: passage {passage_id!r} occurs twice, as a string and as an integer. Give it once."
                )
            if type(grade) is not int or grade > HIGHEST_GRADE:
                grade = as_grade(grade, f"the relevance of {passage_id!r}", location)
            grades[passage_id] = grade
        checked[query_id] = grades
    return checked


def _advice(value: object) -> str:
    if is_missing(value):
        return "It is missing: give the passage a grade, or leave it out."
    if isinstance(value, bool) or type(value).__name__ == "bool_":
        return "Write 1 or 0."
    return "Grades are integers, such as 1."
