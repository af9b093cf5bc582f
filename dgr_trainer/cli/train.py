"""`dgr train`: train a student to generate identifiers, or to rank as its teacher does."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import sys
from argparse import Namespace
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dgr_trainer._version import __version__
from dgr_trainer.cli.models import load_student, memory_advice
from dgr_trainer.cli.pairs import PairOptions
from dgr_trainer.cli.parsing import CommandParser, write_config
from dgr_trainer.cli.paths import output_folder
from dgr_trainer.cli.round_options import RoundChoices, RoundOptions, RoundSearchOptions, check_round_arguments
from dgr_trainer.cli.settings import IdentifierOptions
from dgr_trainer.cli.sources import RETRIEVER_MARKER
from dgr_trainer.cli.teachers import PrefixedTeacherOptions
from dgr_trainer.cli.train_inputs import AllOptions, TrainInputs, check, read
from dgr_trainer.cli.train_options import (
    CollatorOptions,
    EvaluationOptions,
    LoraOptions,
    ScoringOptions,
    TrainOptions,
)
from dgr_trainer.cli.train_rounds import delete_rounds, run_rounds
from dgr_trainer.errors import DGRValueError, input_errors
from dgr_trainer.files.atomic import atomic_folder
from dgr_trainer.files.fingerprints import path_fingerprint
from dgr_trainer.training.arguments import DistillationTrainingArguments
from dgr_trainer.training.checkpoints import checkpoints, complete_checkpoint

if TYPE_CHECKING:
    from dgr_trainer.retrieval.retriever import GenerativeRetriever
    from dgr_trainer.training.trainer import DistillationGenerativeRetrievalTrainer

logger = logging.getLogger(__name__)

CONFIG_FILE = "train.yaml"
_LESS_MEMORY = "Lower --per_device_train_batch_size and raise --gradient_accumulation_steps by as much."
_NOT_REPEATED = ("overwrite", "resume_from_checkpoint")
# The least values of arguments that transformers does not check before it uses them.
_LEAST = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "dataloader_num_workers": 0,
    "seed": 0,
}


def make_parser() -> CommandParser:
    """The command line of `dgr train`."""
    parser = CommandParser(
        [
            TrainOptions,
            CollatorOptions,
            LoraOptions,
            EvaluationOptions,
            PairOptions,
            IdentifierOptions,
            ScoringOptions,
            RoundOptions,
            RoundSearchOptions,
            PrefixedTeacherOptions,
            DistillationTrainingArguments,
        ],
        command="train",
        usage="--stage STAGE --model MODEL --output_dir DIR [options]",
        description="Train a student. With an index (or a retriever as model) the result is a retriever in "
        "OUTPUT_DIR/retriever, otherwise model and tokenizer in OUTPUT_DIR/model. The options are saved in "
        f"OUTPUT_DIR/{CONFIG_FILE}; `dgr train --config` runs them again. `dgr --debug train` shows tracebacks.",
        example="  dgr train --stage generation --model facebook/bart-base --index index \\\n"
        "      --queries train.jsonl --qrels train.qrels --output_dir generation\n"
        "  dgr train --stage distillation --model generation/retriever \\\n"
        "      --queries train.jsonl --qrels train.qrels --candidates candidates \\\n"
        "      --run teacher.trec --output_dir distilled\n"
        "  dgr train --stage distillation --model generation/retriever \\\n"
        "      --queries train.jsonl --qrels train.qrels --teacher bm25 --rounds 3 \\\n"
        "      --eval_queries dev.jsonl --eval_qrels dev.qrels --output_dir rounds",
        required=("output_dir",),
    )
    # The trainer's hundred arguments come after the options of this command.
    trainer_options = parser._action_groups.pop(1)
    trainer_options.title = "training (DistillationTrainingArguments)"
    parser._action_groups.append(trainer_options)
    return parser


def run(
    options: TrainOptions,
    collator_options: CollatorOptions,
    lora: LoraOptions,
    evaluation: EvaluationOptions,
    pair_options: PairOptions,
    identifier_options: IdentifierOptions,
    scoring_options: ScoringOptions,
    round_options: RoundOptions,
    round_search: RoundSearchOptions,
    teacher_options: Any,
    arguments: DistillationTrainingArguments,
    positionals: Namespace,
) -> None:
    """Run `dgr train`."""
    rounds = RoundChoices(round_options, round_search, teacher_options)
    all_options = AllOptions(
        options, collator_options, lora, evaluation, pair_options, identifier_options, scoring_options, rounds
    )
    check(all_options)
    if rounds.wanted:
        check_round_arguments(arguments)
    _check_arguments(arguments, evaluation)
    output_dir = Path(arguments.output_dir or "")
    checkpoint = _checkpoint(arguments.resume_from_checkpoint, output_dir)
    old_checkpoints = _old_checkpoints(output_dir, resumed=checkpoint is not None, overwrite=options.overwrite)
    # Rounds that are there are gone on with.
    replace = options.overwrite or checkpoint is not None or rounds.are_in(output_dir)
    retriever_folder = output_folder("--output_dir", str(output_dir / "retriever"), RETRIEVER_MARKER, replace)
    is_adapter = lora.lora_r > 0 or (Path(options.model) / "adapter_config.json").is_file()
    model_marker = "adapter_config.json" if is_adapter else "config.json"
    model_folder = output_folder("--output_dir", str(output_dir / "model"), model_marker, replace)

    from transformers import set_seed

    inputs = read(all_options, arguments.seed)
    set_seed(arguments.seed)  # A new adapter is random.
    model = load_student(inputs.model_name, lora)
    _check_training(arguments, model)
    if checkpoint is not None:
        _check_weights(Path(checkpoint), model)
    retriever = _retriever(model, inputs, Path(options.model))
    given = {name: value for name, value in positionals.given.items() if name not in _NOT_REPEATED}
    if rounds.wanted:
        assert retriever is not None
        first = arguments.process_index == 0
        if first and options.overwrite:
            delete_rounds(output_dir, old_checkpoints)
        if first and not rounds.are_in(output_dir):  # Those that are there may be refused.
            write_config(given, output_dir / CONFIG_FILE, f"dgr-trainer {__version__}")
        with redirect_stdout(sys.stderr), memory_advice(_LESS_MEMORY):
            metrics = run_rounds(retriever, inputs, rounds, options, collator_options, arguments)
        if first:
            write_config(given, output_dir / CONFIG_FILE, f"dgr-trainer {__version__}")
            _save(retriever, retriever_folder, metrics)
        return
    trainer = _trainer(model, inputs, arguments)
    if retriever is not None:
        trainer.add_index = retriever.add_index
    if trainer.is_world_process_zero():
        trainer.run_record.facts["inputs"] = _fingerprints(options, evaluation)
        for folder in old_checkpoints:
            shutil.rmtree(folder)
        write_config(given, output_dir / CONFIG_FILE, f"dgr-trainer {__version__}")
        if inputs.collator is not None:
            from dgr_trainer.runs.statistics import rank_list_statistics

            lists = inputs.collator.rankings, inputs.collator.sampler.qrels, inputs.dataset["query_id"]
            logger.info("training data:\n%s", rank_list_statistics(*lists))
    # Trainers print what they log; standard output is for the metrics at the end.
    with redirect_stdout(sys.stderr), memory_advice(_LESS_MEMORY):
        trainer.train(resume_from_checkpoint=checkpoint)
        metrics = trainer.evaluate() if inputs.evaluator is not None else {}
        if arguments.push_to_hub:
            trainer.push_to_hub()
    if not trainer.is_world_process_zero():
        return
    shown = {name: value for name, value in metrics.items() if "@" in name or name == "eval_loss"}
    if retriever is not None:
        _save(retriever, retriever_folder, shown)
        return
    with atomic_folder(model_folder, marker=model_marker) as folder:
        model.save_pretrained(folder)
        inputs.identifiers.tokenizer.save_pretrained(folder)
    logger.info("saved: %s", model_folder)
    if shown:
        print(json.dumps(shown))


def _save(retriever: GenerativeRetriever, folder: Path, metrics: dict[str, Any]) -> None:
    """Write the result and print its metrics."""
    retriever.save_pretrained(folder)
    logger.info("saved: %s", folder)
    if metrics:
        print(json.dumps(metrics))


def _fingerprints(options: TrainOptions, evaluation: EvaluationOptions) -> dict[str, Any]:
    """The files that were given, by option, for the record of the run."""
    names = ("queries", "qrels", "corpus", "pairs", "candidates", "run", "identifiers", "index")
    given = {name: getattr(options, name) for name in names}
    given |= {name: getattr(evaluation, name) for name in ("eval_queries", "eval_qrels")}
    return {name: path_fingerprint(path) for name, path in given.items() if path is not None}


def _checkpoint(wanted: str | None, output_dir: Path) -> str | None:
    """The checkpoint to resume from: a path, or the last complete one in the output folder."""
    if wanted is None or wanted.lower() in ("false", ""):
        return None
    last = wanted.lower() in ("last", "true")
    if last and not checkpoints(output_dir):
        raise FileNotFoundError(f"--resume_from_checkpoint {wanted}: there is no checkpoint in {output_dir}.")
    try:
        return complete_checkpoint(True if last else wanted, str(output_dir))
    except DGRValueError as error:
        raise DGRValueError(f"--resume_from_checkpoint: {error}") from None


def _check_weights(folder: Path, model: Any) -> None:
    """Check that the weights of a checkpoint are those of this model; weights that processes share are not read."""
    from safetensors import safe_open

    other = f"--resume_from_checkpoint: {folder} is a checkpoint of another model"
    hint = "Give the --model and --lora_r that it was trained with."
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    for file in sorted(folder.glob("*.safetensors")):
        known = 0
        with input_errors(f"--resume_from_checkpoint: {file} is damaged", Exception), safe_open(file, "pt") as weights:
            for name in weights.keys():
                # An adapter is saved without its name. Other modules of peft have other names in the model.
                prefix, _, parameter = name.rpartition(".")
                expected = shapes.get(name, shapes.get(f"{prefix}.default.{parameter}"))
                shape = tuple(weights.get_slice(name).get_shape())
                known += expected is not None
                if expected not in (None, shape):
                    raise DGRValueError(f"{other}: its weight {name} has the shape {shape}, not {expected}. {hint}")
        if not known:
            raise DGRValueError(f"{other}: the model has none of the weights in {file.name}. {hint}")


def _old_checkpoints(output_dir: Path, *, resumed: bool, overwrite: bool) -> list[Path]:
    """Folders of checkpoints to be deleted before training starts again."""
    if output_dir.exists() and not output_dir.is_dir():
        raise FileExistsError(f"--output_dir: {output_dir} is a file. Give a folder.")
    old = checkpoints(output_dir)
    if old and not resumed and not overwrite:
        raise FileExistsError(
            f"--output_dir: {output_dir} holds checkpoints of an earlier run. Add --resume_from_checkpoint last to "
            "resume from the last one, or --overwrite to start again and delete them."
        )
    return old if overwrite and not resumed else []


def _check_arguments(arguments: DistillationTrainingArguments, evaluation: EvaluationOptions) -> None:
    """Check arguments of the trainer that transformers would refuse only after the data is read."""
    for name, least in _LEAST.items():
        if getattr(arguments, name) < least:
            raise DGRValueError(f"--{name} {getattr(arguments, name)} has to be at least {least}.")
    if arguments.seed >= 2**32:
        raise DGRValueError(f"--seed {arguments.seed} has to be less than 2**32.")
    strategy = str(getattr(arguments.eval_strategy, "value", arguments.eval_strategy))
    if strategy != "no" and evaluation.eval_queries is None:
        raise DGRValueError(
            f"--eval_strategy {strategy}: there is nothing to evaluate on. Give --eval_queries and --eval_qrels."
        )
    if arguments.use_liger_kernel and importlib.util.find_spec("liger_kernel") is None:
        raise DGRValueError("--use_liger_kernel needs a package that is not installed: pip install liger-kernel.")
    if arguments.push_to_hub:
        from huggingface_hub import HfApi

        with input_errors("--push_to_hub: the hub cannot be used", Exception):
            HfApi(token=arguments.hub_token).whoami()


def _check_training(arguments: DistillationTrainingArguments, model: Any) -> None:
    """Make what transformers and torch would refuse only once training has begun: callbacks, optimizer, schedule."""
    import torch
    from transformers import Trainer, get_scheduler
    from transformers.integrations.integration_utils import get_reporting_integration_callbacks

    with input_errors("--report_to cannot be used", ValueError, RuntimeError, ImportError):
        for callback in cast(Any, get_reporting_integration_callbacks)(arguments.report_to):
            callback()
    if arguments.deepspeed:
        return
    optimizer_name = getattr(arguments.optim, "value", arguments.optim)
    options = f"--optim {optimizer_name} cannot be used with its options"
    with input_errors(options, ValueError, TypeError, KeyError, RuntimeError, ImportError):
        make_optimizer, settings = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
        if not isinstance(make_optimizer, type) or not issubclass(make_optimizer, torch.optim.Optimizer):
            return
        if {"params", "model", "optimizer_dict"} & set(settings):
            return
        optimizer = make_optimizer([torch.nn.Parameter(torch.zeros(1))], **settings)
    schedule_name = getattr(arguments.lr_scheduler_type, "value", arguments.lr_scheduler_type)
    schedule = f"--lr_scheduler_type {schedule_name} cannot be used with its options"
    with input_errors(schedule, ValueError, TypeError, KeyError):
        get_scheduler(
            arguments.lr_scheduler_type,
            optimizer,
            num_warmup_steps=arguments.get_warmup_steps(100),
            num_training_steps=100,
            scheduler_specific_kwargs=cast("dict[str, Any] | None", arguments.lr_scheduler_kwargs),
        )


def _retriever(model: Any, inputs: TrainInputs, model_folder: Path) -> GenerativeRetriever | None:
    if inputs.index is None:
        return None
    from dgr_trainer.retrieval.retriever import GenerativeRetriever
    from dgr_trainer.retrieval.storage import stored_semantic_ids

    return GenerativeRetriever(
        model,
        inputs.identifiers,
        inputs.index,
        corpus=inputs.corpus,
        settings=inputs.search,
        scoring=inputs.scoring,
        semantic_ids=stored_semantic_ids(model_folder),
    )


def _trainer(
    model: Any, inputs: TrainInputs, arguments: DistillationTrainingArguments
) -> DistillationGenerativeRetrievalTrainer:
    from transformers import DataCollatorForSeq2Seq

    from dgr_trainer.training.trainer import DistillationGenerativeRetrievalTrainer

    collator = inputs.collator or DataCollatorForSeq2Seq(inputs.identifiers.tokenizer, model=model)
    # transformers and accelerate check the rest of their arguments here, and which packages these need.
    with input_errors("`dgr train` cannot use these options", ValueError, ImportError, RuntimeError):
        return DistillationGenerativeRetrievalTrainer(
            model=model,
            args=arguments,
            data_collator=collator,
            train_dataset=inputs.dataset,
            processing_class=inputs.identifiers.tokenizer,
            retrieval_evaluator=inputs.evaluator,
        )
