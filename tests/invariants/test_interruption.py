"""A process of training that is killed, and what comes of it when it is resumed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import bpe_tokenizer as load_tokenizer
from training_examples import make_collator, make_trainer
from transformers import TrainerCallback

STEPS = 9  # Three epochs.


class KilledAfter(TrainerCallback):
    """Ends the process as nothing in it can prevent, before the step's checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def train(folder: Path, workers: int, killed_after: int, resume: bool) -> None:
    """With dropout, shuffling and lists that differ from epoch to epoch."""
    torch.set_num_threads(1)
    trainer = make_trainer(
        folder,
        load_tokenizer(),
        collator=make_collator(load_tokenizer(), list_length=4),
        max_steps=STEPS,
        dataloader_num_workers=workers,
        save_strategy="steps",
        save_steps=2,
        decoder_tokens_at_once=100,
        trainer_settings={"callbacks": [KilledAfter(killed_after)]},
    )
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model(str(folder / "model"))


PROGRAM = (
    "import sys, pathlib; sys.path.insert(0, {here!r}); import test_interruption as t; "
    "t.train(pathlib.Path({folder!r}), {workers}, {killed_after}, {resume})"
)


def run_in_process(folder: Path, workers: int, killed_after: int = 0, resume: bool = False) -> int:
    program = PROGRAM.format(
        here=str(Path(__file__).parent), folder=str(folder), workers=workers, killed_after=killed_after, resume=resume
    )
    tests = str(Path(__file__).parents[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([tests, *sys.path])}
    return subprocess.run([sys.executable, "-c", program], env=environment, timeout=240).returncode


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_ends_as_the_uninterrupted_one(workers, tmp_path):
    assert run_in_process(tmp_path / "whole", workers) == 0
    expected = load_file(tmp_path / "whole" / "model" / "model.safetensors")
    # Anywhere after the first checkpoint, and once more later: odd steps lose what came after their checkpoint.
    first = int(np.random.default_rng().integers(3, 7))
    for step, resume in ((first, False), (8, True)):
        killed = run_in_process(tmp_path / "killed", workers, killed_after=step, resume=resume)
        assert killed == -signal.SIGKILL, f"first killed after step {first}"
    assert run_in_process(tmp_path / "killed", workers, resume=True) == 0
    found = load_file(tmp_path / "killed" / "model" / "model.safetensors")
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), f"{name}, first killed after step {first}"


def kill_while_saving(folder: Path) -> None:
    """Ends the process when weights, optimizer and half of the schedule of the second checkpoint are written."""
    torch.set_num_threads(1)
    save = torch.save

    def save_half(value, path, *others, **settings):
        save(value, path, *others, **settings)
        if str(path).endswith(os.path.join("checkpoint-4", "scheduler.pt")):
            Path(path).write_bytes(Path(path).read_bytes()[:300])
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = save_half
    train(folder, workers=0, killed_after=0, resume=False)


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_saves_resumes_from_the_checkpoint_before(tmp_path):
    assert run_in_process(tmp_path / "whole", 0) == 0
    program = (
        f"import sys, pathlib; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_interruption as t; "
        f"t.kill_while_saving(pathlib.Path({str(tmp_path / 'killed')!r}))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    killed = subprocess.run([sys.executable, "-c", program], env=environment, timeout=240).returncode
    assert killed == -signal.SIGKILL
    cut = tmp_path / "killed" / "checkpoint-4"
    assert (cut / "optimizer.pt").is_file() and not (cut / "trainer_state.json").exists()
    assert run_in_process(tmp_path / "killed", 0, resume=True) == 0
    expected, found = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
