"""`dgr train --rounds`: the call of the library."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgr_trainer.cli.paths import model_name
from dgr_trainer.cli.round_options import RoundChoices
from dgr_trainer.cli.sources import read_corpus
from dgr_trainer.cli.teachers import TEACHER_PREFIX, given_options, make_teacher, teacher_settings
from dgr_trainer.cli.train_inputs import TrainInputs
from dgr_trainer.cli.train_options import CollatorOptions, TrainOptions
from dgr_trainer.rounds import distil_in_rounds, train_generation_in_rounds
from dgr_trainer.rounds.call_record import ROUNDS_FILE

if TYPE_CHECKING:
    from dgr_trainer.retrieval.retriever import GenerativeRetriever
    from dgr_trainer.training.arguments import DistillationTrainingArguments


def delete_rounds(output_dir: Path, checkpoints: Sequence[Path]) -> None:
    """Delete the rounds in a folder, and the checkpoints of another training; the teacher's scores stay valid."""
    (output_dir / ROUNDS_FILE).unlink(missing_ok=True)
    for folder in [*checkpoints, *sorted(output_dir.glob("round-*"))]:
        shutil.rmtree(folder)


def run_rounds(
    retriever: GenerativeRetriever,
    inputs: TrainInputs,
    choices: RoundChoices,
    train: TrainOptions,
    lists: CollatorOptions,
    arguments: DistillationTrainingArguments,
) -> dict[str, Any]:
    """Train in rounds.

    Args:
        retriever ([`GenerativeRetriever`]): The retriever whose student is trained.
        inputs ([`TrainInputs`]): The data.
        choices ([`RoundChoices`]): Options of rounds.
        train ([`TrainOptions`]): What is trained on what.
        lists ([`CollatorOptions`]): Options of rank lists.
        arguments ([`DistillationTrainingArguments`]): Arguments of the trainer.

    Returns:
        `dict[str, Any]`: the number of the best round and its metrics; empty if there were no dev queries.
    """
    _ = arguments.device  # Connects to the processes that were launched together, before a teacher does.
    settings = lists.given()
    common: dict[str, Any] = {
        **choices.rounds.given(),
        "rounds": choices.rounds.rounds,
        "retrieval_evaluator": inputs.evaluator,
        "search": replace(retriever.settings, **choices.search.given()),
        "ignore_identical_ids": settings.pop("ignore_identical_ids", False),
    }
    if choices.rounds.round_k is not None:
        common["k"] = choices.rounds.round_k
    if train.stage == "generation":
        assert inputs.qrels is not None
        if choices.rounds.round_identifiers_per_query is not None:
            common["identifiers_per_query"] = choices.rounds.round_identifiers_per_query
        result = train_generation_in_rounds(
            retriever, inputs.dataset, inputs.qrels, arguments, pairs=inputs.pairs, **common
        )
    else:
        teacher = _teacher(choices, train, inputs, arguments)
        settings["relevant_first"] = not train.teacher_order
        result = distil_in_rounds(
            retriever, teacher, inputs.dataset, inputs.qrels, arguments, list_settings=settings, **common
        )
    if inputs.evaluator is None:
        return {}
    return {"best_round": result.best, **{f"eval_{name}": value for name, value in result.metrics.items()}}


def _teacher(
    choices: RoundChoices, train: TrainOptions, inputs: TrainInputs, arguments: DistillationTrainingArguments
) -> Any:
    name = choices.rounds.teacher
    assert name is not None
    given = given_options(choices.teacher, name, TEACHER_PREFIX)
    if "model" in given:
        given["model"] = model_name("--teacher_model", given["model"])
    if arguments.use_cpu and "device" in teacher_settings(name):
        given.setdefault("device", "cpu")
    corpus = inputs.corpus if train.corpus is None else read_corpus("--corpus", train.corpus)
    return make_teacher(name, corpus, given)
