"""Losses and gradients with activation checkpointing, which runs layers again in the backward pass."""

import pytest
import torch
from architectures import (
    PACKED,
    as_batch,
    checkpoint_activations,
    make,
    random_identifiers,
    score_tokens,
    without_dropout,
)
from peft import LoraConfig, get_peft_model

from dgr_trainer.student.token_scores import sum_by_identifier

CHECKPOINTING = {"off": None, "on": False, "reentrant": True}


def with_adapter(model):
    torch.manual_seed(1)
    pattern = r".*\.(q_proj|v_proj|q|v)"
    config = LoraConfig(r=4, target_modules=pattern, init_lora_weights=False, lora_dropout=0.0)
    return get_peft_model(model, config)


def layer_runs(model, counted):
    """Count how often a layer of the decoder runs its self-attention."""
    decoder = (model.get_base_model() if hasattr(model, "get_base_model") else model).get_decoder()
    layers = decoder.block if hasattr(decoder, "block") else decoder.layers
    target = next(
        module for name, module in layers[-1].named_modules() if name.endswith(("self_attn.q_proj", "SelfAttention.q"))
    )
    return target.register_forward_hook(lambda *_: counted.append(1))


def loss_and_gradients(model, tokens_at_once, way="packed"):
    input_ids, attention_mask, rows = as_batch(*random_identifiers())
    scores = score_tokens(model, input_ids, attention_mask, rows, tokens_at_once=tokens_at_once, way=way)
    loss = sum_by_identifier(scores.log_probabilities, rows["segments"], 9).square().mean().sqrt()
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return loss.detach(), gradients


@pytest.mark.parametrize("tokens_at_once", [None, 40])
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", PACKED)
def test_losses_and_gradients_are_those_without_checkpointing(name, adapter, tokens_at_once):
    # One identifier per row needs no positions, so it is right whatever is run again.
    model = without_dropout(make(name))
    model = with_adapter(model) if adapter else model
    expected_loss, expected = loss_and_gradients(model, None, way="rows")
    assert expected
    for kind, use_reentrant in CHECKPOINTING.items():
        if use_reentrant is not None:
            checkpoint_activations(model, use_reentrant=use_reentrant)
        runs = []
        handle = layer_runs(model, runs)
        loss, gradients = loss_and_gradients(model, tokens_at_once)
        handle.remove()
        if tokens_at_once is None:
            assert len(runs) == (1 if use_reentrant is None else 2), f"{kind}: activations are not checkpointed"
        torch.testing.assert_close(loss, expected_loss, atol=1e-5, rtol=1e-5, msg=kind)
        assert gradients.keys() == expected.keys(), kind
        scale = max(float(gradient.abs().max()) for gradient in expected.values())
        for key, gradient in expected.items():
            error = float((gradients[key] - gradient).abs().max()) / scale
            assert error < 2e-5, f"{kind}: {key} is off by {error}"
