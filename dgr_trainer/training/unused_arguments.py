"""Arguments of the parent classes that have no effect on this trainer: each is said, once, and what to use instead."""

import logging
from collections.abc import Collection
from dataclasses import MISSING, fields
from typing import Any

from dgr_trainer.training.arguments import DistillationTrainingArguments

logger = logging.getLogger(__name__)

_SEARCH = (
    "the trainer does not generate strings, and how far a search goes is set in the SearchSettings of the "
    "retrieval_evaluator"
)
_LOGITS = "no logits are kept, and metrics come from the retrieval_evaluator"
_REASONS = {
    "generation_max_length": _SEARCH,
    "generation_num_beams": _SEARCH,
    "generation_config": "it is saved with the model, but nothing that the trainer does generates with it",
    "sortish_sampler": 'queries of similar length are grouped by train_sampling_strategy="group_by_length"',
    "include_for_metrics": _LOGITS,
    "batch_eval_metrics": _LOGITS,
    "eval_do_concat_batches": _LOGITS,
    "eval_accumulation_steps": _LOGITS,
    "eval_use_gather_object": _LOGITS,
    "label_names": "the loss is that of the collator's batches",
}


def warn_of_unused_arguments(args: DistillationTrainingArguments) -> None:
    """Warn of arguments that were given and have no effect."""
    defaults = {field.name: _default(field) for field in fields(args)}
    given = [name for name in _REASONS if name in defaults and (getattr(args, name) or None) != defaults[name]]
    if given:
        logger.warning("These training arguments have no effect here: %s.", "; ".join(_sentence(args, given)))


def warn_of_generation_arguments(names: Collection[str], method: str) -> None:
    """Warn of keyword arguments for generation, such as `num_beams`, that `evaluate` or `predict` was given."""
    logger.warning("%s of %s() has no effect here: %s.", ", ".join(sorted(names)), method, _SEARCH)


def _sentence(args: DistillationTrainingArguments, names: list[str]) -> list[str]:
    """Names with the same reason together."""
    by_reason: dict[str, list[str]] = {}
    for name in names:
        value = getattr(args, name)
        shown = f"{name}={value!r:.40}" if isinstance(value, (str, int, list)) else name
        by_reason.setdefault(_REASONS[name], []).append(shown)
    return [f"{', '.join(given)} ({reason})" for reason, given in by_reason.items()]


def _default(field: Any) -> Any:
    value = field.default if field.default_factory is MISSING else field.default_factory()
    return None if value is MISSING else value or None
