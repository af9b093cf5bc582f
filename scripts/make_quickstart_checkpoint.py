"""Make the student that the quickstart starts from: the generation stage, trained from random weights.

    python scripts/make_quickstart_checkpoint.py DIR [--kind qwen3]

It learns from the passages alone, without the quickstart's questions and without a teacher; the quickstart itself uses
those. It takes about an hour on one core; after an interruption it resumes behind the last finished round. The
checkpoint in `dgr_trainer/quickstart/checkpoint` was made by this script. With `--kind qwen3` it makes a decoder-only
student of about as many parameters from the same examples, to compare the two kinds.
"""

import argparse
import json
import logging
import platform
from pathlib import Path

import torch
import transformers
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    Seq2SeqTrainer,
)

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.quickstart.python_docs import python_docs_corpus
from dgr_trainer.quickstart.student import made_up_questions, new_student, train_tokenizer
from dgr_trainer.student.students import load_student_model
from dgr_trainer.training.arguments import DistillationTrainingArguments
from dgr_trainer.training.pairs import generation_pairs
from dgr_trainer.training.trainer import DistillationGenerativeRetrievalTrainer

logger = logging.getLogger(__name__)


def main() -> None:
    """Train the tokenizer and the student and save both, the weights in half precision, in the given folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Where to write the checkpoint.")
    parser.add_argument("--kind", choices=("bart", "qwen3"), default="bart", help="Architecture of the student.")
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
    parser.add_argument(
        "--fp32",
        action="store_true",
        help="Train in single precision, which is faster where the processor has no instructions for bfloat16.",
    )
    parser.add_argument("--seed", type=int, default=0, help="Seed of all random choices.")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)

    corpus = python_docs_corpus()
    identifiers = Identifiers(train_tokenizer(corpus))
    make = new_student if options.kind == "bart" else new_causal_student
    student: PreTrainedModel = make(identifiers, options.seed)
    for number, steps in enumerate(options.steps):
        finished = options.folder / "training" / f"round-{number}"
        if finished.is_dir():
            logger.info("Round %d is already in %s.", number, finished)
            student = load_student_model(str(finished), dtype=torch.float32)
            if student.config.model_type != options.kind:
                parser.error(f"{finished} has a {student.config.model_type}, no {options.kind}. Give another folder.")
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


def new_causal_student(identifiers: Identifiers, seed: int) -> Qwen3ForCausalLM:
    """Build a Qwen3 with random weights, of about as many parameters as the quickstart's BART."""
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=identifiers.vocab_size,
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=5,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=64,
            max_position_embeddings=256,
            initializer_range=0.06,
            tie_word_embeddings=True,
            bos_token_id=0,
            pad_token_id=1,
            eos_token_id=2,
        )
    )


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
    arguments = DistillationTrainingArguments(
        output_dir=str(options.folder / "training" / "unfinished"),
        max_steps=steps,
        per_device_train_batch_size=64,
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=300,
        bf16=not options.fp32,
        use_cpu=not torch.cuda.is_available(),
        weight_decay=0.01,
        label_smoothing_factor=0.1,
        train_sampling_strategy="group_by_length",
        logging_steps=100,
        save_strategy="no",
        report_to=[],
        seed=seed,
        ranking_weight=0.0,
    )
    common = {"model": student, "args": arguments, "train_dataset": pairs, "processing_class": identifiers.tokenizer}
    trainer: Seq2SeqTrainer
    if student.config.is_encoder_decoder:
        collator = DataCollatorForSeq2Seq(identifiers.tokenizer, model=student, pad_to_multiple_of=8)
        trainer = Seq2SeqTrainer(data_collator=collator, **common)
    else:
        trainer = DistillationGenerativeRetrievalTrainer(**common)
    trainer.train()


if __name__ == "__main__":
    main()
