"""Models of known shapes and batches of real candidates for train_step.py and train_scaling.py."""

from __future__ import annotations

import argparse
import json
import random
import resource
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from dgr_trainer import (
    Candidate,
    Candidates,
    DistillationCollator,
    DistillationGenerativeRetrievalTrainer,
    DistillationTrainingArguments,
    Identifiers,
    IdentifierSettings,
    MatchedIdentifier,
    read_qrels,
    read_queries,
)
from dgr_trainer.student.students import load_student_model

_BART_LARGE = {
    "d_model": 1024, "encoder_layers": 12, "decoder_layers": 12, "encoder_attention_heads": 16,
    "decoder_attention_heads": 16, "encoder_ffn_dim": 4096, "decoder_ffn_dim": 4096,
}  # fmt: skip
_BART_BASE = {
    "d_model": 768, "encoder_layers": 6, "decoder_layers": 6, "encoder_attention_heads": 12,
    "decoder_attention_heads": 12, "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072,
}  # fmt: skip
_BART_TINY = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
}  # fmt: skip
_QWEN3 = {  # That of Qwen3-0.6B, with one of its 28 layers and a 28th of its vocabulary.
    "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 1, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128,
}  # fmt: skip
_QWEN3_TINY = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip
_T5_LARGE = {"d_model": 1024, "d_kv": 64, "d_ff": 4096, "num_layers": 24, "num_heads": 16}
_T5_TINY = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 2}
SHAPES: dict[str, dict[str, int]] = {
    "bart-large-shape": _BART_LARGE,
    "bart-base-shape": _BART_BASE,
    "bart-tiny-shape": _BART_TINY,
    "qwen3-shape": _QWEN3,
    "qwen3-tiny-shape": _QWEN3_TINY,
    "qwen3-0.6b-shape": {**_QWEN3, "num_hidden_layers": 28},
    "t5-large-shape": _T5_LARGE,
    "t5-tiny-shape": _T5_TINY,
    "t5-small-shape": {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that both benchmarks have."""
    parser.add_argument("--data", type=Path, required=True, help="BEIR folder with a train split.")
    parser.add_argument("--candidates", type=Path, required=True, help="What run.py --candidates-only names.")
    parser.add_argument("--tokenizer", type=Path, help="Folder of their tokenizer; by default, the one run.py used.")
    parser.add_argument(
        "--model", default="bart-base-shape", help=f"A checkpoint, or random weights of {', '.join(SHAPES)}."
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--tokens-at-once", type=int, default=4096, help="decoder_tokens_at_once of the training arguments."
    )
    parser.add_argument(
        "--distinct",
        action="store_true",
        help="The worst case: 40 random identifiers of 2 to 6 tokens for each passage, none shared.",
    )
    parser.add_argument("--prompt-tokens", type=int, help="Repeat the words of queries until prompts are this long.")
    parser.add_argument("--bf16", action="store_true", help="Mixed precision; scores and losses stay in float32.")


def make_model(name: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A checkpoint, or random weights of a known shape with the published vocabulary size."""
    torch.manual_seed(0)
    if name not in SHAPES:
        return load_student_model(name, dtype=torch.float32)
    if name.startswith("qwen3"):
        whole = 151936 if name == "qwen3-0.6b-shape" else 151936 // 28
        vocab_size = len(tokenizer) if name == "qwen3-tiny-shape" else max(whole, len(tokenizer))
        config = Qwen3Config(
            vocab_size=vocab_size, tie_word_embeddings=True, pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id, **SHAPES[name],
        )  # fmt: skip
        return Qwen3ForCausalLM(config)
    if name.startswith("t5"):
        config = T5Config(vocab_size=max(32128, len(tokenizer)), decoder_start_token_id=0, **SHAPES[name])
        return T5ForConditionalGeneration(config)
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    vocab_size = len(tokenizer) if name == "bart-tiny-shape" else max(50265, len(tokenizer))
    config = BartConfig(
        vocab_size=vocab_size, decoder_start_token_id=tokenizer.eos_token_id, **special, **SHAPES[name]
    )
    return BartForConditionalGeneration(config)


def with_random_identifiers(candidates: Candidates, vocabulary: int) -> Candidates:
    """The same passages, each found by 40 different random identifiers."""
    rng = random.Random(0)

    def drawn() -> MatchedIdentifier:
        length = rng.randint(2, 6)
        return MatchedIdentifier("substring", tuple(rng.randrange(5, vocabulary) for _ in range(length)), 1, 1.0)

    lists = {
        query_id: [
            Candidate(candidate.passage_id, candidate.score, tuple(drawn() for _ in range(40)))
            for candidate in query_candidates
        ]
        for query_id, query_candidates in candidates.items()
    }
    return Candidates.from_lists(
        lists, corpus_tokens=candidates.corpus_tokens, tokenizer_fingerprint=candidates.tokenizer_fingerprint
    )


def student_of(stage: Path) -> Path:
    """The student that a stage of examples/reproduce searched the candidates with."""
    inputs = json.loads((stage / "stage.json").read_text(encoding="utf-8"))["inputs"]
    return stage.with_name(f"generation-{inputs['student']}") / "model"


class Inputs:
    """Training queries with their candidates, a trainer of a model, and batches of them."""

    def __init__(self, options: argparse.Namespace, list_length: int, batch_size: int) -> None:
        tokenizer = AutoTokenizer.from_pretrained(options.tokenizer or student_of(options.candidates))
        candidates = Candidates.load_from_disk(options.candidates / "candidates")
        if options.distinct:
            candidates = with_random_identifiers(candidates, len(tokenizer))
        # The student's order replaces a teacher's: costs do not depend on which passage is better.
        length = options.prompt_tokens
        settings = None if length is None else IdentifierSettings(max_query_length=length)
        self.collator = DistillationCollator(
            Identifiers(tokenizer, settings),
            candidates,
            candidates.to_rankings(),
            read_qrels(options.data, "train"),
            list_length=list_length,
            sampling="dgr_paper",  # Also passages that share little with the others.
        )
        queries = read_queries(options.data, "train")
        self.queries = queries.filter(lambda row: row["query_id"] in candidates)
        if length is not None:  # What is too long is cut.
            self.queries = self.queries.map(lambda row: {"query": " ".join([row["query"]] * length)})
        self.model = make_model(options.model, tokenizer)
        self.trainer = DistillationGenerativeRetrievalTrainer(
            model=self.model,
            args=DistillationTrainingArguments(
                output_dir=str(options.candidates / "training"), save_strategy="no", report_to=[],
                use_cpu=options.device == "cpu", bf16=options.bf16, decoder_tokens_at_once=options.tokens_at_once,
            ),
            data_collator=self.collator,
            train_dataset=self.queries,
        )  # fmt: skip
        self.batch_size = batch_size
        self.device = self.trainer.args.device
        self.model.to(self.device)

    def features(self, step: int) -> list[dict[str, Any]]:
        """The queries of a step, starting again at the first after the last."""
        numbers = [(step * self.batch_size + i) % len(self.queries) for i in range(self.batch_size)]
        return [self.trainer.train_dataset[number] for number in numbers]

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        """A batch on the device."""
        return {name: tensor.to(self.device) for name, tensor in self.collator(self.features(step)).items()}

    def train_on(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Run the forward and backward pass of one batch."""
        with self.trainer.compute_loss_context_manager():
            loss = self.trainer.compute_loss(self.model, batch)
        loss.backward()
        return loss.detach()

    def finish(self) -> None:
        """Delete the gradients and wait for the device."""
        self.model.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def peak_memory(device: torch.device) -> int:
    """The peak memory of this process in bytes: on the accelerator, or resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
