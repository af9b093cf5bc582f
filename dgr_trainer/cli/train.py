"""`dgr train`: a student learns to generate identifiers, or to rank as its teacher does."""

from __future__ import annotations

import json
import logging
import re
import shutil
import sys
from argparse import Namespace
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from dgr_trainer._version import __version__
from dgr_trainer.cli.parsing import CommandParser, write_config
from dgr_trainer.cli.paths import output_folder
from dgr_trainer.cli.settings import IdentifierOptions, PairOptions, ScoringOptions
from dgr_trainer.cli.sources import RETRIEVER_MARKER
from dgr_trainer.cli.train_inputs import TrainInputs, check, read
from dgr_trainer.cli.train_options import EvaluationOptions, LoraOptions, TrainOptions
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.atomic import atomic_folder
from dgr_trainer.training.arguments import DistillationTrainingArguments

logger = logging.getLogger(__name__)

CONFIG_FILE = "train.yaml"
_OF_THIS_RUN = ("overwrite", "resume_from_checkpoint")  # Not to be repeated with the other options.
_CHECKPOINT = re.compile(r"checkpoint-\d+")


def make_parser() -> CommandParser:
    """The command line of `dgr train`."""
    parser = CommandParser(
        [
            TrainOptions,
            LoraOptions,
            EvaluationOptions,
            PairOptions,
            IdentifierOptions,
            ScoringOptions,
            DistillationTrainingArguments,
        ],
        command="train",
        usage="--stage STAGE --model MODEL --output_dir DIR [options]",
        description="Train a student. With an index (or a retriever as model) the result is a whole retriever in "
        "OUTPUT_DIR/retriever, otherwise model and tokenizer in OUTPUT_DIR/model. The options used are kept in "
        f"OUTPUT_DIR/{CONFIG_FILE}; `dgr train --config` runs them again. `dgr --debug train` shows tracebacks.",
        example="  dgr train --stage generation --model facebook/bart-base --index index \\\n"
        "      --queries train.jsonl --qrels train.qrels --output_dir generation\n"
        "  dgr train --stage distillation --model generation/retriever \\\n"
        "      --queries train.jsonl --qrels train.qrels --candidates candidates \\\n"
        "      --run teacher.trec --output_dir distilled",
        required=("output_dir",),
    )
    # A hundred arguments of the trainer come after what is this command's own.
    trainer_options = parser._action_groups.pop(1)
    trainer_options.title = "training (DistillationTrainingArguments)"
    parser._action_groups.append(trainer_options)
    return parser


def run(
    options: TrainOptions,
    lora: LoraOptions,
    evaluation: EvaluationOptions,
    pair_options: PairOptions,
    identifier_options: IdentifierOptions,
    scoring_options: ScoringOptions,
    arguments: DistillationTrainingArguments,
    positionals: Namespace,
) -> None:
    """Run `dgr train`."""
    check(options, lora, evaluation, scoring_options)
    output_dir = Path(arguments.output_dir or "")
    checkpoint = _checkpoint(arguments.resume_from_checkpoint, output_dir)
    old = _old_checkpoints(output_dir, resumed=checkpoint is not None, overwrite=options.overwrite)
    whole = options.overwrite or checkpoint is not None
    retriever_folder = output_folder("--output_dir", str(output_dir / "retriever"), RETRIEVER_MARKER, whole)
    is_adapter = lora.lora_r > 0 or (Path(options.model) / "adapter_config.json").is_file()
    model_marker = "adapter_config.json" if is_adapter else "config.json"
    model_folder = output_folder("--output_dir", str(output_dir / "model"), model_marker, whole)

    inputs = read(options, pair_options, identifier_options, scoring_options, evaluation, arguments.seed)
    model = _student(inputs.model_name, lora)
    retriever = _retriever(model, inputs)
    trainer = _trainer(model, inputs, arguments)
    if trainer.is_world_process_zero():
        for folder in old:
            shutil.rmtree(folder)
        given = {name: value for name, value in positionals.given.items() if name not in _OF_THIS_RUN}
        write_config(given, output_dir / CONFIG_FILE, f"dgr-trainer {__version__}")
        if inputs.collator is not None and inputs.dataset is not None:
            from dgr_trainer.runs.statistics import rank_list_statistics

            lists = inputs.collator.rankings, inputs.collator.sampler.qrels, inputs.dataset["query_id"]
            logger.info("what there is to learn from:\n%s", rank_list_statistics(*lists))
    # Trainers print what they log; standard output is for the metrics at the end.
    with redirect_stdout(sys.stderr):
        trainer.train(resume_from_checkpoint=checkpoint)
        metrics = trainer.evaluate() if inputs.evaluator is not None else {}
    if not trainer.is_world_process_zero():
        return
    if retriever is not None:
        retriever.save_pretrained(retriever_folder)
    else:
        with atomic_folder(model_folder, marker=model_marker) as folder:
            model.save_pretrained(folder)
            inputs.identifiers.tokenizer.save_pretrained(folder)
    logger.info("saved: %s", model_folder if retriever is None else retriever_folder)
    if metrics:
        print(json.dumps({name: value for name, value in metrics.items() if "@" in name or name == "eval_loss"}))


def _checkpoint(wanted: str | None, output_dir: Path) -> str | None:
    """The checkpoint to go on from: a path, or the last one in the output folder."""
    if wanted is None or wanted.lower() in ("false", ""):
        return None
    if wanted.lower() not in ("last", "true"):
        if not (Path(wanted) / "trainer_state.json").is_file():
            raise FileNotFoundError(
                f"--resume_from_checkpoint: {wanted} is no checkpoint: it has no trainer_state.json."
            )
        return wanted
    found = _checkpoints(output_dir)
    if not found:
        raise FileNotFoundError(f"--resume_from_checkpoint {wanted}: there is no checkpoint in {output_dir}.")
    return str(found[-1])


def _checkpoints(output_dir: Path) -> list[Path]:
    """Checkpoints that are whole (the state is written last), in their order."""
    found = [path for path in output_dir.glob("checkpoint-*") if _CHECKPOINT.fullmatch(path.name)]
    whole = [path for path in found if (path / "trainer_state.json").is_file()]
    return sorted(whole, key=lambda path: int(path.name.split("-")[1]))


def _old_checkpoints(output_dir: Path, *, resumed: bool, overwrite: bool) -> list[Path]:
    """Folders to be deleted before training anew."""
    if output_dir.exists() and not output_dir.is_dir():
        raise FileExistsError(f"--output_dir: {output_dir} is a file. Give a folder.")
    found = [path for path in output_dir.glob("checkpoint-*") if _CHECKPOINT.fullmatch(path.name)]
    if found and not resumed and not overwrite:
        raise FileExistsError(
            f"--output_dir: {output_dir} holds checkpoints of an earlier run. Add --resume_from_checkpoint last to go "
            "on from the last one, or --overwrite to train anew and delete them."
        )
    return found if overwrite and not resumed else []


def _student(name: str, lora: LoraOptions) -> Any:
    """The model to train, in full precision: whole, with the adapter it was saved with, or with a new one."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    if (Path(name) / "adapter_config.json").is_file():
        from peft import PeftConfig, PeftModel

        if lora.lora_r:
            raise DGRValueError(
                f"--lora_r: {name} has an adapter already, which is trained further. Leave --lora_r out."
            )
        base = PeftConfig.from_pretrained(name).base_model_name_or_path
        model = AutoModelForSeq2SeqLM.from_pretrained(base, dtype=torch.float32)
        return PeftModel.from_pretrained(model, name, is_trainable=True)
    model = AutoModelForSeq2SeqLM.from_pretrained(name, dtype=torch.float32)
    if not lora.lora_r:
        return model
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="SEQ_2_SEQ_LM",
        r=lora.lora_r,
        lora_alpha=lora.lora_alpha or 2 * lora.lora_r,
        lora_dropout=lora.lora_dropout,
        target_modules=lora.lora_target_modules,
    )
    return get_peft_model(model, config)


def _retriever(model: Any, inputs: TrainInputs) -> Any:
    if inputs.index is None:
        return None
    from dgr_trainer.retrieval.retriever import GenerativeRetriever

    return GenerativeRetriever(
        model,
        inputs.identifiers,
        inputs.index,
        corpus=inputs.corpus,
        settings=inputs.search,
        scoring=inputs.scoring,
    )


def _trainer(model: Any, inputs: TrainInputs, arguments: DistillationTrainingArguments) -> Any:
    from transformers import DataCollatorForSeq2Seq

    from dgr_trainer.training.trainer import DistillationGenerativeRetrievalTrainer

    collator = inputs.collator or DataCollatorForSeq2Seq(inputs.identifiers.tokenizer, model=model)
    return DistillationGenerativeRetrievalTrainer(
        model=model,
        args=arguments,
        data_collator=collator,
        train_dataset=inputs.dataset,
        processing_class=inputs.identifiers.tokenizer,
        retrieval_evaluator=inputs.evaluator,
    )
