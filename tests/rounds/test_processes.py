"""Rounds in several processes, and in processes that are killed."""

import os
import pickle
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rounds.round_examples import TRAINING, K, dev, make_retriever, make_teacher
from rounds.round_examples import arguments as round_arguments
from sample_corpus import QRELS
from teachers.reranker_models import save_cross_encoder
from training_runs import SGD
from transformers import TrainerCallback

from dgr_trainer import CrossEncoderTeacher
from dgr_trainer.rounds import distil_in_rounds, train_generation_in_rounds

HERE = Path(__file__).parent
WORKER = "import rounds.test_processes as t, sys; getattr(t, sys.argv[1])(t.Path(sys.argv[2]), *sys.argv[3:])"


def environment(**others):
    paths = [str(HERE.parents[1]), str(HERE.parent)]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths), **others}


def start(worker, folder, *arguments, **others):
    command = [sys.executable, "-c", WORKER, worker, str(folder), *arguments]
    return subprocess.Popen(command, env=environment(**others))


def start_two(worker, folder, *arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    return [start(worker, folder, *arguments, RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(2)]


def finish(started, seconds=240):
    try:
        return [process.wait(timeout=seconds) for process in started]
    finally:
        for process in started:
            process.kill()


def quiet(retriever):
    """Without dropout, whose random numbers differ between processes."""
    for module in retriever.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return retriever


def train_both_stages(folder, processes):
    """Two rounds of each stage; the first process writes what came out."""
    torch.set_num_threads(1)
    settings = {**SGD, "learning_rate": 1e-4, "per_device_train_batch_size": 6 // int(processes)}
    for kind in ("bart", "causal"):
        for stage in ("distillation", "generation"):
            base = folder / f"{kind}-{stage}-{processes}"
            args = round_arguments(base, **settings)
            retriever = quiet(make_retriever(kind, None if stage == "distillation" else base / "adapter"))
            others = {"rounds": 2, "retrieval_evaluator": dev(retriever), "metric": "mrr@10", "patience": 9}
            if stage == "generation":
                result = train_generation_in_rounds(retriever, TRAINING, QRELS, args, k=K, **others)
            else:
                teacher = make_teacher(retriever)
                if kind == "bart":
                    teacher = CrossEncoderTeacher(str(folder / "teacher"), retriever.corpus, device="cpu")
                result = distil_in_rounds(retriever, teacher, TRAINING, QRELS, args, k=K, **others)
            assert args.world_size == int(processes)
            found = {name: value.clone() for name, value in retriever.model.state_dict().items()}
            if args.process_index == 0:
                figures = [(one.metrics, one.agreement, one.new_candidates, one.new_scores) for one in result.history]
                (base / "result.pickle").write_bytes(pickle.dumps((found, figures, result.best)))
            else:
                (base / "other.pickle").write_bytes(pickle.dumps((found, [], result.best)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_two_processes_are_one(tmp_path):
    save_cross_encoder(tmp_path / "teacher")
    started = start_two("train_both_stages", tmp_path, "2")
    assert finish(started) == [0, 0]
    assert finish([start("train_both_stages", tmp_path, "1")]) == [0]
    for kind in ("bart", "causal"):
        for stage in ("distillation", "generation"):
            one, two = (
                pickle.loads((tmp_path / f"{kind}-{stage}-{count}" / "result.pickle").read_bytes()) for count in (1, 2)
            )
            other = pickle.loads((tmp_path / f"{kind}-{stage}-2" / "other.pickle").read_bytes())
            assert one[2] == two[2] == other[2]
            for found, expected in zip(two[1], one[1], strict=True):
                assert found[0] == pytest.approx(expected[0])
                assert found[1:] == pytest.approx(expected[1:], nan_ok=True)
            for name, value in one[0].items():
                torch.testing.assert_close(two[0][name], value, rtol=1e-4, atol=2e-5, msg=name)
                assert torch.equal(two[0][name], other[0][name]), name
            left = {path.name for path in (tmp_path / f"{kind}-{stage}-2").glob("*.lock*")}
            assert not left


class KilledAfter(TrainerCallback):
    """Ends the process as nothing in it can prevent."""

    def __init__(self, seed, step):
        self.seed, self.step = seed, step

    def on_step_end(self, args, state, control, **kwargs):
        if (args.seed, state.global_step) == (self.seed, self.step):
            os.kill(os.getpid(), signal.SIGKILL)


def train_and_die(folder, seed, step):
    torch.set_num_threads(1)
    retriever = make_retriever()
    args = round_arguments(folder, max_steps=3, save_strategy="steps", save_steps=2)
    others = {"rounds": 2, "k": K, "callbacks": [KilledAfter(int(seed), int(step))]}
    distil_in_rounds(retriever, make_teacher(retriever), TRAINING, QRELS, args, **others)
    torch.save(retriever.model.state_dict(), folder / "weights.pt")


@pytest.mark.slow
def test_killed_processes_end_as_one_that_was_not(tmp_path):
    assert finish([start("train_and_die", tmp_path / "whole", "0", "0")]) == [0]
    # In the first round before its checkpoint, in the second one after it.
    for seed, step in ((5, 1), (6, 3)):
        assert finish([start("train_and_die", tmp_path / "killed", str(seed), str(step))]) == [-signal.SIGKILL]
    assert finish([start("train_and_die", tmp_path / "killed", "0", "0")]) == [0]
    expected, found = (torch.load(tmp_path / name / "weights.pt", weights_only=True) for name in ("whole", "killed"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
