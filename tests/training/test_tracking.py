"""What appears in TensorBoard and in Weights & Biases: the terms of the loss, the agreement, the retrieval metrics."""

import json

import pytest
from training_examples import make_trainer

LOGGED = {
    *("train/loss", "train/loss_ranking", "train/loss_generation", "train/rank_accuracy", "train/kendall_tau"),
    *("train/violated_margins", "train/learning_rate", "train/grad_norm", "eval/hits@1"),
}


def train(tokenizer, folder, tracker):
    evaluator = {"retrieval_evaluator": lambda model, accelerator: {"hits@1": 0.25}}
    settings = {"report_to": [tracker], "eval_strategy": "steps", "eval_steps": 1, "max_steps": 2, "run_name": "mine"}
    settings["ranking_loss"] = "distilled_ranknet"  # With margins.
    trainer = make_trainer(folder, tokenizer, trainer_settings=evaluator, **settings)
    trainer.train()
    return trainer.state.log_history


@pytest.mark.slow
def test_tensorboard(bpe_tokenizer, tmp_path, monkeypatch):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    history = train(bpe_tokenizer, tmp_path / "run", "tensorboard")
    events = accumulator.EventAccumulator(str(next((tmp_path / "logs").rglob("events.out.tfevents.*"))))
    events.Reload()
    assert set(events.Tags()["scalars"]) >= LOGGED
    read = [(event.step, event.value) for event in events.Scalars("train/loss_ranking")]
    logged = [(entry["step"], pytest.approx(entry["loss_ranking"])) for entry in history if "loss_ranking" in entry]
    assert read == logged and len(read) == 2
    assert [event.value for event in events.Scalars("eval/hits@1")] == [0.25, 0.25]
    arguments = events.Tensors("args/text_summary")[0].tensor_proto.string_val[0].decode()
    assert json.loads(arguments)["ranking_loss"] == "distilled_ranknet"


@pytest.mark.slow
def test_weights_and_biases_offline(bpe_tokenizer, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    try:
        history = train(bpe_tokenizer, tmp_path / "run", "wandb")
        summary, config = dict(wandb.run.summary), dict(wandb.run.config)
    finally:
        wandb.finish()
    assert set(summary) >= LOGGED
    last = [entry for entry in history if "loss_ranking" in entry][-1]
    assert summary["train/loss_ranking"] == pytest.approx(last["loss_ranking"])
    assert summary["eval/hits@1"] == 0.25
    assert config["ranking_loss"] == "distilled_ranknet"
    assert config["generation_weight"] == pytest.approx(config["score_spread"] / 6)
    assert list(tmp_path.rglob("*.wandb"))
