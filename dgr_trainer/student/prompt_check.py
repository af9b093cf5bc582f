"""Checks that a student can read the prompts of a search or of training."""

from __future__ import annotations

import logging

from torch import nn

from dgr_trainer.errors import DGRValueError
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.student.students import student_of

logger = logging.getLogger(__name__)

_warned: set[str] = set()


def check_prompts(model: nn.Module, identifiers: Identifiers) -> None:
    """Refuse prompts that leave a model no room, and warn of those that a decoder-only model would not go on writing.

    Args:
        model (`nn.Module`): A student, wrapped or not.
        identifiers ([`Identifiers`]): The tokenizer and the prompts.

    Raises:
        ValueError: if prompts fill all positions of the model.
    """
    student = student_of(model)
    name = type(student.base).__name__
    longest = identifiers.settings.max_query_length
    if identifiers.closes_prompts and not student.reads_closed_prompts and name not in _warned:
        _warned.add(name)
        (ids,) = identifiers.encode_prompts(["a"], identifiers.views[0], warn=False)
        logger.warning(
            "The tokenizer ends each prompt with %r, behind which a decoder-only model such as %s has learned to "
            "write another text. Unless the student was trained with such prompts, use "
            "IdentifierSettings(closed_prompts=False) or, on the command line, --closed_prompts no.",
            identifiers.tokenizer.decode(ids[-1:]),
            name,
        )
    if student.identifier_limit(longest) == 0:
        raise DGRValueError(
            f"Prompts of max_query_length={longest} tokens fill all positions of {name}, so there is none for an "
            "identifier. Lower max_query_length (IdentifierSettings, --max_query_length)."
        )
