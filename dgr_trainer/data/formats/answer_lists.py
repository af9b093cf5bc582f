"""Lists of answers, as several formats have them."""

from __future__ import annotations

from dgr_trainer.errors import DGRTypeError


def check_answers(location: str, answers: object) -> list[str]:
    """The answers, if they are a list of strings; otherwise an error that says where they were found."""
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise DGRTypeError(f"{location}: answers is {answers!r:.80}, but it has to be a list of strings.")
    return answers
