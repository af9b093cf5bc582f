"""Lists of answers, which several formats have."""

from __future__ import annotations

from dgr_trainer.data.texts import check_encodable
from dgr_trainer.errors import DGRTypeError


def check_answers(location: str, answers: object) -> list[str]:
    """Check that answers are a list of strings; the error names their location."""
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise DGRTypeError(f"{location}: answers is {answers!r:.80}, but it has to be a list of strings.")
    for answer in answers:
        if not answer.isascii():
            check_encodable(answer, "answer", location)
    return answers
