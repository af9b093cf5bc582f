"""Training in two processes: the same losses and parameters as in one, whoever splits what between them."""

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
from architectures import CAUSAL, without_dropout
from architectures import make as make_architecture
from safetensors.torch import load_file
from tiny_models import bpe_tokenizer as load_tokenizer
from tiny_models import make_causal, make_t5
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from training_examples import CHECKPOINTING, make_collator, make_trainer, query_dataset
from training_runs import SGD, assert_same_run, quiet_bart, run

from dgr_trainer.student import forward_pass
from dgr_trainer.student.sharding import is_sharded

WORKER = "import test_many_processes as t, sys; t.work(sys.argv[1], t.Path(sys.argv[2]))"


def work(worker: str, folder: Path) -> None:
    """Run a function of this module in one of two processes, and leave their group when both are done."""
    globals()[worker](folder, 2)
    # Its threads may abort a process that ends before they do.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


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
            [sys.executable, "-c", WORKER, worker, str(folder)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    try:
        globals()[worker](folder, 1)
        assert [process.wait(timeout=600) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()


MAKERS = {
    "bart": quiet_bart,
    "t5": lambda tokenizer: make_t5(tokenizer, dropout_rate=0.0),
    "gemma3": lambda tokenizer: make_causal(tokenizer, "gemma3_text"),
}
SETTINGS = {
    "plain": {},
    "checkpointing": {CHECKPOINTING: True},
    "pieces": {"decoder_tokens_at_once": 100},
    "checkpointed pieces": {"decoder_tokens_at_once": 100, CHECKPOINTING: True},
    "prefixes": {"prefix_ranking": True},
    "stream": {},
    "causal": {},
    "causal checkpointed pieces": {"decoder_tokens_at_once": 100, CHECKPOINTING: True},
}


def run_in_process(folder: Path, processes: int) -> None:
    """What each process does; the first one writes what came out."""
    torch.set_num_threads(1)
    queries = query_dataset().select(range(8))
    for name, settings in SETTINGS.items():
        make = make_causal if name.startswith("causal") else quiet_bart
        own = {"per_device_train_batch_size": 8 // processes, "per_device_eval_batch_size": 4, "max_steps": 2, **SGD}
        collator = make_collator(load_tokenizer(), kind="titles" if name == "prefixes" else "candidates")
        trainer = make_trainer(
            folder, load_tokenizer(), make, collator=collator, **own, **settings,
            train_dataset=queries.to_iterable_dataset() if name == "stream" else queries,
        )  # fmt: skip
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


def run_families(folder: Path, processes: int) -> None:
    """A step of every decoder-only architecture."""
    torch.set_num_threads(1)
    queries = query_dataset().select(range(4))
    for name in CAUSAL:
        trainer = make_trainer(
            folder,
            load_tokenizer(),
            model=quiet_causal(name),
            train_dataset=queries,
            per_device_train_batch_size=4 // processes,
            max_steps=1,
            **SGD,
        )
        assert trainer.accelerator.num_processes == processes
        figures, parameters = run(trainer)
        if trainer.is_world_process_zero():
            torch.save((figures, parameters), folder / f"{name}-{processes}.pt")


def quiet_causal(name: str) -> torch.nn.Module:
    model = without_dropout(make_architecture(name, vocab=len(load_tokenizer())))
    for module in model.modules():  # GPT-2 and GPT-NeoX hold dropout in modules.
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


@pytest.mark.slow
def test_two_processes_are_one_for_every_decoder_only_architecture(tmp_path):
    run_two_processes("run_families", tmp_path)
    for name in CAUSAL:
        one, two = (torch.load(tmp_path / f"{name}-{processes}.pt", weights_only=True) for processes in (1, 2))
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
    ways = {"whole": {}, "half": {}, "pieces": {"decoder_tokens_at_once": 100}}
    for name, make in MAKERS.items():
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


def shard(model, precision) -> None:
    """Every layer a unit of its own, and the model around them, as accelerate's wrapping by transformer layers."""
    policy = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32, output_dtype=precision)
    settings = {"mesh": init_device_mesh("cpu", (2,)), "mp_policy": policy, "reshard_after_forward": True}
    sides = [model.get_decoder(), *([model.get_encoder()] if model.config.is_encoder_decoder else [])]
    for side in sides[::-1]:
        for layer in getattr(side, "layers", None) or side.block:
            fully_shard(layer, **settings)
    fully_shard(model, **settings)


@pytest.mark.slow
def test_a_sharded_model_trains_as_a_whole_one(tmp_path):
    run_two_processes("run_sharded", tmp_path)
    for name in MAKERS:
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


def configuration(name: str) -> dict:
    return yaml.safe_load((Path(__file__).parents[2] / "examples" / "configs" / f"{name}.yaml").read_text())


def fsdp_environment() -> dict[str, str]:
    """What `accelerate launch` makes of our configuration."""
    settings = configuration("fsdp2")["fsdp_config"]
    return {"ACCELERATE_USE_FSDP": "true", **{name.upper(): str(value) for name, value in settings.items()}}


def deepspeed_environment(stage: int) -> dict[str, str]:
    settings = configuration(f"deepspeed_zero{stage}")["deepspeed_config"]
    names = {"zero3_init_flag": "zero3_init"}
    return {
        "DS_ACCELERATOR": "cpu",
        "ACCELERATE_USE_DEEPSPEED": "true",
        **{f"ACCELERATE_DEEPSPEED_{names.get(name, name).upper()}": str(value) for name, value in settings.items()},
    }


def run_with_fsdp(folder: Path, processes: int) -> None:
    if processes > 1:
        os.environ |= fsdp_environment()
        cpus_may_be_sharded()
    run_ways(folder, processes, {"whole": {}, "pieces": {"decoder_tokens_at_once": 100}, "half": {"bf16": True}})


def run_with_zero2(folder: Path, processes: int) -> None:
    if processes > 1:
        os.environ |= deepspeed_environment(2)
    run_ways(folder, processes, {"whole": {}, "pieces": {"decoder_tokens_at_once": 100}})


def run_with_zero3(folder: Path, processes: int) -> None:
    if processes > 1:
        os.environ |= deepspeed_environment(3)
    run_ways(folder, processes, {"whole": {}, "pieces": {"decoder_tokens_at_once": 100}})


def run_ways(folder: Path, processes: int, ways: dict[str, dict]) -> None:
    """The trainer on models that accelerate or DeepSpeed splits as our configurations say; or one process whole."""
    torch.set_num_threads(1)
    tokenizer = load_tokenizer()
    queries = query_dataset().select(range(8))
    logits = (forward_pass._KEPT_LOGITS, forward_pass._LOGITS_AT_ONCE)
    # After the first trainer with ZeRO-3, transformers draws other random weights, but loads the same ones, in parts.
    checkpoints = {name: folder / f"{name}-of-{os.environ.get('RANK')}-{processes}" for name in MAKERS}
    classes = {}
    for name, make in MAKERS.items():
        model = make(tokenizer)
        model.save_pretrained(checkpoints[name])
        classes[name] = type(model)
    for name, checkpoint in checkpoints.items():
        for way, settings in ways.items():
            few = (20 * len(tokenizer), 10 * len(tokenizer))
            forward_pass._KEPT_LOGITS, forward_pass._LOGITS_AT_ONCE = few if way == "pieces" else logits
            trainer = make_trainer(
                folder / "output",
                tokenizer,
                model=classes[name].from_pretrained(checkpoint),
                train_dataset=queries,
                per_device_train_batch_size=8 // processes,
                max_steps=2,
                **SGD,
                **settings,
            )
            assert (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled) == (processes > 1)
            trainer.train()
            logs = [log for log in trainer.state.log_history if "loss" in log]
            figures = {key: [log[key] for log in logs] for key in ("loss", "grad_norm", "loss_ranking")}
            figures["sharded"] = [is_sharded(trainer.model)]
            figures["eval"] = [trainer.evaluate(queries)["eval_loss"]]
            trainer.save_model(str(folder / f"{name}-{way}-{processes}"))
            if trainer.is_world_process_zero():
                (folder / f"{name}-{way}-{processes}.json").write_text(json.dumps(figures))


@pytest.mark.slow
@pytest.mark.parametrize("worker", ["run_with_fsdp", "run_with_zero2", "run_with_zero3"])
def test_a_model_that_is_split_trains_as_a_whole_one(worker, tmp_path):
    if "zero" in worker:
        pytest.importorskip("deepspeed")
    run_two_processes(worker, tmp_path)
    losses = {}
    for name in MAKERS:
        for way in ("whole", "pieces"):
            (one, two), parameters = zip(
                *(
                    (
                        json.loads((tmp_path / f"{name}-{way}-{processes}.json").read_text()),
                        load_file(tmp_path / f"{name}-{way}-{processes}" / "model.safetensors"),
                    )
                    for processes in (1, 2)
                ),
                strict=True,
            )
            assert one.pop("sharded") == [False] and two.pop("sharded") == [worker != "run_with_zero2"]
            assert_same_run((one, parameters[0]), (two, parameters[1]))
            losses[way] = two["loss"]
        if worker == "run_with_fsdp":
            half = json.loads((tmp_path / f"{name}-half-2.json").read_text())["loss"]
            assert half == pytest.approx(losses["whole"], rel=0.05)
            assert half != pytest.approx(losses["whole"], rel=1e-7)
