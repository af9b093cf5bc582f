"""Compares one step of distillation (forward and backward pass) with the published formulation and a plain step.

    python examples/reproduce/run.py --data PARENT --output OUT --preset PRESET --corpora DIR --candidates-only
    python benchmarks/train_step.py --data PARENT/DIR --candidates OUT/stages/candidates-DIGEST \
        [--model bart-base-shape] [--device cuda --bf16]

The three sides take turns on the same queries:

reference   each identifier of each passage is a separate row, under the title prompt and the substring prompt, in
            chunks of 50 padded to their longest; the encoding is copied for each row; log-softmax over the vocabulary
            at each position; products with 0 or 1 select the prompt. Passages with fewer than 40 identifiers are
            filled up with a dummy. Pseudo-queries are rows, too, although their scores are not used. The generation
            loss takes two more encoder passes and two decoder passes. Identifiers are token ids here, so the
            reference's tokenizer calls are not counted.
ours        `DistillationGenerativeRetrievalTrainer.compute_loss`.
plain       the model's own loss on dense rows with as many prompt and decoder tokens as ours has without padding. For
            a decoder-only model, a row is the tokens of a prompt and then those of the decoder.

Times include neither the optimizer step nor collation, which is in `collation_seconds`. Peak memory is measured in a
separate process for each side. Scores are compared without dropout. The last line is one JSON object.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from torch import Tensor
from training_inputs import Inputs, add_options, peak_memory

from dgr_trainer.student.model_facts import start_token_id
from dgr_trainer.student.token_scores import sum_by_identifier
from dgr_trainer.training.batches import score_batch
from dgr_trainer.training.objective import passage_scores
from dgr_trainer.training.query_tables import QueryTable

PROMPTS = ("title", "substring")
CHUNK = 50
IDENTIFIERS = 40
SIDES = ("reference", "ours", "plain")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--list-length", type=int, default=6, help="Passages per query.")
    parser.add_argument("--batch", type=int, default=1, help="Queries per step.")
    parser.add_argument("--rounds", type=int, default=3, help="Measured turns, after one for warming up.")
    parser.add_argument("--side", choices=SIDES, help="Run only this side and print its peak memory.")
    return parser.parse_args()


class EncoderDecoderCalls:
    """Ordinary calls of an encoder-decoder model."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def encoded(self, prompt: Tensor) -> Tensor:
        return self.model.get_encoder()(input_ids=prompt).last_hidden_state

    def logits(self, prompt: Tensor, states: Tensor, labels: Tensor) -> Tensor:
        """What predicts each of the labels `(n, T)` after the prompt `(1, L)`."""
        inputs = labels.roll(1, dims=1)
        inputs[:, 0] = start_token_id(self.model)
        return self.model(
            encoder_outputs=(states.repeat(len(labels), 1, 1),),
            attention_mask=torch.ones_like(prompt).repeat(len(labels), 1),
            decoder_input_ids=inputs,
            use_cache=False,
        ).logits

    def loss(self, prompts: Tensor, labels: Tensor) -> Tensor:
        return self.model(input_ids=prompts, labels=labels, use_cache=False).loss


class CausalCalls:
    """Ordinary calls of a decoder-only model, whose sequences are a prompt and what follows it."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def encoded(self, prompt: Tensor) -> Tensor:
        return prompt  # Nothing is read before.

    def logits(self, prompt: Tensor, states: Tensor, labels: Tensor) -> Tensor:
        read = torch.cat([prompt.repeat(len(labels), 1), labels], dim=1)[:, :-1]
        return self.model(input_ids=read, use_cache=False).logits[:, prompt.shape[1] - 1 :]

    def loss(self, prompts: Tensor, labels: Tensor) -> Tensor:
        sequences = torch.cat([prompts, labels], dim=1)
        targets = torch.cat([torch.full_like(prompts, -100), labels], dim=1)
        return self.model(input_ids=sequences, labels=targets, use_cache=False).loss


def calls_of(model: Any) -> EncoderDecoderCalls | CausalCalls:
    """Ordinary calls, as published code makes them."""
    return EncoderDecoderCalls(model) if model.config.is_encoder_decoder else CausalCalls(model)


class Reference:
    """The published formulation on the queries of a step."""

    def __init__(self, inputs: Inputs, step: int) -> None:
        self.inputs = inputs
        self.calls = calls_of(inputs.model)
        self.queries = [self._query(feature) for feature in inputs.features(step)]
        self.batch = inputs.batch(step)

    def _query(self, feature: dict) -> dict:
        collator = self.inputs.collator
        sampled = collator.sampler.sample(feature["query_id"], 0)
        dummy = tuple(collator.identifiers.encode("pad token"))
        rows = []
        table = QueryTable()
        for matched in collator.source.matched(feature["query_id"], sampled.passage_ids, IDENTIFIERS):
            passage_rows = [
                (identifier.view, identifier.ids, table.slot(identifier.view, identifier.ids, identifier.count))
                for identifier in matched
            ]
            rows += passage_rows + [("substring", dummy, -1)] * (IDENTIFIERS - len(passage_rows))
        targets = collator._targets(feature["query_id"], feature["query"], sampled, 0)
        prompts = {view: collator.identifiers.encode_prompts([feature["query"]], view) for view in PROMPTS}
        return {"rows": rows, "targets": targets, "prompts": prompts, "identifiers": len(table.slots)}

    def log_likelihoods(self) -> Tensor:
        """l(i|q), `(B, K)`, in the order of our batch; 0 for pseudo-queries, as published."""
        rows = [self._query_log_likelihoods(query) for query in self.queries]
        width = self.batch["identifier_counts"].shape[1]
        return torch.stack([torch.nn.functional.pad(row, (0, width - len(row))) for row in rows])

    def _query_log_likelihoods(self, query: dict) -> Tensor:
        device = self.inputs.device
        rows = query["rows"]
        total = torch.zeros(len(rows), device=device)
        for view in PROMPTS:
            prompt = torch.tensor(query["prompts"][view], device=device)
            states = self.calls.encoded(prompt)
            parts = []
            for begin in range(0, len(rows), CHUNK):
                chunk = [ids for _, ids, _ in rows[begin : begin + CHUNK]]
                longest = max(map(len, chunk))
                labels = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in chunk], device=device)
                present = torch.tensor(
                    [[1.0] * len(ids) + [0.0] * (longest - len(ids)) for ids in chunk], device=device
                )
                logits = self.calls.logits(prompt, states, labels)
                log_p = torch.log_softmax(logits.float(), dim=-1)
                parts.append((log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1) * present).sum(-1))
            indicator = torch.tensor([float(row_view == view) for row_view, _, _ in rows], device=device)
            total = total + torch.cat(parts) * indicator
        # Without dropout, equal identifiers get equal scores: the last one is used.
        slots = torch.tensor([slot for _, _, slot in rows], device=device)
        kept = slots >= 0
        return torch.zeros(query["identifiers"], device=device).index_put((slots[kept],), total[kept])

    def cells(self) -> int:
        """Number of decoder positions that are computed, padding included."""
        lengths = [[len(ids) for _, ids, _ in query["rows"]] for query in self.queries]
        chunks = [
            query_lengths[begin : begin + CHUNK]
            for query_lengths in lengths
            for begin in range(0, len(query_lengths), CHUNK)
        ]
        return len(PROMPTS) * sum(len(chunk) * max(chunk) for chunk in chunks)

    def generation_loss(self) -> Tensor:
        device = self.inputs.device
        losses = []
        for query in self.queries:
            for view in PROMPTS:
                for target_view, ids in query["targets"]:
                    if target_view == view:
                        prompt = torch.tensor(query["prompts"][view], device=device)
                        labels = torch.tensor([list(ids)], device=device)
                        losses.append(self.calls.loss(prompt, labels))
        return torch.stack(losses).sum() / len(self.queries)

    def step(self) -> None:
        trainer, collator = self.inputs.trainer, self.inputs.collator
        with trainer.compute_loss_context_manager():
            scores = passage_scores(self.log_likelihoods(), self.batch, collator.corpus_tokens, collator.scoring)
            lists = (self.batch[name] for name in ("teacher_scores", "list_mask", "taught_ranks", "judged"))
            ranking = trainer.ranking_objective.ranking_losses(scores, *lists)
            loss = ranking.mean() + trainer.ranking_objective.generation_weight * self.generation_loss()
        loss.backward()


class Plain:
    """The model's own loss on dense rows with the tokens that our step has."""

    def __init__(self, inputs: Inputs, step: int) -> None:
        self.inputs = inputs
        sizes = shapes(inputs.batch(step))
        generator = torch.Generator().manual_seed(step)
        vocab = len(inputs.collator.tokenizer)

        def tokens(total: int) -> Tensor:
            shape = (sizes["prompts"], max(1, round(total / sizes["prompts"])))
            return torch.randint(3, vocab, shape, generator=generator).to(inputs.device)

        self.prompts, self.labels = tokens(sizes["prompt_tokens"]), tokens(sizes["decoder_tokens"])

    def step(self) -> None:
        with self.inputs.trainer.compute_loss_context_manager():
            loss = calls_of(self.inputs.model).loss(self.prompts, self.labels)
        loss.backward()


class Ours:
    """The trainer's step."""

    def __init__(self, inputs: Inputs, step: int) -> None:
        self.inputs = inputs
        self.batch = inputs.batch(step)

    def step(self) -> None:
        self.inputs.train_on(self.batch)


def shapes(batch: dict[str, Tensor]) -> dict[str, int]:
    """The sizes of a batch."""
    return {
        "prompts": batch["input_ids"].shape[0] * batch["input_ids"].shape[1],
        "prompt_tokens": int(batch["attention_mask"].sum()),
        "passages": int(batch["list_mask"].sum()),
        "distinct_identifiers": int((batch["identifier_counts"] > 0).sum()),
        "identifier_tokens": int((batch["segments"] >= 0).sum()),
        "decoder_tokens": int(batch["scored_prefixes"].unique().numel()),
        "decoder_cells": batch["prefix_tokens"].numel(),
    }


def compare(inputs: Inputs) -> dict[str, float]:
    """Differences between the reference's scores and ours, without dropout."""
    inputs.model.eval()
    reference = Reference(inputs, 0)
    batch, collator = reference.batch, inputs.collator
    with torch.no_grad():
        theirs = reference.log_likelihoods()
        tokens = score_batch(inputs.model, batch)
    ours = sum_by_identifier(tokens.log_probabilities, batch["segments"], theirs.shape[1])
    # Their pseudo-queries have no score, and identifiers that are only generated are not among the passages'.
    compared = (theirs != 0) & ~batch["identifier_is_pseudo_query"]
    ours = torch.where(compared, ours, theirs)
    scores = [passage_scores(v, batch, collator.corpus_tokens, collator.scoring) for v in (theirs, ours)]
    inputs.model.train()
    return {
        "identifiers_compared": int(compared.sum()),
        "max_score_difference": float((theirs - ours).abs().max()),
        "max_passage_score_relative_difference": float(
            ((scores[0] - scores[1]).abs() / scores[0].abs().clamp(min=1.0)).max()
        ),
    }


def main() -> None:
    options = parse()
    inputs = Inputs(options, options.list_length, options.batch)
    inputs.model.train()
    sides = {"reference": Reference, "ours": Ours, "plain": Plain}
    if options.side:
        for step in range(options.rounds + 1):
            sides[options.side](inputs, step).step()
            inputs.finish()
        print(peak_memory(inputs.device))
        return

    command = [sys.executable, __file__, *sys.argv[1:]]
    memory = {
        side: int(subprocess.run([*command, "--side", side], check=True, stdout=subprocess.PIPE).stdout.split()[-1])
        for side in SIDES
    }
    differences = compare(inputs)
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    collation, sizes = [], []
    for turn in range(-1, options.rounds):
        began = time.perf_counter()
        inputs.collator(inputs.features(turn + 1))
        collation.append(time.perf_counter() - began)
        sizes.append(shapes(inputs.batch(turn + 1)))
        for side in SIDES:
            prepared = sides[side](inputs, turn + 1)
            if isinstance(prepared, Reference):
                sizes[-1]["reference_cells"] = prepared.cells()
            inputs.finish()
            began = time.perf_counter()
            prepared.step()
            inputs.finish()
            if turn >= 0:
                seconds[side].append(time.perf_counter() - began)

    print(f"{options.model} on {inputs.device}, {options.batch} x {options.list_length} passages")
    print(f"{'':12}{'s per step':>11}{'peak MB':>10}")
    for side in SIDES:
        print(f"{side:12}{statistics.median(seconds[side]):11.3f}{memory[side] / 2**20:10.0f}")

    def ratio(side: str, other: str) -> float:
        return round(statistics.median(a / b for a, b in zip(seconds[side], seconds[other], strict=True)), 3)

    result = {
        "model": options.model,
        "device": torch.cuda.get_device_name() if inputs.device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "bf16": options.bf16,
        "speedup_vs_reference": ratio("reference", "ours"),
        "cost_vs_plain_step": ratio("ours", "plain"),
        "peak_memory_vs_reference": round(memory["ours"] / memory["reference"], 3),
        **differences,
        "seconds": {side: [round(turn_seconds, 3) for turn_seconds in seconds[side]] for side in SIDES},
        "collation_seconds": round(statistics.median(collation[1:] or collation), 4),
        "peak_bytes": memory,
        "shapes": sizes[1:],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
