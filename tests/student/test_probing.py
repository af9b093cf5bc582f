"""The way in which a model scores identifiers is found by trying; scores and gradients are those of ordinary calls."""

import warnings

import pytest
import torch
import transformers
from accelerate import cpu_offload
from architectures import (
    PACKED,
    PLAIN,
    REFUSED,
    ROWS,
    VOCAB,
    as_batch,
    make,
    ordinary_scores,
    random_identifiers,
    score_tokens,
)

from dgr_trainer.retrieval.decoder import decoding_way
from dgr_trainer.student import probing
from dgr_trainer.student.likelihoods import score_identifiers
from dgr_trainer.student.probing import scoring_way
from dgr_trainer.student.token_scores import sum_by_identifier
from dgr_trainer.training.batches import pair_losses

WAYS = {**dict.fromkeys(PACKED, "packed"), **dict.fromkeys(ROWS, "rows"), **dict.fromkeys(PLAIN, "plain")}


@pytest.fixture(autouse=True)
def _say_again():
    probing._warned.clear()


def gradients_of(model, scores):
    weights = torch.linspace(-1, 1, scores.numel()).view_as(scores)
    model.zero_grad()
    (scores * weights).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("name", WAYS)
def test_scores_and_gradients_are_those_of_ordinary_calls(name):
    model = make(name)
    assert scoring_way(model) == WAYS[name]
    sample = random_identifiers()
    expected = ordinary_scores(model, *sample)
    rows = as_batch(*sample)
    scores = sum_by_identifier(score_tokens(model, *rows).log_probabilities, rows[2]["segments"], 9)
    torch.testing.assert_close(scores, expected, atol=2e-5, rtol=2e-5)
    assert expected.std() > 1
    ours, theirs = gradients_of(model, scores), gradients_of(model, expected)
    scale = max(float(gradient.abs().max()) for gradient in theirs.values())
    for key, gradient in theirs.items():
        assert float((ours[key] - gradient).abs().max()) < 1e-4 * scale, key


@pytest.mark.parametrize("capacity", [1, 2])
@pytest.mark.parametrize("name", ["switch_transformers", "nllb-moe"])
def test_experts_with_little_capacity(name, capacity):
    """Tokens beyond the capacity of an expert are dropped, so that no identifier may share its row with others."""
    model = make(name, expert_capacity=capacity)
    identifiers, of_prompt, texts = random_identifiers(each=30)
    try:
        way = scoring_way(model)
    except ValueError as error:
        assert "off by" in str(error)
        return
    assert way != "packed"
    rows = as_batch(identifiers, of_prompt, texts, max_row_tokens=1000)
    with torch.no_grad():
        scores = sum_by_identifier(score_tokens(model, *rows).log_probabilities, rows[2]["segments"], 30)
        torch.testing.assert_close(scores, ordinary_scores(model, identifiers, of_prompt, texts), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_whose_scores_depend_on_padding_trains_on_pairs_only(name):
    model = make(name)
    with pytest.raises(ValueError, match="off by .*cannot be trained to rank passages.*such as BART or T5"):
        scoring_way(model)
    with pytest.raises(ValueError, match="cannot be trained to rank"):
        score_identifiers(model, [[5, 6]], [[[7, 8]]])
    assert scoring_way(model, pairs=True) == "plain"
    labels = torch.tensor([[5, 6, 7], [8, 9, -100]])
    batch = {"input_ids": torch.tensor([[5, 6, 7], [8, 9, 3]]), "labels": labels}
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    losses, present = pair_losses(model, batch, 0.0)
    start = model.config.decoder_start_token_id
    logits = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
        decoder_input_ids=torch.tensor([[start, 5, 6], [start, 8, 9]]), use_cache=False,
    ).logits  # fmt: skip
    expected = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=-100)
    torch.testing.assert_close(losses, expected)
    assert present.tolist() == [[True, True, True], [True, True, False]]


def test_what_is_no_model_of_text_is_refused_by_its_name():
    sizes = {"vocab_size": VOCAB, "d_model": 32, "decoder_start_token_id": 2, "pad_token_id": 1, "eos_token_id": 2}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_layers": 1, "decoder_layers": 1}
    whisper = transformers.WhisperConfig(
        **sizes, **heads, num_mel_bins=8, max_source_positions=16, max_target_positions=16, bos_token_id=0
    )
    bart = transformers.BartConfig(**sizes, **heads)
    t5 = transformers.T5Config(vocab_size=VOCAB, d_model=32, d_kv=8, num_heads=4, num_layers=1, pad_token_id=0)
    gpt2 = transformers.GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=1, n_head=4)
    models = [
        (transformers.WhisperForConditionalGeneration(whisper), "WhisperForConditionalGeneration cannot be run on"),
        (transformers.BartModel(bart), "BartModel is not an encoder-decoder model that can generate"),
        (transformers.BartForSequenceClassification(bart), "BartForSequenceClassification is not an"),
        (transformers.BartForQuestionAnswering(bart), "BartForQuestionAnswering is not an"),
        (transformers.T5EncoderModel(t5), "T5EncoderModel is not an"),
        (transformers.T5ForSequenceClassification(t5), "T5ForSequenceClassification is not an"),
        (transformers.GPT2Model(gpt2), "GPT2Model is not an .* nor a causal language model"),
    ]
    for model, message in models:
        for pairs in (False, True):
            with pytest.raises(ValueError, match=message):
                scoring_way(model, pairs=pairs)


def test_a_model_that_packs_wrongly_is_found_out(caplog):
    """Nothing in its modules says so."""

    class Crossed(transformers.BartForConditionalGeneration):
        def forward(self, decoder_attention_mask=None, **inputs):
            return super().forward(**inputs)  # Identifiers of a row see each other.

    model = make("bart")
    model.__class__ = Crossed
    assert scoring_way(model) == "rows"
    assert "Crossed gives packed identifiers scores that are off by" in caplog.text and "separate row" in caplog.text
    caplog.clear()
    scoring_way(model)
    assert not caplog.text, "said once"


def test_a_model_is_tried_once(monkeypatch):
    model = make("bart")
    assert scoring_way(model) == "packed"
    monkeypatch.setattr(probing, "_one_by_one", None)
    assert scoring_way(model) == "packed"
    before = [parameter.clone() for parameter in model.parameters()]
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["bart", "t5", "umt5"])
def test_rounding_is_no_difference(name, dtype):
    assert scoring_way(make(name).to(dtype)) == "packed"


def test_a_quantised_model_rounds():
    """Activations are rounded by the largest of the batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Another package will have this function.
        model = torch.ao.quantization.quantize_dynamic(make("bart"), {torch.nn.Linear}, dtype=torch.qint8)
    assert scoring_way(model) == "packed"
    assert decoding_way(model) == "cached"


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_weights_that_are_offloaded(name):
    identifiers, _, texts = random_identifiers(prompts=1)
    prompts = [text[0] for text in texts]
    expected = score_identifiers(make(name), prompts, identifiers)
    model = make(name)
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert next(model.parameters()).is_meta
    for scores, wanted in zip(score_identifiers(model, prompts, identifiers), expected, strict=True):
        assert scores == pytest.approx(wanted, rel=1e-5)
