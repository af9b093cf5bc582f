"""Finds out by trying whether a student's cache can be used for search."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from torch import nn

from dgr_trainer.errors import DGRValueError
from dgr_trainer.student.cache_facts import cache_is_known, decodes_with_known_cache, remember_cache
from dgr_trainer.student.generation_mode import generation_mode
from dgr_trainer.student.model_facts import underlying_model
from dgr_trainer.student.probing import samples, tolerance
from dgr_trainer.student.sharding import is_sharded
from dgr_trainer.student.students import student_of

logger = logging.getLogger(__name__)


def decodes_with_cache(model: nn.Module) -> bool:
    """Find out whether a model's decoder gives the same log-probabilities step by step as it does at once.

    The first call takes a few steps, which takes some milliseconds, and remembers the result. A model whose weights
    are sharded is not tried.

    Args:
        model (`nn.Module`): An encoder-decoder model, wrapped or not.

    Returns:
        `bool`: whether its cache can be used; if not, each step has to read all tokens.

    Raises:
        ValueError: if the model cannot generate step by step.
    """
    base = underlying_model(model)
    if cache_is_known(base) or is_sharded(base) or any(parameter.is_meta for parameter in base.parameters()):
        return decodes_with_known_cache(base)
    name = type(base).__name__
    reasons = []
    with generation_mode(model) as student:
        for cached in (True, False):
            try:
                difference = _largest_difference(student, cached)
            except Exception as error:
                reasons.append(f"{type(error).__name__}: {error}")
                continue
            if difference is None:
                break
            reasons.append(f"log-probabilities that are off by {difference:.2g}")
        else:
            raise DGRValueError(
                f"{name} cannot generate step by step: with its cache it gives {reasons[0]}; without it, "
                f"{reasons[1]}. Use another model, such as BART or T5."
            )
    remember_cache(base, cached)
    if not cached:
        logger.warning(
            "The decoder cache of %s cannot be used for search (%s), so each step reads all tokens again: the results "
            "are the same, but it is slower than a model such as BART or T5.",
            name,
            reasons[0],
        )
    return cached


def _largest_difference(student: Any, cached: bool) -> float | None:
    """How far three steps are from the log-probabilities of ordinary calls; `None` if by rounding only."""
    sample = samples(student)
    a, b, c = sample.identifiers[0][1][:3]
    steps = [  # Rows that change places and prompts that lose or gain rows, as in a search.
        ([1, 0, 0], [b, a, b]),
        ([2, 1, 0, 0], [c, c, a, b]),
        ([1, 3], [a, c]),
    ]
    asked = student_of(student)
    decoder = asked.prefill(sample.prompts, cached=cached)
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
