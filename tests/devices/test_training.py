"""Scores, losses and training steps on a device: as on a CPU, and without waiting for the device."""

import datasets
import pytest
import torch
from devices.host_waits import HostWaits
from retrieval.causal_students import make_causal
from sample_corpus import QRELS
from tiny_models import make_bart, make_t5
from training_examples import make_candidates, make_collator, make_rankings, make_trainer, query_dataset
from transformers import DataCollatorForSeq2Seq, TrainerCallback

from dgr_trainer.identifiers import Identifiers, IdentifierSettings
from dgr_trainer.training.batches import score_batch
from dgr_trainer.training.collator import DistillationCollator
from dgr_trainer.training.losses import RANKING_LOSSES

# Of this library. With an encoder, nothing waits. A decoder-only model asks once how long the trees of its rows are.
WAITS = {"bart": 0, "t5": 0, "llama": 1}


def made(name, request):
    """A student and its collator."""
    if name == "llama":
        tokenizer = request.getfixturevalue("bpe_tokenizer")
        identifiers = Identifiers(tokenizer, IdentifierSettings(closed_prompts=False))
        collator = DistillationCollator(identifiers, make_candidates(identifiers), make_rankings(), QRELS)
        return make_causal("llama", identifiers.vocab_size), tokenizer, collator
    tokenizer = request.getfixturevalue({"bart": "bpe_tokenizer", "t5": "unigram_tokenizer"}[name])
    return {"bart": make_bart, "t5": make_t5}[name](tokenizer), tokenizer, make_collator(tokenizer)


class WaitsOfSteps(TrainerCallback):
    """What waits in each step, from the batch to the optimizer's step, and what does until the step ends."""

    def __init__(self, waits):
        self.waits, self.steps = waits, []

    def on_step_begin(self, args, state, control, **kwargs):
        self.waits.places.clear()

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.steps.append(self.waits.own())


def waits_of(trainer):
    waits = HostWaits()
    steps = WaitsOfSteps(waits)
    trainer.add_callback(steps)
    with waits.watching():
        trainer.train()
    assert len(steps.steps) == trainer.args.max_steps
    return steps.steps


@pytest.mark.parametrize("name", ["bart", *(pytest.param(name, marks=pytest.mark.slow) for name in ("t5", "llama"))])
def test_a_training_step_does_not_wait(name, device, request, tmp_path):
    model, tokenizer, collator = made(name, request)
    trainer = make_trainer(
        tmp_path, tokenizer, model=model.train(), collator=collator, max_steps=2, logging_steps=2,
        use_cpu=device.type == "cpu", decoder_tokens_at_once=64, label_smoothing_factor=0.1,
    )  # fmt: skip
    for places in waits_of(trainer)[1:]:  # The first tries the model.
        assert len(places) == WAITS[name], places
    assert all(parameter.device.type == device.type for parameter in trainer.model.parameters())


@pytest.mark.parametrize("loss", [pytest.param(loss, marks=pytest.mark.slow) for loss in RANKING_LOSSES])
def test_no_ranking_loss_waits(loss, device, bpe_tokenizer, tmp_path):
    trainer = make_trainer(
        tmp_path, bpe_tokenizer, ranking_loss=loss, max_steps=2, logging_steps=2, use_cpu=device.type == "cpu"
    )
    assert waits_of(trainer)[-1] == []


@pytest.mark.parametrize("name", ["bart", "llama"])
def test_a_step_on_pairs_does_not_wait(name, device, request, tmp_path):
    model, tokenizer, _ = made(name, request)
    queries = query_dataset()["query"]
    rows = [{"input_ids": tokenizer(query)["input_ids"], "labels": [5, 6, 7, 2]} for query in queries]
    trainer = make_trainer(
        tmp_path, tokenizer, model=model.train(), collator=DataCollatorForSeq2Seq(tokenizer),
        train_dataset=datasets.Dataset.from_list(rows), max_steps=2, logging_steps=2, use_cpu=device.type == "cpu",
    )  # fmt: skip
    places = waits_of(trainer)[-1]
    assert len(places) == WAITS[name], places


@pytest.mark.parametrize("name", ["bart", pytest.param("t5", marks=pytest.mark.slow), "llama"])
def test_scores_and_gradients_are_those_of_a_cpu(name, device, close, request):
    model, _, collator = made(name, request)
    batch = collator([*query_dataset()][:3])
    results = []
    for where in (torch.device("cpu"), device):
        on_device = {name: values.to(where) for name, values in batch.items()}
        student = model.to(where).eval()
        student.zero_grad()
        scores = score_batch(student, on_device, 128).log_probabilities
        scores.sum().backward()
        results.append((scores.detach(), [parameter.grad.clone() for parameter in student.parameters()]))
    (expected, expected_gradients), (found, gradients) = results
    close(found, expected)
    assert expected.abs().sum() > 10
    for gradient, of_cpu in zip(gradients, expected_gradients, strict=True):
        close(gradient, of_cpu, rtol=1e-3, atol=1e-3 * float(of_cpu.abs().max()) + 1e-6)


@pytest.mark.parametrize("loss", RANKING_LOSSES)
def test_losses_are_those_of_a_cpu(loss, device, close):
    generator = torch.Generator().manual_seed(3)
    scores, teacher = (torch.randn(4, 6, generator=generator) for _ in range(2))
    mask = torch.arange(6) < torch.tensor([6, 2, 1, 4])[:, None]
    ranks = (-teacher).argsort(-1).argsort(-1)
    objective = RANKING_LOSSES[loss]
    settings = objective.defaults("log_likelihood")
    results = []
    for where in (torch.device("cpu"), device):
        given = scores.to(where, copy=True).requires_grad_()
        losses = objective(given, teacher.to(where), mask.to(where), settings, ranks.to(where))
        losses.sum().backward()
        results.append((losses.detach(), given.grad))
    for found, expected in zip(results[1], results[0], strict=True):
        close(found, expected)
