"""Models whose files lack weights, compared with what transformers leaves at random."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import make_bart, make_t5
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartForSequenceClassification,
    BartModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    T5EncoderModel,
    T5Model,
)

from dgr_trainer.student.loading import causal_logits, load_model, seq2seq_logits


def random_outputs(auto_class, path, logits):
    """Whether two loads give other logits: the independent sign of random weights that matter."""
    results = []
    for seed in range(2):
        torch.manual_seed(seed)
        results.append(logits(auto_class.from_pretrained(path).eval()))
    return not torch.equal(*results)


@pytest.fixture
def folders(tmp_path, bpe_tokenizer, unigram_tokenizer):
    bart, t5 = make_bart(bpe_tokenizer), make_t5(unigram_tokenizer)
    llama = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    tied = LlamaConfig(**{**llama.to_dict(), "tie_word_embeddings": True})
    gpt2 = GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=16)
    models = {
        "bart": bart,
        "bart without head": BartModel(bart.config),
        "bart with another head": BartForSequenceClassification(bart.config),
        "t5": t5,
        "t5 without head": T5Model(t5.config),
        "t5 encoder": T5EncoderModel(t5.config),
        "llama": LlamaForCausalLM(llama),
        "llama without head": LlamaModel(llama),
        "tied llama without head": LlamaModel(tied),
        "gpt2": GPT2LMHeadModel(gpt2),
        "gpt2 without head": GPT2Model(gpt2),
    }
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
    return tmp_path


COMPLETE = ["bart", "bart without head", "t5", "t5 without head", "llama", "tied llama without head", "gpt2",
            "gpt2 without head"]  # fmt: skip
INCOMPLETE = {
    "t5 encoder": r"Weights of .* are missing: decoder\.block\.0.* and \d+ more\. As a T5ForConditionalGeneration"
    r" it would compute with random weights there\. The files are of a T5EncoderModel",
    "llama without head": r"are missing: lm_head\.weight\. .*The files are of a LlamaModel",
}


def loaded(folders, name):
    seq2seq = name.startswith(("bart", "t5"))
    auto_class = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    logits = seq2seq_logits if seq2seq else causal_logits
    assert random_outputs(auto_class, folders / name, logits) == (name in INCOMPLETE)
    return load_model(auto_class, folders / name, logits)


@pytest.mark.parametrize("name", COMPLETE)
def test_models_with_all_their_weights(folders, name):
    """Tied weights are not in the file, and are not missing."""
    loaded(folders, name)


@pytest.mark.parametrize("name", INCOMPLETE)
def test_models_without_a_part(folders, name):
    with pytest.raises(ValueError, match=INCOMPLETE[name]):
        loaded(folders, name)


def test_a_model_with_another_head(folders):
    with pytest.raises(
        ValueError, match=r"is a BartForSequenceClassification: as a BartForConditionalGeneration its head \(classif"
    ):
        load_model(AutoModelForSeq2SeqLM, folders / "bart with another head", seq2seq_logits)


def edited(folders, name, edit):
    path = shutil.copytree(folders / name, folders / "edited")
    weights = load_file(path / "model.safetensors")
    edit(weights)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path


def test_a_weight_in_the_middle_is_missing(folders):
    key = "model.decoder.layers.1.fc1.bias"
    path = edited(folders, "bart", lambda weights: weights.pop(key))
    with pytest.raises(ValueError, match=rf"are missing: {key}\. .*Copy all its files again"):
        load_model(AutoModelForSeq2SeqLM, path, seq2seq_logits)


def test_a_weight_of_another_shape(folders):
    key = "model.decoder.layers.1.fc1.bias"
    path = edited(folders, "bart", lambda weights: weights.update({key: torch.zeros(5)}))
    with pytest.raises(ValueError, match=rf"another shape \({key}: \(5,\) in the file, \(64,\) in the model\): {key}"):
        load_model(AutoModelForSeq2SeqLM, path, seq2seq_logits)


def test_keys_of_old_files_are_no_fault(folders):
    """Buffers that transformers wrote once, and those that it did not write yet."""

    def edit(weights):
        weights["model.encoder.embed_positions.position_ids"] = torch.arange(9)
        weights["model.encoder.version"] = torch.tensor([3.0])
        weights.pop("final_logits_bias", None)

    load_model(AutoModelForSeq2SeqLM, edited(folders, "bart", edit), seq2seq_logits)


@pytest.mark.parametrize(
    ("name", "field", "layer"),
    [("bart", "decoder_layers", "model.decoder.layers.1"), ("bart without head", "encoder_layers", "encoder.layers.1"),
     ("t5", "num_layers", "encoder.block.1"), ("gpt2 without head", "n_layer", "h.1")],
)  # fmt: skip
def test_layers_that_the_configuration_leaves_out(folders, name, field, layer):
    path = shutil.copytree(folders / name, folders / "edited")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, field: 1}))
    auto_class, logits = (
        (AutoModelForCausalLM, causal_logits) if "gpt2" in name else (AutoModelForSeq2SeqLM, seq2seq_logits)
    )
    with pytest.raises(ValueError, match=rf"more layers than its configuration: {layer}\."):
        load_model(auto_class, path, logits)
