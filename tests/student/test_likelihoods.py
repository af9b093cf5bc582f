"""Packed scoring against a simple oracle: one identifier per row, one call per prompt, log-softmax over everything."""

import logging

import pytest
import torch
from architectures import as_batch, make, random_identifiers, score_tokens
from tiny_models import make_bart, make_t5

from dgr_trainer.student import probing
from dgr_trainer.student.likelihoods import score_identifiers
from dgr_trainer.student.model_facts import packing_obstacle, start_token_id
from dgr_trainer.student.token_scores import sum_by_identifier

PACKED = ["bart", "t5", "mt5", "umt5", "mbart", "pegasus", "marian", "blenderbot", "plbart", "t5gemma"]
FLAT = ["led", "m2m_100"]


def oracle(model, prompt, identifier) -> float:
    start = model.config.decoder_start_token_id
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[start, *identifier[:-1]]])
        ).logits
    log_p = torch.log_softmax(logits[0].double(), dim=-1)
    return float(log_p[range(len(identifier)), identifier].sum())


def packed_log_likelihoods(model, identifiers, of_prompt, texts, max_row_tokens=24, way=None):
    """(B, K)"""
    input_ids, attention_mask, rows = as_batch(identifiers, of_prompt, texts, max_row_tokens)
    scores = score_tokens(model, input_ids, attention_mask, rows, way=way)
    return sum_by_identifier(scores.log_probabilities, rows["segments"], len(identifiers[0]))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", PACKED)
def test_packed_identifiers_score_as_one_by_one(name, attention):
    model = make(name, attention)
    assert packing_obstacle(model) is None
    identifiers, of_prompt, texts = random_identifiers()
    expected = torch.tensor(
        [
            [oracle(model, texts[b][p], ids) for ids, p in zip(identifiers[b], of_prompt[b], strict=True)]
            for b in range(3)
        ]
    )
    with torch.no_grad():
        got = packed_log_likelihoods(model, identifiers, of_prompt, texts)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 1, "the identifiers differ enough for the comparison to mean something"


@pytest.mark.parametrize("name", FLAT)
def test_a_decoder_that_cannot_restart_positions_gets_one_row_per_identifier(name, caplog):
    model = make(name, "eager" if name == "led" else "sdpa")
    assert packing_obstacle(model)
    probing._warned.clear()
    identifiers, of_prompt, texts = random_identifiers()
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        got = packed_log_likelihoods(model, identifiers, of_prompt, texts)
        packed_log_likelihoods(model, identifiers, of_prompt, texts)
    for b in range(3):
        for k, (ids, p) in enumerate(zip(identifiers[b], of_prompt[b], strict=True)):
            assert got[b, k].item() == pytest.approx(oracle(model, texts[b][p], ids), abs=1e-4)
    assert sum("cannot restart its positions" in message for message in caplog.messages) == 1, "said once"


@pytest.mark.parametrize("name", ["bart", "t5", "pegasus"])
def test_gradients_do_not_depend_on_packing(name):
    gradients = {}
    for way in ("packed", "rows", "plain"):
        model = make(name)
        log_likelihoods = packed_log_likelihoods(model, *random_identifiers(), way=way)
        log_likelihoods.square().sum().backward()
        gradients[way] = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert gradients["packed"].keys() == gradients["rows"].keys() == gradients["plain"].keys() != set()
    for name_, gradient in gradients["packed"].items():
        for way in ("rows", "plain"):
            torch.testing.assert_close(gradient, gradients[way][name_], atol=2e-3, rtol=1e-4)


def test_rows_may_be_longer_than_the_decoders_position_table():
    model = make("bart")  # 64 positions
    identifiers, of_prompt, texts = random_identifiers(queries=1, prompts=1, each=60)
    with torch.no_grad():
        long = packed_log_likelihoods(model, identifiers, of_prompt, texts, max_row_tokens=500)
        short = packed_log_likelihoods(model, identifiers, of_prompt, texts, max_row_tokens=10)
    torch.testing.assert_close(long, short, atol=1e-5, rtol=1e-5)


def test_no_hook_is_left_behind():
    model = make("bart")
    packed_log_likelihoods(model, *random_identifiers())
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    with pytest.raises(RuntimeError):  # Also when the forward pass fails.
        input_ids, attention_mask, rows = as_batch(*random_identifiers())
        score_tokens(model, input_ids, attention_mask[:, 1:], rows)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_encoder_reads_each_prompt_once():
    model = make("t5")
    rows = {}
    for side in ("encoder", "decoder"):
        norm = getattr(model, side).final_layer_norm
        norm.register_forward_hook(lambda module, args, output, side=side: rows.update({side: len(output)}))
    identifiers, of_prompt, texts = random_identifiers(queries=2, prompts=1, each=30)
    packed_log_likelihoods(model, identifiers, of_prompt, texts, max_row_tokens=8)
    assert rows["encoder"] == 2 and rows["decoder"] > 20


def test_rows_without_tokens_give_zeros_and_gradients_of_zero():
    for name in ("bart", "m2m_100"):
        model = make(name)
        scores = score_tokens(model, *as_batch([[], []], [[], []], [[[5, 6]], [[7]]]))
        scores.log_probabilities.sum().backward()
        assert (scores.log_probabilities == 0).all()
        assert all((p.grad == 0).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("limits", [{}, {"max_row_tokens": 10, "max_batch_tokens": 20}])
@pytest.mark.parametrize("name", ["bart", "t5", "m2m_100"])
def test_score_identifiers_at_retrieval(name, limits):
    model = make(name).train()
    identifiers, _, texts = random_identifiers(prompts=1)
    identifiers.insert(1, [])
    prompts = [texts[0][0], [5, 6], texts[1][0], texts[2][0]]
    got = score_identifiers(model, prompts, identifiers, **limits)
    assert model.training, "the mode is put back"
    model.eval()
    for prompt, of_query, scores in zip(prompts, identifiers, got, strict=True):
        assert scores == pytest.approx([oracle(model, prompt, ids) for ids in of_query], abs=1e-4)


def test_score_identifiers_of_nothing():
    assert score_identifiers(make("t5"), [], []) == []
    assert score_identifiers(make("t5"), [[4]], [[]]) == [[]]


def test_attention_without_masks_is_refused(bpe_tokenizer):
    model = make_bart(bpe_tokenizer)
    model.get_decoder().config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="attn_implementation='flash_attention_2'.*Load it with.*sdpa"):
        score_identifiers(model, [[4, 5]], [[[6]]])


def test_a_model_without_start_token_is_refused(unigram_tokenizer):
    model = make_t5(unigram_tokenizer)
    assert start_token_id(model) == 0
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = None
    with pytest.raises(ValueError, match="has no decoder_start_token_id.*language code"):
        start_token_id(model)
