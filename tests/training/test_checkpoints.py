"""Checkpoints that a kill cut off: they are recognised by each of their files, and the one before is resumed."""

import json
import logging
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import bpe_tokenizer as load_tokenizer
from tiny_models import make_bart
from training_examples import make_trainer
from training_runs import run
from transformers.trainer_utils import get_last_checkpoint

from dgr_trainer.training import checkpoints as module
from dgr_trainer.training.checkpoints import checkpoint_fault, checkpoints, complete_checkpoint

STEPS = 4


def trainer(folder: Path, kind: str = "full", **settings):
    tokenizer = load_tokenizer()
    model = make_bart(tokenizer)
    if kind == "adapter":
        torch.manual_seed(0)
        model = get_peft_model(model, LoraConfig(task_type="SEQ_2_SEQ_LM", r=4, target_modules=["q_proj"]))
    settings = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": 1, **settings}
    return make_trainer(folder, tokenizer, model=model, **settings)


@pytest.fixture(scope="module", params=["full", "adapter", "parts"])
def written(request, tmp_path_factory):
    """A folder of complete checkpoints, the kind of model, and the run that wrote them."""
    folder = tmp_path_factory.mktemp(request.param)
    made = trainer(folder, request.param)
    if request.param == "parts":
        save = made.model.save_pretrained
        made.model.save_pretrained = lambda *args, **kwargs: save(*args, **kwargs, max_shard_size="50KB")
    return folder, request.param, run(made)


def cut(file: Path, way: str) -> None:
    content = file.read_bytes()
    if way == "missing":
        file.unlink()
    else:
        file.write_bytes({"empty": b"", "half": content[: len(content) // 2], "nearly whole": content[:-10]}[way])


def copied(written, tmp_path: Path) -> Path:
    shutil.copytree(written[0], tmp_path / "out")
    return tmp_path / "out"


def test_complete_checkpoints_have_no_fault(written, tmp_path):
    folder, kind, _ = written
    assert [path.name for path in checkpoints(folder)] == [f"checkpoint-{step}" for step in range(1, STEPS + 1)]
    assert [checkpoint_fault(path) for path in checkpoints(folder)] == [None] * STEPS
    files = {file.name for file in (folder / "checkpoint-4").iterdir()}
    expected = {"full": "model.safetensors", "adapter": "adapter_model.safetensors"}
    assert expected.get(kind, "model.safetensors.index.json") in files
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "training_args.bin"} <= files
    assert complete_checkpoint(str(folder / "checkpoint-2"), None) == str(folder / "checkpoint-2")
    assert complete_checkpoint(None, None) is None and complete_checkpoint(False, "nowhere") is None


@pytest.mark.parametrize("way", ["empty", "half", "nearly whole"])
def test_every_file_that_is_cut_off_is_named(way, written, tmp_path):
    folder = copied(written, tmp_path)
    last = folder / f"checkpoint-{STEPS}"
    seen = set()
    for file in sorted(last.iterdir()):
        if file.suffix in (".md", ".jinja"):  # Nothing is read from them.
            continue
        content = file.read_bytes()
        cut(file, way)
        fault = checkpoint_fault(last)
        assert fault is not None and file.name in fault, (file.name, fault)
        assert complete_checkpoint(True, str(folder)) == str(folder / f"checkpoint-{STEPS - 1}")
        file.write_bytes(content)
        seen.add(file.suffix)
    assert seen == {".bin", ".json", ".pt", ".pth", ".safetensors"}
    assert checkpoint_fault(last) is None


def test_every_file_that_is_missing_is_named(written, tmp_path):
    folder, kind = copied(written, tmp_path), written[1]
    last = folder / f"checkpoint-{STEPS}"
    weights = {"full": "model.safetensors", "adapter": "adapter_model.safetensors"}
    expected = {
        "trainer_state.json": "it has no trainer_state.json, which is written last",
        "optimizer.pt": "it has a scheduler.pt, but no optimizer.pt",
        "scheduler.pt": "it has an optimizer.pt, but no scheduler.pt",
    }
    if kind == "parts":
        part = sorted(last.glob("*.safetensors"))[1].name
        expected[part] = f"it has no {part}, which model.safetensors.index.json names"
    else:
        expected[weights[kind]] = "it has no weights"
    for name, message in expected.items():
        content = (last / name).read_bytes()
        cut(last / name, "missing")
        assert checkpoint_fault(last) == message
        (last / name).write_bytes(content)
    for name in ("optimizer.pt", "scheduler.pt"):
        cut(last / name, "missing")
    assert checkpoint_fault(last) == "it has the state of random numbers, but no optimizer.pt"
    cut(last / "rng_state.pth", "missing")
    assert checkpoint_fault(last) is None, "as save_only_model writes it"


@pytest.mark.parametrize("how", ["True", pytest.param("get_last_checkpoint", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "way"),
    [("trainer_state.json", "missing"), ("optimizer.pt", "half"), ("*model*.safetensors", "half"), ("*", "missing")],
)
def test_the_checkpoint_before_is_resumed(name, way, how, written, tmp_path, caplog):
    _, kind, whole = written
    folder = copied(written, tmp_path)
    for file in sorted((folder / f"checkpoint-{STEPS}").glob(name)):
        cut(file, way)
    resumed = trainer(folder, kind)
    with caplog.at_level(logging.WARNING):
        found = run(resumed, resume_from_checkpoint=True if how == "True" else get_last_checkpoint(str(folder)))
    (told,) = [record.getMessage() for record in caplog.records if "Not complete" in record.getMessage()]
    assert f"checkpoint-{STEPS} (" in told and told.endswith(f"Training is resumed from checkpoint-{STEPS - 1}.")
    assert found[0] == whole[0]
    assert all(torch.equal(value, found[1][name]) for name, value in whole[1].items())


def test_what_cannot_be_resumed_is_refused(written, tmp_path):
    folder = copied(written, tmp_path)
    cut(folder / "checkpoint-2" / "optimizer.pt", "half")
    made = trainer(folder, written[1])
    with pytest.raises(
        ValueError, match=r"checkpoint-2 is not a checkpoint: optimizer.pt is damaged or cut off.*True"
    ):
        made.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    with pytest.raises(ValueError, match="nowhere is not a checkpoint: there is no such folder"):
        made.train(resume_from_checkpoint=str(tmp_path / "nowhere"))
    for path in checkpoints(folder):
        cut(path / "scheduler.pt", "empty")
    with pytest.raises(
        ValueError, match=r"No checkpoint in .*out is complete: checkpoint-4 \(scheduler.pt is empty\);"
    ):
        made.train(resume_from_checkpoint=True)
    for path in checkpoints(folder):
        shutil.rmtree(path)
    with pytest.raises(ValueError, match="There is no checkpoint in .*out to resume from"):
        made.train(resume_from_checkpoint=True)


def test_a_checkpoint_that_one_process_has_not_whole_is_resumed_by_none(written, tmp_path, monkeypatch, caplog):
    class Processes:
        num_processes, process_index = 2, 0

    folder = copied(written, tmp_path)
    other = {"checkpoint-2": None, "checkpoint-3": "rng_state_1.pth is empty"}
    monkeypatch.setattr(module, "gather_object", lambda own: [*own, None if own == [None] else other])
    assert complete_checkpoint(True, str(folder), Processes()) == str(folder / "checkpoint-2")
    left_out = "checkpoint-4 (another process does not have it); checkpoint-3 (rng_state_1.pth is empty)"
    assert f"{left_out}. Training is resumed from checkpoint-2" in caplog.text


def test_nothing_in_a_checkpoint_is_unpickled_to_judge_it(written, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "touched",))

    last = copied(written, tmp_path) / f"checkpoint-{STEPS}"
    torch.save(Trap(), last / "optimizer.pt")
    (last / "scheduler.pt").write_bytes(pickle.dumps(Trap()))
    assert checkpoint_fault(last) is None, "they are whole; whether they may be loaded is torch's to say"
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"{}", "is damaged or cut off: it has 2 bytes, fewer than its header"),
        ((10**12).to_bytes(8, "little") + b"{}", "is damaged or cut off: it has 10 bytes, fewer than its header"),
        ((2).to_bytes(8, "little") + b"[]", "is damaged: its header is unreadable"),
        ((3).to_bytes(8, "little") + b"{{{", "is damaged: its header is unreadable"),
    ],
)
def test_weights_whose_header_is_no_header(content, fault, tmp_path):
    (tmp_path / "trainer_state.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(content)
    assert checkpoint_fault(tmp_path) == f"model.safetensors {fault}"


def test_files_of_ones_own_are_not_judged(written, tmp_path):
    last = copied(written, tmp_path) / f"checkpoint-{STEPS}"
    for name in ("embeddings.bin", "log.json", "statistics.pt", "notes.txt"):
        (last / name).write_bytes(b"anything")
    (last / "retriever" / "index").mkdir(parents=True)
    (last / "retriever" / "index" / "blocks.npy").write_bytes(b"")
    assert checkpoint_fault(last) is None
    (last / "checkpoint-is-incomplete.txt").write_text("")
    assert checkpoint_fault(last) == "it has a checkpoint-is-incomplete.txt, which is deleted last"


def test_folders_of_other_ways_to_train(tmp_path):
    """What FSDP and DeepSpeed write: the weights are in folders."""
    (tmp_path / "trainer_state.json").write_text(json.dumps({"global_step": 1}))
    sharded = tmp_path / "pytorch_model_fsdp_0"
    sharded.mkdir()
    (sharded / "__0_0.distcp").write_bytes(b"")
    assert checkpoint_fault(tmp_path) == "pytorch_model_fsdp_0/__0_0.distcp is empty"
    (sharded / "__0_0.distcp").write_bytes(b"x")
    (tmp_path / "scheduler.pt").write_bytes(b"\x80old")
    assert checkpoint_fault(tmp_path) == "it has a scheduler.pt, but no optimizer.pt"
    (tmp_path / "optimizer_0").mkdir()
    assert checkpoint_fault(tmp_path) is None
    shutil.rmtree(sharded)
    shutil.rmtree(tmp_path / "optimizer_0")
    (tmp_path / "global_step1").mkdir()
    (tmp_path / "global_step1" / "mp_rank_00_model_states.pt").write_bytes(b"PK\x03\x04cut")
    assert checkpoint_fault(tmp_path).startswith("global_step1/mp_rank_00_model_states.pt is damaged or cut off")
