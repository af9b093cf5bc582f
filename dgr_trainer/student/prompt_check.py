"""Checks that a student can read the prompts of a search or of training."""

from __future__ import annotations

from torch import nn

from dgr_trainer.errors import DGRValueError
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.student.students import student_of


def check_prompts(model: nn.Module, identifiers: Identifiers) -> None:
    """Refuse prompts that a model cannot go on writing, or that leave it no room.

    Args:
        model (`nn.Module`): A student, wrapped or not.
        identifiers ([`Identifiers`]): The tokenizer and the prompts.

    Raises:
        ValueError: if the tokenizer ends prompts for a decoder-only model, or prompts fill all of its positions.
    """
    student = student_of(model)
    name = type(student.base).__name__
    longest = identifiers.settings.max_query_length
    if identifiers.closes_prompts and not student.reads_closed_prompts:
        (ids,) = identifiers.encode_prompts(["a"], identifiers.views[0], warn=False)
        raise DGRValueError(
            f"The tokenizer ends each prompt with {identifiers.tokenizer.decode(ids[-1:])!r}, behind which a "
            f"decoder-only model such as {name} writes another text. Use IdentifierSettings(closed_prompts=False) or, "
            "on the command line, --closed_prompts no."
        )
    if student.identifier_limit(longest) == 0:
        raise DGRValueError(
            f"Prompts of max_query_length={longest} tokens fill all positions of {name}, so there is none for an "
            "identifier. Lower max_query_length (IdentifierSettings, --max_query_length)."
        )
