"""Warnings of added tokens that training leaves as they are, in the words of the log."""

import copy

import peft
import pytest
from tiny_models import make_bart
from training_examples import make_trainer

ADDED = ["[docid-1]", "[docid-2]"]


@pytest.fixture
def tokenizer(bpe_tokenizer):
    tokenizer = copy.deepcopy(bpe_tokenizer)
    tokenizer.add_tokens(ADDED)
    return tokenizer


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "dgr_trainer.training.checks"]


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({}, "the encoder's embeddings and the decoder's embeddings and the output projection"),
        (
            {"modules_to_save": ["shared"]},
            "the encoder's embeddings and the decoder's embeddings and the output projection",
        ),
        (
            {"target_modules": ["q_proj", "shared"]},
            "the encoder's embeddings and the decoder's embeddings and the output projection",
        ),
        ({"modules_to_save": ["lm_head"]}, "the encoder's embeddings and the decoder's embeddings"),
    ],
)
def test_embeddings_that_stay_at_random(settings, parts, tokenizer, tmp_path, caplog):
    config = peft.LoraConfig(**{"target_modules": ["q_proj"], **settings})
    make_trainer(tmp_path, tokenizer, model=peft.get_peft_model(make_bart(tokenizer), config))
    assert warnings_of(caplog) == [
        "2 tokens were added to the tokenizer, such as '[docid-1]', and training leaves the rows of 2 of them in "
        f"{parts} as they are. Unless they were trained before, give the LoraConfig "
        "trainable_token_indices=[...] with their ids, or unfreeze these weights."
    ]


def test_output_rows_that_stay_at_random(tokenizer, tmp_path, caplog):
    """The embeddings are trained, but peft has untied them from the output projection."""
    config = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    make_trainer(tmp_path, tokenizer, model=peft.get_peft_model(make_bart(tokenizer), config))
    (told,) = warnings_of(caplog)
    assert "such as '[docid-1]', are read with trained embeddings, but training leaves the rows of 2 of them" in told
    assert "in the output projection as they are" in told
    assert "were added" not in told


def test_only_the_tokens_that_are_left_out_are_named(tokenizer, tmp_path, caplog):
    trained = tokenizer.convert_tokens_to_ids(ADDED[:1])
    config = peft.LoraConfig(target_modules=["q_proj"], trainable_token_indices=trained)
    make_trainer(tmp_path, tokenizer, model=peft.get_peft_model(make_bart(tokenizer), config))
    (told,) = warnings_of(caplog)
    assert (
        "2 tokens were added to the tokenizer, such as '[docid-2]', and training leaves the rows of 1 of them" in told
    )


def test_embeddings_that_are_frozen_without_an_adapter(tokenizer, tmp_path, caplog):
    model = make_bart(tokenizer)
    model.get_input_embeddings().weight.requires_grad_(False)
    make_trainer(tmp_path, tokenizer, model=model)
    (told,) = warnings_of(caplog)
    assert "such as '[docid-1]', and training leaves the rows of 2 of them" in told


@pytest.mark.parametrize("adapted", [False, True])
def test_nothing_is_said_where_all_are_trained_or_none_was_added(adapted, tokenizer, bpe_tokenizer, tmp_path, caplog):
    model = make_bart(tokenizer)
    if adapted:
        ids = tokenizer.convert_tokens_to_ids(ADDED)
        model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], trainable_token_indices=ids))
    make_trainer(tmp_path / "a", tokenizer, model=model)
    plain = peft.get_peft_model(make_bart(bpe_tokenizer), peft.LoraConfig(target_modules=["q_proj"]))
    make_trainer(tmp_path / "b", bpe_tokenizer, model=plain)
    assert warnings_of(caplog) == []


def test_an_adapter_that_trains_nothing_is_refused(bpe_tokenizer, tmp_path):
    model = peft.get_peft_model(make_bart(bpe_tokenizer), peft.LoraConfig(target_modules=["shared"]))
    with pytest.raises(ValueError, match="No trainable weight of the model takes part in its forward pass"):
        make_trainer(tmp_path, bpe_tokenizer, model=model)


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_an_adapter_that_breaks_the_model_is_refused(tokenizer, tmp_path):
    config = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True)
    model = peft.get_peft_model(make_bart(tokenizer), config)
    with pytest.raises(
        ValueError, match="BartForConditionalGeneration cannot be run on .*mat1 and mat2.*without its adapter"
    ):
        make_trainer(tmp_path, tokenizer, model=model)
