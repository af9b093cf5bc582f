"""The decoder in pieces of its rows: the same numbers, less memory."""

import pytest
import torch
from architectures import as_batch, make, random_identifiers, score_tokens
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from tiny_models import make_bart
from training_examples import CHECKPOINTING, make_trainer, query_dataset

from dgr_trainer.student import decoder_rows
from dgr_trainer.student.decoder_rows import row_pieces
from dgr_trainer.student.token_scores import sum_by_identifier


def scores_and_gradients(model, tokens_at_once, each=9):
    input_ids, attention_mask, rows = as_batch(*random_identifiers(each=each))
    torch.manual_seed(5)
    scores = score_tokens(model, input_ids, attention_mask, rows, tokens_at_once=tokens_at_once)
    sums = sum_by_identifier(scores.log_probabilities, rows["segments"], each)
    (sums.square().sum() + scores.mean_log_probabilities.sum()).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return sums.detach(), gradients


def assert_same(one, other):
    torch.testing.assert_close(one[0], other[0], atol=1e-5, rtol=1e-5)
    assert one[1].keys() == other[1].keys() != set()
    for name, gradient in one[1].items():
        torch.testing.assert_close(other[1][name], gradient, atol=2e-3, rtol=1e-4, msg=name)


@given(st.integers(1, 30), st.integers(1, 20), st.integers(1, 300))
def test_pieces_are_all_rows_once(rows, length, tokens_at_once):
    pieces = row_pieces(torch.zeros(rows, length), tokens_at_once, torch.nn.Linear(1, 1))
    assert [row for piece in pieces for row in range(rows)[piece]] == list(range(rows))
    assert all((piece.stop - piece.start) * length <= max(tokens_at_once, length) for piece in pieces)
    assert len(row_pieces(torch.zeros(rows, length), None, torch.nn.Linear(1, 1))) == 1


@pytest.mark.parametrize("tokens_at_once", [1, 60])
@pytest.mark.parametrize("name", ["bart", "t5", "pegasus", "umt5", "t5gemma", "led", "m2m_100"])
def test_pieces_score_and_train_as_the_whole(name, tokens_at_once):
    model = make(name, "eager" if name == "led" else "sdpa")
    assert_same(scores_and_gradients(model, None), scores_and_gradients(model, tokens_at_once))
    assert "forward" not in vars(model.get_decoder()), "put back"


def test_adapters_train_in_pieces():
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["q_proj", "fc1"], init_lora_weights=False, lora_dropout=0.0)
    model = get_peft_model(make("bart"), config).eval()
    whole = scores_and_gradients(model, None)
    assert all("lora" in name for name in whole[1])
    assert_same(whole, scores_and_gradients(model, 30))


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_the_backward_pass_draws_the_same_dropout(name, monkeypatch):
    """Compared with pieces that keep their activations, so that no dropout is sampled again."""
    model = make(name).train()
    again = scores_and_gradients(model, 30)
    state = torch.get_rng_state()
    monkeypatch.setattr(decoder_rows, "checkpoint", lambda function, *args, use_reentrant: function(*args))
    kept = scores_and_gradients(model, 30)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(again[0], kept[0])
    for key, gradient in kept[1].items():
        torch.testing.assert_close(again[1][key], gradient, atol=1e-5, rtol=1e-5, msg=key)
    assert not torch.equal(scores_and_gradients(model.eval(), 30)[0], kept[0]), "there was dropout"


def kept_bytes(model, tokens_at_once, each):
    """Bytes of the tensors that the forward pass keeps for the backward pass, without parameters."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # Referenced, so that its memory is not reused.
        return tensor

    input_ids, attention_mask, rows = as_batch(*random_identifiers(each=each))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        score_tokens(model, input_ids, attention_mask, rows, tokens_at_once=tokens_at_once)
    return sum(size for size, _ in kept.values()), rows["prefix_tokens"].numel()


def test_long_lists_keep_no_more_than_a_state_per_token():
    model = make("bart").train()
    (short, few), (long, many) = (kept_bytes(model, 120, each) for each in (30, 300))
    whole, _ = kept_bytes(model, None, 300)
    assert many > 4 * few
    # A hidden state of 32 floats, its part in the projection and a share of masks, where a whole token takes 5 kB.
    assert (long - short) / (many - few) < 700
    assert whole > 4 * long


def test_no_gradient_no_checkpoint(monkeypatch):
    monkeypatch.setattr(decoder_rows, "checkpoint", None)
    model = make("bart")
    input_ids, attention_mask, rows = as_batch(*random_identifiers())
    with torch.no_grad():
        pieces = score_tokens(model, input_ids, attention_mask, rows, tokens_at_once=20).log_probabilities
        whole = score_tokens(model, input_ids, attention_mask, rows).log_probabilities
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_trainer_trains_alike_in_pieces(checkpointing, bpe_tokenizer, tmp_path):
    runs = []
    for settings in ({}, {"decoder_tokens_at_once": 64, CHECKPOINTING: checkpointing}):
        trainer = make_trainer(
            tmp_path,
            bpe_tokenizer,
            lambda tokenizer: make_bart(tokenizer, dropout=0.0),
            optim="sgd",
            learning_rate=1e-7,
            max_grad_norm=0.0,
            **settings,
        )
        calls = []
        trainer.model.get_decoder().layers[0].register_forward_hook(lambda module, args, out, c=calls: c.append(1))
        trainer.train()
        evaluation = trainer.evaluate(query_dataset())["eval_loss"]
        logs = [log for log in trainer.state.log_history if "grad_norm" in log]
        runs.append(([log["loss"] for log in logs], [log["grad_norm"] for log in logs], evaluation, len(calls)))
    assert runs[1][3] > 4 * runs[0][3]
    for one, other in zip(runs[0][:3], runs[1][:3], strict=True):
        assert other == pytest.approx(one, rel=1e-4)
