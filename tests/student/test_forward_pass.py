"""What the hooks of the forward pass must not change, and what they must keep small."""

import pytest
import torch
from architectures import as_batch, make, random_identifiers, score_tokens
from peft import LoraConfig, get_peft_model

from dgr_trainer.student import forward_pass
from dgr_trainer.student.probing import scoring_way
from dgr_trainer.student.token_scores import sum_by_identifier


def log_likelihoods_and_gradients(model, chosen=lambda model: model.named_parameters()):
    """(B, K), the means over the vocabulary, and gradients of a function of both."""
    input_ids, attention_mask, rows = as_batch(*random_identifiers())
    scores = score_tokens(model, input_ids, attention_mask, rows)
    sums = sum_by_identifier(scores.log_probabilities, rows["segments"], 9)
    (sums.square().sum() + scores.mean_log_probabilities.sum()).backward()
    gradients = {name: p.grad.clone() for name, p in chosen(model) if p.grad is not None}
    model.zero_grad()
    return sums.detach(), scores.mean_log_probabilities.detach(), gradients


def with_logits_bias(name):
    model = make(name)
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.normal_()
    return model


@pytest.mark.parametrize("name", ["bart", "t5", "pegasus", "umt5", "m2m_100"])
def test_logits_in_pieces_are_logits_at_once(name, monkeypatch):
    model = with_logits_bias(name)
    bias = getattr(model, "final_logits_bias", torch.zeros(())).clone()
    whole = log_likelihoods_and_gradients(model)
    width = model.get_output_embeddings().weight.shape[0]
    monkeypatch.setattr(forward_pass, "_KEPT_LOGITS", 7 * width)
    monkeypatch.setattr(forward_pass, "_LOGITS_AT_ONCE", 5 * width)
    pieces = log_likelihoods_and_gradients(model)
    # And with the hooks for architectures that change their logits.
    monkeypatch.setattr(forward_pass, "_PLAIN_PROJECTIONS", frozenset())
    unknown = log_likelihoods_and_gradients(model)
    for other in (pieces, unknown):
        torch.testing.assert_close(other[0], whole[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(other[1], whole[1], atol=1e-5, rtol=1e-5)
        assert other[2].keys() == whole[2].keys() != set()
        for key, gradient in whole[2].items():
            torch.testing.assert_close(other[2][key], gradient, atol=2e-3, rtol=1e-4, msg=key)
    assert torch.equal(getattr(model, "final_logits_bias", torch.zeros(())), bias), "put back"


def test_no_more_logits_at_once_than_the_limit(monkeypatch):
    model = make("bart")
    monkeypatch.setattr(forward_pass, "_KEPT_LOGITS", 8 * 120)
    monkeypatch.setattr(forward_pass, "_LOGITS_AT_ONCE", 4 * 120)
    scoring_way(model)  # Runs the model, too.
    rows = []
    model.lm_head.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    log_likelihoods_and_gradients(model)
    states = as_batch(*random_identifiers())[2]["scored_prefixes"].numel()
    # All but the first piece once more in the backward pass.
    assert max(rows) == 8 and sum(rows) == 2 * states - 8 > 80


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_adapters_of_the_projection_take_part(name, monkeypatch):
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False, lora_dropout=0.0)
    model = get_peft_model(make(name), config).eval()

    def trained(model):
        return ((key, p) for key, p in model.named_parameters() if p.requires_grad)

    whole = log_likelihoods_and_gradients(model, trained)
    assert len(whole[2]) == 2 and all(gradient.abs().sum() > 0 for gradient in whole[2].values())
    monkeypatch.setattr(forward_pass, "_KEPT_LOGITS", 7 * 120)
    monkeypatch.setattr(forward_pass, "_LOGITS_AT_ONCE", 5 * 120)
    pieces = log_likelihoods_and_gradients(model, trained)
    torch.testing.assert_close(pieces[0], whole[0], atol=1e-5, rtol=1e-5)
    for key, gradient in whole[2].items():
        torch.testing.assert_close(pieces[2][key], gradient, atol=2e-3, rtol=1e-4)
    input_ids, attention_mask, rows = as_batch(*random_identifiers())
    with model.disable_adapter(), torch.no_grad():
        plain = score_tokens(model, input_ids, attention_mask, rows).log_probabilities
    assert not torch.allclose(sum_by_identifier(plain, rows["segments"], 9), whole[0], atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["bart", "t5"])
def test_scores_are_float32_under_autocast(name, dtype):
    model = make(name)
    exact = log_likelihoods_and_gradients(model)[0]
    with torch.autocast("cpu", dtype=dtype):
        scores, means, gradients = log_likelihoods_and_gradients(model)
    assert scores.dtype == means.dtype == torch.float32
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    torch.testing.assert_close(scores, exact, rtol=0.03, atol=0.5)
    # Rounded to half precision at the end, sums of this size would be multiples of 1/16 or more.
    assert (scores * 16 % 1 != 0).any()


def test_outputs_in_half_precision_leave_scores_in_float32():
    """FSDP's mixed precision casts what the wrapped forward pass returns."""
    model = make("bart")
    exact, _, gradients = log_likelihoods_and_gradients(model)
    forward = model.forward

    def half(*args, **kwargs):
        outputs = forward(*args, **kwargs)
        outputs.logits = outputs.logits.bfloat16()
        return outputs

    model.forward = half
    scores, _, half_gradients = log_likelihoods_and_gradients(model)
    torch.testing.assert_close(scores, exact)
    for key, gradient in gradients.items():
        torch.testing.assert_close(half_gradients[key], gradient, atol=1e-4, rtol=1e-4)


def test_a_model_without_a_projection_has_no_hooks(monkeypatch):
    model = make("t5")
    monkeypatch.setattr(type(model), "get_output_embeddings", lambda self: None)
    assert scoring_way(model) == "plain"  # Needs nothing but logits.
    input_ids, attention_mask, rows = as_batch(*random_identifiers())
    with pytest.raises(
        ValueError, match="T5ForConditionalGeneration.get_output_embeddings.. returns None.*BART or T5"
    ):
        score_tokens(model, input_ids, attention_mask, rows, way="packed")
