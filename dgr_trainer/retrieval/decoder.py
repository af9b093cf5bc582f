"""Finds out by trying in which way a student can be run step by step in a search."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from torch import nn

from dgr_trainer.errors import DGRValueError
from dgr_trainer.student.decoding_ways import DecodingWay, known_way, remember_way
from dgr_trainer.student.generation_mode import generation_mode
from dgr_trainer.student.model_facts import underlying_model
from dgr_trainer.student.probing import samples, tolerance
from dgr_trainer.student.sharding import is_sharded
from dgr_trainer.student.students import student_of

logger = logging.getLogger(__name__)

_SLOWER: dict[str, str] = {
    "copied": "The beams of %s cannot share the keys and values of their prompt (%s), so each gets a copy: the "
    "results are the same, but prompts take as many times their memory as there are beams.",
    "reread": "The decoder cache of %s cannot be used for search (%s), so each step reads all tokens again: the "
    "results are the same, but it is slower than a model such as %s.",
}
_MEANS: dict[str, str] = {
    "cached": "with its cache",
    "shared": "with beams that share their prompt",
    "copied": "with its cache",
    "reread": "without it",
}


def decoding_way(model: nn.Module) -> DecodingWay | None:
    """The fastest way in which a model gives the same log-probabilities step by step as it does at once.

    The first call takes a few steps, which takes some milliseconds, and remembers the result. A model whose weights
    are sharded is not tried.

    Args:
        model (`nn.Module`): A student, wrapped or not.

    Returns:
        `str`, *optional*: the way, see `student.decoding_ways`; `None` if it was not tried.

    Raises:
        ValueError: if the model cannot generate step by step.
    """
    base = underlying_model(model)
    asked = student_of(base)
    known = known_way(base)
    if known or is_sharded(base) or any(parameter.is_meta for parameter in base.parameters()):
        return known
    name = type(base).__name__
    reasons: list[str] = []
    with generation_mode(model) as student:
        for way in asked.decoding_ways:
            try:
                difference = _largest_difference(student, way)
            except Exception as error:
                told = str(error) if isinstance(error, DGRValueError) else f"{type(error).__name__}: {error}"
                reasons.append(told.removesuffix("."))
                continue
            if difference is None:
                break
            reasons.append(f"log-probabilities that are off by {difference:.2g}")
        else:
            tried = zip(asked.decoding_ways, reasons, strict=True)
            what = "; ".join(f"{_MEANS[way]} it gives {reason}" for way, reason in tried)
            raise DGRValueError(
                f"{name} cannot generate step by step: {what}. Use another model, such as {asked.example}."
            )
    remember_way(base, way)
    if reasons:
        advice = [asked.example] if way == "reread" else []
        logger.warning(_SLOWER[way], name, reasons[-1], *advice)
    return way


def _largest_difference(student: Any, way: DecodingWay) -> float | None:
    """How far some steps are from the log-probabilities of ordinary calls; `None` if by rounding only."""
    sample = samples(student)
    a, b, c = sample.identifiers[0][1][:3]
    steps = [  # Rows that change places and prompts that lose or gain rows, as in a search.
        ([1, 0, 0], [b, a, b]),
        ([2, 1, 0, 0], [c, c, a, b]),
        ([1, 3], [a, c]),
    ]
    asked = student_of(student)
    decoder = asked.prefill(sample.prompts, way=way)
    rows: list[tuple[int, list[int]]] = [(prompt, []) for prompt in range(len(sample.prompts))]
    found = [(decoder.scores, rows)]
    for parents, tokens in steps:
        rows = [(rows[parent][0], [*rows[parent][1], token]) for parent, token in zip(parents, tokens, strict=True)]
        found.append((decoder.step(np.array(parents), np.array(tokens)), rows))
    largest = 0.0
    for scores, read in found:
        for actual, (prompt, ids) in zip(scores.cpu(), read, strict=True):
            expected = asked.next_log_probabilities(sample.prompts[prompt], ids)[-1].cpu()
            difference = (actual - expected).abs()
            difference[(actual == expected) | (difference <= tolerance(student, expected))] = 0.0
            largest = max(largest, float(difference.max()))
    return largest or None
