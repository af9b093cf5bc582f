"""Finds out by trying in which way a model scores identifiers as it does one by one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn

from dgr_trainer.errors import DGRValueError
from dgr_trainer.student.generation_mode import generation_mode
from dgr_trainer.student.model_facts import (
    embedding_rows,
    model_device,
    underlying_model,
)
from dgr_trainer.student.packing import pack_identifiers
from dgr_trainer.student.scored_tokens import ScoringWay, sum_by_identifier
from dgr_trainer.student.sharding import is_sharded
from dgr_trainer.student.students import student_of

logger = logging.getLogger(__name__)

_FOUND = "_dgr_scoring_way"
_warned: set[str] = set()


class Samples(NamedTuple):
    """Prompts and identifiers to try a model with.

    Attributes:
        prompts (`list[list[int]]`): Token ids of prompts of different lengths.
        identifiers (`list[list[list[int]]]`): Token ids of identifiers of each prompt; some begin alike.
    """

    prompts: list[list[int]]
    identifiers: list[list[list[int]]]


def scoring_way(model: nn.Module, *, pairs: bool = False) -> ScoringWay:
    """The fastest way in which a model's scores of identifiers are those that it gives them one by one.

    The first call scores a few identifiers, which takes some milliseconds, and remembers the result. A model whose
    weights are sharded, or on no device yet, is judged by its modules alone.

    Args:
        model (`nn.Module`): A student, wrapped or not.
        pairs (`bool`, *optional*, defaults to `False`):
            Whether the model is only trained on pairs; then it is enough that it can be run.

    Returns:
        `str`: `"packed"`, `"rows"` or `"plain"`, see `token_scores`.

    Raises:
        ValueError: if the model cannot be run on token ids, or its scores are different in every way.
    """
    base = underlying_model(model)
    if pairs and _learns_a_prompt(model):
        return "plain"  # The adapter's own forward pass puts its prompt in front.
    implementation = getattr(base.config, "_attn_implementation", None)
    known = vars(base).get(_FOUND)
    if known is None or known[0] != implementation:
        if is_sharded(base) or any(parameter.is_meta for parameter in base.parameters()):
            student = student_of(model)
            return "rows" if student.packing_obstacle() or student.loses_positions() else "packed"
        way, reason = _try_ways(model)
        known = vars(base)[_FOUND] = (implementation, way, reason)
    way, reason = known[1:]
    if pairs:
        return "plain" if way is None else cast(ScoringWay, way)
    if way is None:
        raise DGRValueError(
            f"{reason}. So it cannot be trained to rank passages. Use another model, such as "
            f"{student_of(model).example}."
        )
    name = type(base).__name__
    if way != "packed" and name not in _warned:
        _warned.add(name)
        logger.warning(
            "%s, so each identifier gets a separate row: the results are the same, but it is slower than a model such "
            "as %s.",
            reason,
            student_of(model).example,
        )
    return "rows" if way == "packed" and student_of(model).loses_positions() else cast(ScoringWay, way)


def set_scoring_way(model: nn.Module, way: ScoringWay) -> None:
    """Have a model score identifiers in a way that was found elsewhere, for example by another process."""
    base = underlying_model(model)
    reason = f"Another process found that {type(base).__name__} cannot score packed identifiers"
    vars(base)[_FOUND] = (getattr(base.config, "_attn_implementation", None), way, reason)


def samples(model: nn.Module) -> Samples:
    """Prompts and identifiers of a few ordinary tokens, the same at every call."""
    base = underlying_model(model)
    size = embedding_rows(base)
    configurations = base.config, getattr(base, "generation_config", None)
    special = {student_of(base).start_token_id, *(token for config in configurations for token in _token_ids(config))}
    ordinary = [token for token in range(size - 1, -1, -1) if token not in special][: max(64, size // 2)]
    a, b, c, d, e, f = (ordinary[len(ordinary) * number // 6] for number in range(6))
    return Samples([[a, f, c, d, b], [e, b, d]], [[[a, b, c], [a, b, d, e], [f, a]], [[b], [b, a, c, e, d]]])


def tolerance(student: Any, expected: Tensor) -> Tensor:
    """How far log-likelihoods may be from the expected ones, by rounding."""
    # Quantised layers may round activations by what else is in the batch.
    quantised = any(
        "quant" in type(module).__module__ or "bitsandbytes" in type(module).__module__ for module in student.modules()
    )
    exact = student.dtype in (torch.float32, torch.float64) and not quantised
    relative = 0.05 if not exact else 5e-3 if model_device(student).type != "cpu" else 1e-4
    return relative * expected.abs().clamp(min=1.0)


def _learns_a_prompt(model: nn.Module) -> bool:
    inner: Any = extract_model_from_parallel(model, keep_fp32_wrapper=True, keep_torch_compile=False)
    return bool(getattr(getattr(inner, "active_peft_config", None), "is_prompt_learning", False))


def _try_ways(model: nn.Module) -> tuple[ScoringWay | None, str]:
    """The first way that is right, if any, and why those before it are not."""
    base = underlying_model(model)
    name = type(base).__name__
    asked = student_of(model)
    obstacle = asked.packing_obstacle()
    reasons = [] if obstacle is None else [obstacle]
    with generation_mode(model) as student:
        sample = samples(student)
        try:
            expected = torch.tensor(list(_one_by_one(student, sample)))
        except Exception as error:
            advice = f"Use a model that reads and generates text, such as {asked.example} ({asked.auto_class})."
            if hasattr(model, "peft_config"):
                advice = "Does the model run without its adapter? " + advice
            raise DGRValueError(
                f"{name} cannot be run on the token ids of a prompt and an identifier ({type(error).__name__}: "
                f"{error}). {advice}"
            ) from error
        if asked.may_look_ahead and _looks_ahead(student, sample):
            raise DGRValueError(
                f"{name} predicts a token with the tokens after it in view, so it cannot generate. Use a model such "
                f"as {asked.example}; a model such as BERT is a decoder only if its configuration has is_decoder=True."
            )
        for way in cast(list[ScoringWay], ["rows", "plain"] if obstacle else ["packed", "rows", "plain"]):
            try:
                scores = _score(student, sample, way)
            except Exception as error:
                reasons.append(f"{name} fails on {_MEANS[way]} ({type(error).__name__}: {error})")
                continue
            differences = torch.where(scores == expected, 0.0, (scores - expected).abs())  # Both may be -inf.
            if bool((differences <= tolerance(student, expected)).all()):
                return way, reasons[0] if reasons else ""
            reasons.append(f"{name} gives {_MEANS[way]} scores that are off by {float(differences.max()):.2g}")
    return None, "; ".join(reasons)


_MEANS = {
    "packed": "packed identifiers",
    "rows": "identifiers in rows of their own",
    "plain": "identifiers in one batch",
}


def _looks_ahead(student: Any, sample: Samples) -> bool:
    """Whether further tokens change what a model predicts before them."""
    asked, prompt, ids = student_of(student), sample.prompts[0], sample.identifiers[0][1]
    whole, start = (asked.next_log_probabilities(prompt, ids[:length]).cpu() for length in (len(ids), 1))
    difference = torch.where(whole[:2] == start, 0.0, (whole[:2] - start).abs())
    return bool((difference > tolerance(student, start)).any())


def _one_by_one(student: Any, sample: Samples) -> Iterator[float]:
    asked = student_of(student)
    for prompt, identifiers in zip(sample.prompts, sample.identifiers, strict=True):
        for ids in identifiers:
            log_p = asked.next_log_probabilities(prompt, ids[:-1])
            yield float(log_p.cpu().gather(1, torch.tensor(ids)[:, None]).sum())


def _score(student: Any, sample: Samples, way: ScoringWay) -> Tensor:
    packed = pack_identifiers(sample.identifiers, [[0] * len(ids) for ids in sample.identifiers], 1, 64)
    rows = {name: torch.from_numpy(array).to(model_device(student)) for name, array in packed._asdict().items()}
    width = max(map(len, sample.prompts))
    pad = getattr(student.config, "pad_token_id", None) or 0
    padded = [prompt + [pad] * (width - len(prompt)) for prompt in sample.prompts]
    mask = [[1] * len(prompt) + [0] * (width - len(prompt)) for prompt in sample.prompts]
    input_ids, attention_mask = (torch.tensor(values, device=model_device(student)) for values in (padded, mask))
    scores = student_of(student).score(input_ids, attention_mask, rows, way).log_probabilities
    sums = sum_by_identifier(scores, rows["segments"], max(map(len, sample.identifiers))).cpu()
    return torch.cat([row[: len(ids)] for row, ids in zip(sums, sample.identifiers, strict=True)])


def _token_ids(config: Any) -> Iterator[int]:
    """Special tokens that a configuration names."""
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id", "forced_bos_token_id"):
        value = getattr(config, name, None)
        yield from value if isinstance(value, list) else () if value is None else (value,)
