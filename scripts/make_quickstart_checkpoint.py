"""Make the student that the quickstart starts from: the generation stage, trained from random weights.

    python scripts/make_quickstart_checkpoint.py DIR

It learns from the passages alone, without the quickstart's questions and without a teacher; the quickstart itself uses
those. It takes about an hour on one core; after an interruption it resumes behind the last finished round. The
checkpoint in `dgr_trainer/quickstart/checkpoint` was made by this script.
"""

import argparse
import json
import logging
import platform
from pathlib import Path

import torch
import transformers
from transformers import (
    BartForConditionalGeneration,
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.quickstart.python_docs import python_docs_corpus
from dgr_trainer.quickstart.student import made_up_questions, new_student, train_tokenizer
from dgr_trainer.training.pairs import generation_pairs

logger = logging.getLogger(__name__)


def main() -> None:
    """Train the tokenizer and the student and save both, the weights in half precision, in the given folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Where to write the checkpoint.")
    parser.add_argument(
        "--steps",
        type=int,
        nargs="+",
        default=[2500, 2000, 2000],
        help="Optimiser steps, of 64 examples, of each round.",
    )
    parser.add_argument(
        "--questions-per-passage", type=int, default=12, help="Made-up questions of each passage, in each round."
    )
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="Peak learning rate.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of all random choices.")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)

    corpus = python_docs_corpus()
    identifiers = Identifiers(train_tokenizer(corpus))
    student: PreTrainedModel = new_student(identifiers, options.seed)
    for number, steps in enumerate(options.steps):
        finished = options.folder / "training" / f"round-{number}"
        if finished.is_dir():
            logger.info("Round %d is already in %s.", number, finished)
            student = BartForConditionalGeneration.from_pretrained(finished)
            continue
        train_round(student, corpus, identifiers, number, steps, options)
        student.save_pretrained(finished)
    student.half().save_pretrained(options.folder)
    identifiers.tokenizer.save_pretrained(options.folder)
    made_with = {
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
        "options": {name: value for name, value in vars(options).items() if name != "folder"},
        "passages": len(corpus),
    }
    (options.folder / "made_with.json").write_text(json.dumps(made_with, indent=2) + "\n", encoding="utf-8")


def train_round(
    student: PreTrainedModel,
    corpus: Corpus,
    identifiers: Identifiers,
    number: int,
    steps: int,
    options: argparse.Namespace,
) -> None:
    """Make up questions and train the student to generate the identifiers of their passages."""
    seed = options.seed + number
    made_up, qrels = made_up_questions(corpus, options.questions_per_passage, seed)
    pairs = generation_pairs(
        corpus,
        identifiers,
        made_up,
        qrels,
        titles_per_query=1,
        substrings_per_query=2 if number == 0 else 3,
        pseudo_queries_per_query=1,
        samples_per_passage=2,
        # First substrings from all over a passage, to learn the language; then substrings that begin with words of the
        # question, to learn to copy rare words, which distinguish a passage.
        temperature=1.0 if number == 0 else 0.15,
        seed=seed,
    )
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(options.folder / "training" / "unfinished"),
        max_steps=steps,
        per_device_train_batch_size=64,
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=300,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        weight_decay=0.01,
        label_smoothing_factor=0.1,
        train_sampling_strategy="group_by_length",
        logging_steps=100,
        save_strategy="no",
        report_to=[],
        seed=seed,
    )
    trainer = Seq2SeqTrainer(
        model=student,
        args=arguments,
        train_dataset=pairs,
        data_collator=DataCollatorForSeq2Seq(identifiers.tokenizer, model=student, pad_to_multiple_of=8),
        processing_class=identifiers.tokenizer,
    )
    trainer.train()


if __name__ == "__main__":
    main()
