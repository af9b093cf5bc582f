"""Runs of training that can be compared: what they log and the parameters in the end."""

import pytest
import torch
from tiny_models import make_bart

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
