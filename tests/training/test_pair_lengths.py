"""Pairs that are longer than a model's positions are refused before training."""

import datasets
import pytest
from tiny_models import make_bart, make_causal, make_t5
from transformers import GPT2Config, GPT2LMHeadModel

from dgr_trainer.training import checks
from dgr_trainer.training.checks import check_pairs


def pairs(*sizes):
    rows = [{"input_ids": [5] * prompt, "labels": [6] * identifier} for prompt, identifier in sizes]
    return datasets.Dataset.from_list(rows)


@pytest.mark.parametrize("at_once", [100, 2])
def test_identifiers_that_are_longer_than_the_decoder_are_refused(bpe_tokenizer, monkeypatch, at_once):
    monkeypatch.setattr(checks, "_PAIRS_AT_ONCE", at_once)
    model = make_bart(bpe_tokenizer, max_position_embeddings=32)
    check_pairs(model, "train_dataset", pairs((3, 32), (30, 30)))
    dataset = pairs((3, 4), (3, 9), (3, 33), (3, 40))
    with pytest.raises(
        ValueError,
        match=r"2 of 4 pairs of train_dataset, such as row [23], have labels of up to 40 tokens, but at most 32 "
        r"fit the positions of the model. Make shorter ones \(generation_pairs\(substring_length=...\)\)",
    ):
        check_pairs(model, "train_dataset", dataset)
    check_pairs(model, "train_dataset", dataset.select([1, 0]))


def test_prompts_count_where_they_stand_before_the_identifier(bpe_tokenizer):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(bpe_tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=32))
    check_pairs(model, "train_dataset", pairs((3, 29)))
    with pytest.raises(ValueError, match="1 of 2 pairs of eval_dataset, such as row 1, have input_ids and labels of"):
        check_pairs(model, "eval_dataset", pairs((3, 29), (5, 29)))


def test_models_without_positions_take_any_length(unigram_tokenizer):
    for model in (make_t5(unigram_tokenizer), make_causal(unigram_tokenizer)):
        check_pairs(model, "train_dataset", pairs((3, 4000)))
