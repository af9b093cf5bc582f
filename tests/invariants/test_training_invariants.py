"""What must not change a training run: accumulation, packing, padding, processes, workers, interruption."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import PartialState
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from sample_corpus import QUERIES
from tiny_models import bpe_tokenizer as load_tokenizer
from tiny_models import make_bart, make_t5
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from training_examples import make_collator, make_trainer, query_dataset

from dgr_trainer.training import scoring
from dgr_trainer.training.sharding import is_sharded

QUIET = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}


def quiet_bart(tokenizer, **overrides):
    return make_bart(tokenizer, **{**QUIET, **overrides})


def run(trainer, **kwargs):
    """Losses, gradient norms and parameters of a run."""
    trainer.train(**kwargs)
    logs = [log for log in trainer.state.log_history if "loss" in log]
    figures = {name: [log[name] for log in logs] for name in ("loss", "grad_norm", "loss_ranking", "loss_generation")}
    return figures, {
        name: p.detach() for name, p in trainer.accelerator.unwrap_model(trainer.model).named_parameters()
    }


def assert_same_run(one, other, tolerance=1e-4):
    (figures, parameters), (other_figures, other_parameters) = one, other
    for name, values in figures.items():
        assert values == pytest.approx(other_figures[name], rel=tolerance), name
    for name, value in parameters.items():
        torch.testing.assert_close(value, other_parameters[name], rtol=tolerance, atol=2e-5, msg=name)


# SGD shows gradients as they are, where Adam would hide a wrong scale and turn rounding noise into steps.
SGD = {"optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 1e-7, "lr_scheduler_type": "constant"}


@pytest.mark.parametrize("ranking_loss", ["distilled_ranknet", "listnet"])
@pytest.mark.parametrize("clipped", [False, True])
def test_eight_steps_of_accumulation_are_one_batch(clipped, ranking_loss, bpe_tokenizer, tmp_path):
    settings = {**SGD, "max_grad_norm": 1.0, "learning_rate": 1e-3} if clipped else SGD
    runs = [
        run(
            make_trainer(
                tmp_path,
                bpe_tokenizer,
                quiet_bart,
                per_device_train_batch_size=8 // steps,
                gradient_accumulation_steps=steps,
                train_dataset=query_dataset().select(range(8)),
                ranking_loss=ranking_loss,
                **settings,
            )
        )
        for steps in (1, 8)
    ]
    assert_same_run(*runs)


def test_accumulation_of_ragged_batches_is_one_batch(bpe_tokenizer, tmp_path):
    # 12 queries in steps of 5, 5 and 2 queries; some without a rank list.
    rankings = {q: ranks for q, ranks in make_collator(bpe_tokenizer).rankings.items() if q not in ("q02", "q07")}
    runs = [
        run(
            make_trainer(
                tmp_path,
                bpe_tokenizer,
                quiet_bart,
                collator=make_collator(bpe_tokenizer, rankings=rankings),
                per_device_train_batch_size=size,
                gradient_accumulation_steps=steps,
                max_steps=2,
                **SGD,
            )
        )
        for size, steps in ((12, 1), (5, 3))
    ]
    assert_same_run(*runs)


def test_packed_and_flat_rows_train_alike(bpe_tokenizer, tmp_path, monkeypatch):
    packed = run(make_trainer(tmp_path, bpe_tokenizer, quiet_bart, **SGD))
    monkeypatch.setattr(scoring, "can_pack", lambda model: False)
    flat = run(make_trainer(tmp_path, bpe_tokenizer, quiet_bart, **SGD))
    assert_same_run(packed, flat)


@pytest.mark.parametrize("max_row_tokens", [6, 1000])
def test_the_length_of_rows_does_not_matter(max_row_tokens, bpe_tokenizer, tmp_path):
    normal = run(make_trainer(tmp_path, bpe_tokenizer, quiet_bart, **SGD))
    collator = make_collator(bpe_tokenizer, max_row_tokens=max_row_tokens)
    assert_same_run(normal, run(make_trainer(tmp_path, bpe_tokenizer, quiet_bart, collator=collator, **SGD)))


def test_padding_does_not_change_a_query(model_and_tokenizer, tmp_path):
    model, tokenizer = model_and_tokenizer
    trainer = make_trainer(tmp_path, tokenizer, model=model)
    features = [*query_dataset()]
    features[3] = {**features[3], "query": " ".join([features[3]["query"]] * 5)}
    together = trainer.compute_loss(model.eval(), trainer.data_collator(features)).item()
    alone = [trainer.compute_loss(model, trainer.data_collator([feature])).item() for feature in features]
    assert together == pytest.approx(sum(alone) / len(alone), rel=1e-5)


def test_a_step_computes_its_unique_prefixes_and_no_more_logits_than_that(model_and_tokenizer, tmp_path):
    model, tokenizer = model_and_tokenizer
    collator = make_collator(tokenizer)
    trainer = make_trainer(tmp_path, tokenizer, model=model, collator=collator)
    features = [*query_dataset()]
    distinct = 0
    for feature in features:
        drawn = collator.sampler.sample(feature["query_id"], 0)
        limit = collator.scoring.identifiers_per_passage
        passages = collator.source.matched(feature["query_id"], drawn.passage_ids, limit)
        matched = {(one.view, one.ids) for passage in passages for one in passage}
        distinct += len({(view, ids[:depth]) for view, ids in matched for depth in range(len(ids))})
    seen = {}
    model.get_output_embeddings().register_forward_hook(lambda m, a, output: seen.update(logits=len(output)))
    model.get_encoder().register_forward_hook(lambda m, a, output: seen.update(prompts=len(output[0])))
    trainer.compute_loss(trainer.model, collator(features))
    # A split tree repeats the beginning of its other part, and each query takes as many states as the next one.
    assert distinct <= seen["logits"] < 1.1 * distinct
    assert seen["prompts"] <= 3 * len(features)


@pytest.mark.parametrize(
    ("workers", "steps_before"), [(0, 4), (2, 4), (0, 3)], ids=["mid-epoch", "workers", "epoch-end"]
)
def test_a_resumed_run_is_the_uninterrupted_one(workers, steps_before, bpe_tokenizer, tmp_path):
    """With dropout, sampling by epoch and shuffling: 2 epochs of 3 steps, stopped after some of them."""

    def trainer(name, **settings):
        return make_trainer(
            tmp_path / name,
            bpe_tokenizer,
            collator=make_collator(bpe_tokenizer, list_length=4),
            max_steps=6,
            dataloader_num_workers=workers,
            save_strategy="steps",
            save_steps=steps_before,
            **settings,
        )

    whole = run(trainer("whole"))
    resumed = run(trainer("resumed"), resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{steps_before}"))
    assert len(whole[0]["loss"]) == 6
    # The log before the checkpoint is the checkpoint's own; what follows was computed again.
    assert whole[0] == resumed[0]
    assert all(torch.equal(value, resumed[1][name]) for name, value in whole[1].items())


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_do_not_change_a_run(persistent, bpe_tokenizer, tmp_path):
    runs = [
        run(
            make_trainer(
                tmp_path,
                bpe_tokenizer,
                quiet_bart,
                collator=make_collator(bpe_tokenizer, list_length=4),
                max_steps=6,
                **settings,
            )
        )
        for settings in ({}, {"dataloader_num_workers": 2, "dataloader_persistent_workers": persistent})
    ]
    assert runs[0][0] == runs[1][0]


def test_epochs_draw_different_lists(bpe_tokenizer, tmp_path):
    drawn = []
    collator = make_collator(bpe_tokenizer, list_length=4)
    sample = collator.sampler.sample
    collator.sampler.sample = lambda query_id, epoch: drawn.append((query_id, epoch)) or sample(query_id, epoch)
    make_trainer(tmp_path, bpe_tokenizer, collator=collator, max_steps=6).train()
    assert sorted(drawn) == sorted((query_id, epoch) for epoch in (0, 1) for query_id in QUERIES)


WORKER = "import test_training_invariants as t, sys; getattr(t, sys.argv[1])(t.Path(sys.argv[2]), int(sys.argv[3]))"


def run_two_processes(worker: str, folder: Path) -> None:
    """Run a function of this module in two processes that can reach each other, and in this one alone."""
    here = Path(__file__).parent
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{here.parent}{os.pathsep}{here}"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, worker, str(folder), "2"],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    try:
        globals()[worker](folder, 1)
        assert [process.wait(timeout=240) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()


SETTINGS = {
    "plain": {},
    "checkpointing": {"activation_checkpointing": True},
    "pieces": {"decoder_tokens_at_once": 100},
    "checkpointed pieces": {"decoder_tokens_at_once": 100, "activation_checkpointing": True},
}


def run_in_process(folder: Path, processes: int) -> None:
    """What each process does; the first one writes what came out."""
    torch.set_num_threads(1)
    queries = query_dataset().select(range(8))
    for name, settings in SETTINGS.items():
        own = {"per_device_train_batch_size": 8 // processes, "per_device_eval_batch_size": 4, "max_steps": 2, **SGD}
        trainer = make_trainer(folder, load_tokenizer(), quiet_bart, train_dataset=queries, **own, **settings)
        assert trainer.accelerator.num_processes == processes
        figures, parameters = run(trainer)
        evaluation = trainer.evaluate(queries)
        if trainer.is_world_process_zero():
            figures["eval"] = [value for name, value in sorted(evaluation.items()) if name.startswith("eval_loss")]
            torch.save(parameters, folder / f"{name}-{processes}.pt")
            (folder / f"{name}-{processes}.json").write_text(json.dumps(figures))


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    run_two_processes("run_in_process", tmp_path)
    for name in SETTINGS:
        one, two = (
            (
                json.loads((tmp_path / f"{name}-{processes}.json").read_text()),
                torch.load(tmp_path / f"{name}-{processes}.pt", weights_only=True),
            )
            for processes in (1, 2)
        )
        assert_same_run(one, two)


def run_sharded(folder: Path, processes: int) -> None:
    """Steps of SGD on a model that two processes shard between them, as FSDP2 does; or whole, in one."""
    torch.set_num_threads(1)
    sharded = processes > 1
    rank = int(os.environ["RANK"]) if sharded else 0
    if sharded:
        torch.distributed.init_process_group("gloo")
    tokenizer = load_tokenizer()
    collator = make_collator(tokenizer)
    makers = {"bart": quiet_bart, "t5": lambda tokenizer: make_t5(tokenizer, dropout_rate=0.0)}
    ways = {"whole": {}, "half": {}, "pieces": {"decoder_tokens_at_once": 100}}
    for name, make in makers.items():
        for way, settings in ways.items():
            model = make(tokenizer).train()
            trainer = make_trainer(folder, tokenizer, model=model, collator=collator, **settings)
            if sharded:
                shard(model, torch.bfloat16 if way == "half" else None)
            pieces = []
            model.get_decoder().register_forward_hook(lambda *_, pieces=pieces: pieces.append("decoder"))
            layer = getattr(model.get_decoder(), "layers", None) or model.get_decoder().block
            layer[0].register_forward_hook(lambda *_, pieces=pieces: pieces.append("layer"))
            optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
            losses = []
            for step in range(2):
                features = [*query_dataset()][4 * step : 4 * step + 4]
                # Unequal shares, so that one process needs more pieces than the other.
                own = (features[:3], features[3:])[rank] if sharded else features
                loss = trainer.compute_loss(model, collator(own)) * (len(own) * processes / len(features))
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                loss = loss.detach()
                if sharded:
                    torch.distributed.all_reduce(loss)
                losses.append(loss.item() / processes)
            parameters = {key: p.full_tensor() if sharded else p for key, p in model.named_parameters()}
            assert (pieces.count("layer") > 3 * pieces.count("decoder")) == (way == "pieces")
            if rank == 0:
                torch.save((losses, parameters), folder / f"{name}-{way}-{processes}.pt")
    if sharded:
        torch.distributed.destroy_process_group()


def shard(model, precision) -> None:
    """Every layer a unit of its own, and the model around them, as accelerate's wrapping by transformer layers."""
    policy = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32, output_dtype=precision)
    settings = {"mesh": init_device_mesh("cpu", (2,)), "mp_policy": policy, "reshard_after_forward": True}
    for side in (model.get_encoder(), model.get_decoder()):
        for layer in getattr(side, "layers", None) or side.block:
            fully_shard(layer, **settings)
    fully_shard(model, **settings)


@pytest.mark.slow
def test_a_sharded_model_trains_as_a_whole_one(tmp_path):
    run_two_processes("run_sharded", tmp_path)
    for name in ("bart", "t5"):
        whole, sharded, half, pieces = (
            torch.load(tmp_path / f"{name}-{setting}.pt", weights_only=False)
            for setting in ("whole-1", "whole-2", "half-2", "pieces-2")
        )
        for other in (sharded, pieces):
            assert other[0] == pytest.approx(whole[0], rel=1e-4)
            for key, value in whole[1].items():
                torch.testing.assert_close(other[1][key], value, rtol=1e-4, atol=2e-5, msg=key)
        assert half[0] == pytest.approx(whole[0], rel=0.05)
        assert half[0] != pytest.approx(whole[0], rel=1e-7), "it was in half precision"


def cpus_may_be_sharded() -> None:
    """accelerate shards on accelerators only, so let it take the processes of CPUs for those of GPUs."""
    make_state = PartialState.__init__

    def make_another(self, *args, **kwargs):
        make_state(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = self._shared_state["distributed_type"] = DistributedType.MULTI_GPU

    PartialState.__init__ = make_another


def run_with_fsdp(folder: Path, processes: int) -> None:
    """The trainer on a model that accelerate shards as our configuration says; or whole, in one process."""
    torch.set_num_threads(1)
    if processes > 1:
        config = yaml.safe_load((Path(__file__).parents[2] / "examples" / "configs" / "fsdp2.yaml").read_text())
        os.environ["ACCELERATE_USE_FSDP"] = "true"
        os.environ |= {name.upper(): str(value) for name, value in config["fsdp_config"].items()}
        cpus_may_be_sharded()
    queries = query_dataset().select(range(8))
    makers = {"bart": quiet_bart, "t5": lambda tokenizer: make_t5(tokenizer, dropout_rate=0.0)}
    for name, make in makers.items():
        for way, settings in {"whole": {}, "pieces": {"decoder_tokens_at_once": 100}, "half": {"bf16": True}}.items():
            trainer = make_trainer(
                folder / "output",
                load_tokenizer(),
                make,
                train_dataset=queries,
                per_device_train_batch_size=8 // processes,
                max_steps=2,
                **SGD,
                **settings,
            )
            assert trainer.is_fsdp_enabled == (processes > 1)
            figures, parameters = run(trainer)
            assert is_sharded(trainer.model) == (processes > 1)
            figures["eval"] = [trainer.evaluate(queries)["eval_loss"]]
            trainer.save_model(str(folder / f"{name}-{way}-{processes}"))
            if trainer.is_world_process_zero():
                (folder / f"{name}-{way}-{processes}.json").write_text(json.dumps(figures))


@pytest.mark.slow
def test_a_model_that_accelerate_shards_trains_as_a_whole_one(tmp_path):
    run_two_processes("run_with_fsdp", tmp_path)
    for name in ("bart", "t5"):
        for way in ("whole", "pieces"):
            one, two = (
                (
                    json.loads((tmp_path / f"{name}-{way}-{processes}.json").read_text()),
                    load_file(tmp_path / f"{name}-{way}-{processes}" / "model.safetensors"),
                )
                for processes in (1, 2)
            )
            assert_same_run(one, two)
        half, whole = (
            json.loads((tmp_path / f"{name}-{way}-2.json").read_text())["loss"] for way in ("half", "whole")
        )
        assert half == pytest.approx(whole, rel=0.05) and half != pytest.approx(whole, rel=1e-7)
