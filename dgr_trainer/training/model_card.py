"""The model card of a training: loss, teacher, settings and the last evaluation, from the trainer that made them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from dgr_trainer.hub.measurements import Measurement, Measurements
from dgr_trainer.hub.model_card import CardFacts, retriever_usage, table_cell
from dgr_trainer.hub.repositories import is_repo_id
from dgr_trainer.student.model_facts import underlying_model
from dgr_trainer.student.students import student_of
from dgr_trainer.training.collator import DistillationCollator

EVALUATED_ON = "the evaluation data of the training"
_HYPERPARAMETERS = (
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "optim", "weight_decay", "max_grad_norm"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_steps"),
    *("label_smoothing_factor", "bf16", "fp16", "seed", "data_seed"),
)
# What an evaluation logs beside measures of quality.
_SPEED = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


def training_card(trainer: Any, repo_id: str, *, is_retriever: bool, **given: Any) -> CardFacts:
    """What the card of a trained student says.

    Args:
        trainer ([`DistillationGenerativeRetrievalTrainer`]): The trainer.
        repo_id (`str`): The repository, or the name of the folder.
        is_retriever (`bool`): Whether the folder holds an index, so that it can be loaded as a retriever.
        **given: Fields of [`CardFacts`] that the user gives; `None` or an empty one for what the trainer knows.

    Returns:
        [`CardFacts`]: the card.
    """
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    base_model = given.pop("base_model", None) or _base_model(model)
    is_adapter = hasattr(model, "peft_config")
    kind = f"`{type(underlying_model(model)).__name__}`" + (" with an adapter" if is_adapter else "")
    origin = f", made of [{base_model}](https://huggingface.co/{base_model})" if base_model else ""
    distils = isinstance(trainer.data_collator, DistillationCollator) and trainer.args.ranking_weight > 0
    task = "rank passages as its teacher does" if distils else "generate the identifiers of relevant passages"
    introduction = (
        f"A student ({kind}{origin}) that retrieves passages by generating their identifiers. It was trained with "
        f"dgr-trainer to {task}."
    )
    measured = _last_evaluation(trainer.state.log_history)
    sections = {"Training": _training(trainer), "Versions": _versions()}
    return CardFacts(
        repo_id=repo_id,
        introduction=introduction,
        usage=retriever_usage(repo_id) if is_retriever else _usage(repo_id, student_of(model).auto_class, is_adapter),
        base_model=base_model,
        adapter=is_adapter,
        measured=[] if measured is None else [measured],
        sections=sections,
        **{name: value for name, value in given.items() if value},
    )


def _base_model(model: Any) -> str | None:
    """The name on the Hub of the model that was loaded; `None` if it was not loaded from there."""
    name = getattr(underlying_model(model), "name_or_path", None)
    return name if name and is_repo_id(name) and not Path(name).exists() else None


def _usage(repo_id: str, auto_class: str, is_adapter: bool) -> str:
    kind = f"AutoPeft{auto_class.removeprefix('Auto')}" if is_adapter else auto_class
    imports = [f"from transformers import {kind}, AutoTokenizer"]
    if is_adapter:
        imports = [f"from peft import {kind}", "from transformers import AutoTokenizer"]
    return "\n".join(
        [
            *imports,
            "from dgr_trainer import Corpus, FMIndex, GenerativeRetriever, Identifiers",
            "",
            f'identifiers = Identifiers(AutoTokenizer.from_pretrained("{repo_id}"))',
            'index = FMIndex.from_corpus(Corpus.read("corpus.jsonl"), identifiers)',
            f'model = {kind}.from_pretrained("{repo_id}")',
            'GenerativeRetriever(model, identifiers, index).search("a question")',
        ]
    )


def _training(trainer: Any) -> str:
    args, collator = trainer.args, trainer.data_collator
    rows: dict[str, Any] = {}
    if isinstance(collator, DistillationCollator):
        objective = trainer.ranking_objective
        rows["ranking loss"] = args.to_dict()["ranking_loss"]
        if objective is not None:
            rows |= {f"{name} of the loss": value for name, value in sorted(objective.settings.items())}
            rows["weight of the ranking loss"] = objective.ranking_weight
            rows["weight of the generation loss"] = objective.generation_weight
        rows["teacher"] = getattr(collator.rankings, "name", None) or "rank lists without a name"
        rows["queries with a rank list"] = len(collator.rankings)
        rows["passages in a list"] = collator.sampler.list_length
        rows["sampling"] = collator.sampler.sampling
        rows["scores of passages"] = collator.scoring.kind
    else:
        rows["loss"] = "generation of identifiers (cross-entropy)"
    rows["training rows"] = _length(trainer.train_dataset)
    rows["steps"] = trainer.state.global_step
    rows["processes"] = args.world_size
    for name in _HYPERPARAMETERS:
        value = getattr(args, name, None)
        rows[name] = getattr(value, "value", value)
    shown = {name: value for name, value in rows.items() if value is not None}
    table = ["| setting | value |", "|---|---|", *(f"| {name} | {_shown(value)} |" for name, value in shown.items())]
    return "\n".join(table)


def _versions() -> str:
    return f"transformers {transformers.__version__}, torch {torch.__version__}"


def _last_evaluation(log: Sequence[Mapping[str, Any]]) -> Measurements | None:
    """The metrics of the last evaluation: its loss, and what a retriever measured."""
    for entry in reversed(log):
        found = {
            name.removeprefix("eval_"): value
            for name, value in entry.items()
            if name.startswith("eval_") and not name.endswith(_SPEED)
        }
        values = tuple(
            Measurement(name, float(value))
            for name, value in found.items()
            if isinstance(value, (int, float)) and math.isfinite(value)
        )
        if values:
            return Measurements(EVALUATED_ON, values)
    return None


def _length(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except TypeError:
        return None


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else json.dumps(value)
    return table_cell(text)
