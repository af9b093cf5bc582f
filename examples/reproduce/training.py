"""The two stages that train a student: to generate identifiers, and to rank. Both resume from checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from inputs import checkpoint_folder, identifiers_of, index_of, questions_of, scoring_of, semantic_ids_of, with_docids
from store import OutOfTime, Place, Store
from students import load_student, new_student
from transformers import AutoTokenizer, PreTrainedModel, PrinterCallback, TrainerCallback, set_seed

from dgr_trainer import (
    Candidates,
    DistillationCollator,
    DistillationGenerativeRetrievalTrainer,
    DistillationTrainingArguments,
    Identifiers,
    Rankings,
    ScoringSettings,
    generation_pairs,
)
from dgr_trainer.files.atomic import atomic_write
from dgr_trainer.training.checkpoints import checkpoint_fault, checkpoints

_KEPT_LOGS = ("step", "loss", "loss_ranking", "loss_generation", "rank_accuracy", "kendall_tau", "violated_margins")


def generation_stage(place: Place) -> dict[str, Any]:
    """Teach a student to generate identifiers of the passages of the training questions."""
    config = place.config
    set_seed(config["seed"])
    questions, identifiers = questions_of(place), identifiers_of(place)
    asked = questions.of_generation(config["questions"])
    pairs_config = dict(config["pairs"])
    if pairs_config.get("targets") == "distinctive":
        pairs_config["index"] = index_of(place)
    corpus = with_docids(place, questions.corpus_of_generation(config["questions"]))
    pairs = generation_pairs(
        corpus, identifiers, asked.questions, asked.qrels, seed=config["seed"], progress=False, **pairs_config
    )
    checkpoint, codes = checkpoint_folder(place), semantic_ids_of(place)
    if checkpoint is None:
        model = new_student(config["scratch"], identifiers, config["seed"])
    else:
        model = load_student(checkpoint)
        if codes is not None:
            codes.add_to(AutoTokenizer.from_pretrained(checkpoint), model)  # As it was for `identifiers`.
    arguments = {"ranking_weight": 0.0, **config["training"]}
    trained = _train(place, model, identifiers, arguments, train_dataset=pairs)
    return {"pairs": len(pairs), "parameters": model.num_parameters(), **trained}


def ranking_stage(place: Place) -> dict[str, Any]:
    """Teach a student to rank its candidates as the teacher does; with `ranking_weight` 0, only to generate."""
    config = place.config
    set_seed(config["seed"])
    questions, identifiers = questions_of(place), identifiers_of(place)
    asked = questions.of_ranking(config["questions"])
    candidates = Candidates.load_from_disk(place.input("candidates").folder / "candidates")
    own = not place.has("teacher")
    rankings = (
        candidates.to_rankings() if own else Rankings.from_trec(place.input("teacher").folder / "teacher.trec.gz")
    )
    settings = dict(config["collator"])
    # By default the weights of the search; a row may train with others.
    scoring = ScoringSettings(**settings.pop("scoring")) if "scoring" in settings else scoring_of(place)
    collator = DistillationCollator(
        identifiers, candidates, rankings, asked.qrels, scoring=scoring, seed=config["seed"], **settings
    )
    model: Any = load_student(str(place.input("student").folder / "model"))
    if config["lora"] is not None:
        model = _with_adapter(model, config["lora"])
    trained = _train(
        place, model, identifiers, config["training"], train_dataset=asked.questions, data_collator=collator
    )
    return {"questions": len(asked.questions), **trained}


def _with_adapter(model: PreTrainedModel, lora: Mapping[str, Any]) -> Any:
    from peft import LoraConfig, TaskType, get_peft_model

    task = TaskType.SEQ_2_SEQ_LM if model.config.is_encoder_decoder else TaskType.CAUSAL_LM
    return get_peft_model(model, LoraConfig(task_type=task, **lora))


class _Deadline(TrainerCallback):
    """Ends a training that has no time left with a checkpoint, from which the next command goes on."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.stopped = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.store.is_late() and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = self.stopped = True


def _train(
    place: Place, model: Any, identifiers: Identifiers, arguments: Mapping[str, Any], **data: Any
) -> dict[str, Any]:
    """Train, keep the weights in the stage's folder `model`, and return what is to be known about the training."""
    folder, cuda = place.folder / "training", torch.cuda.is_available()
    values = {"logging_steps": 50, "save_steps": 500, "lr_scheduler_type": "linear", **arguments}
    if not cuda:  # Presets are for both: what only an accelerator has is left out on others.
        values = {name: value for name, value in values.items() if name not in ("bf16", "fp16")}
    deadline = _Deadline(place.store)
    trainer = DistillationGenerativeRetrievalTrainer(
        model=model,
        args=DistillationTrainingArguments(
            output_dir=str(folder), save_strategy="steps", save_total_limit=1, report_to=[], disable_tqdm=True,
            seed=place.config["seed"], use_cpu=not cuda, **values,
        ),
        processing_class=identifiers.tokenizer,
        callbacks=[deadline],
        **data,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)  # The logs are kept; the terminal has a line for each stage.
    resumed = any(checkpoint_fault(checkpoint) is None for checkpoint in checkpoints(folder))
    trainer.train(resume_from_checkpoint=True if resumed else None)
    if deadline.stopped:
        raise OutOfTime(f"{place.stage.kind} {place.stage.label} goes on from step {trainer.state.global_step}")
    _keep(model, identifiers, place.folder / "model")
    logs = [{name: log[name] for name in _KEPT_LOGS if name in log} for log in trainer.state.log_history]
    with atomic_write(place.folder / "history.json") as file:
        json.dump([log for log in logs if "loss" in log], file)
    shutil.rmtree(folder, ignore_errors=True)
    scales = ("score_spread", "teacher_spread")
    fitted = ("margin", "margin_gap", "temperature", "teacher_temperature", "generation_weight", *scales)
    values = trainer.args.to_dict()
    return {"steps": trainer.state.global_step, "fitted": {name: values.get(name) for name in fitted}}


def _keep(model: Any, identifiers: Identifiers, folder: Path) -> None:
    if hasattr(model, "merge_and_unload"):  # An adapter: searches and further rounds need one model.
        model = model.merge_and_unload()
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    identifiers.tokenizer.save_pretrained(folder)
