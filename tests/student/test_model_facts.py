"""The model inside what wraps it, found without a walk through its modules."""

import pytest
import torch
from accelerate.utils import compile_regions
from peft import LoraConfig, get_peft_model
from torch import nn

from dgr_trainer.student.model_facts import underlying_model

WRAPPERS = {
    "nothing": lambda model: model,
    "replicas": nn.DataParallel,
    "compiled": torch.compile,
    "compiled replicas": lambda model: nn.DataParallel(torch.compile(model)),
    "adapter": lambda model: get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])),
    "compiled adapter": lambda model: torch.compile(get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))),
    "replicas of an adapter": lambda model: nn.DataParallel(
        get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    ),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_model_inside_wrappers(bart, wrapper):
    model, _ = bart
    assert underlying_model(WRAPPERS[wrapper](model)) is model


def test_the_model_with_compiled_regions_is_the_one_they_were_compiled_of(bart):
    model, _ = bart
    assert underlying_model(compile_regions(model)) is model


def test_a_model_without_wrappers_is_not_searched(bart, monkeypatch):
    model, _ = bart
    monkeypatch.setattr(nn.Module, "modules", lambda self: pytest.fail("walks through all modules"))
    assert underlying_model(model) is model
