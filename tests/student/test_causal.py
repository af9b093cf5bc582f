"""Decoder-only students: packed scores are those of one sequence per identifier."""

import pytest
import torch
import transformers
from architectures import CAUSAL, CAUSAL_ROWS, VOCAB, as_batch, make, ordinary_scores, random_identifiers, score_tokens

from dgr_trainer.student.probing import scoring_way
from dgr_trainer.student.scored_tokens import sum_by_identifier


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CAUSAL)
def test_packed_scores_are_those_of_one_sequence_per_identifier(name, attention):
    model = make(name, attention)
    identifiers, of_prompt, texts = random_identifiers()
    input_ids, mask, rows = as_batch(identifiers, of_prompt, texts)
    assert scoring_way(model) == "packed"
    expected = ordinary_scores(model, identifiers, of_prompt, texts)
    for way in ("packed", "rows", "plain"):
        for pieces in (None, 40):
            tokens = score_tokens(model, input_ids, mask, rows, way=way, tokens_at_once=pieces)
            actual = sum_by_identifier(tokens.log_probabilities, rows["segments"], expected.shape[1])
            torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", CAUSAL_ROWS)
def test_models_without_masks_of_single_tokens(name, caplog):
    model = make(name)
    identifiers, of_prompt, texts = random_identifiers()
    input_ids, mask, rows = as_batch(identifiers, of_prompt, texts)
    assert scoring_way(model) == "rows"
    expected = ordinary_scores(model, identifiers, of_prompt, texts)
    tokens = score_tokens(model, input_ids, mask, rows)
    actual = sum_by_identifier(tokens.log_probabilities, rows["segments"], expected.shape[1])
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    assert "so each identifier gets a separate row" in caplog.text


def test_a_model_that_looks_ahead_is_no_student():
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    bert = transformers.BertLMHeadModel(transformers.BertConfig(vocab_size=VOCAB, **sizes)).eval()
    with pytest.raises(ValueError, match="BertLMHeadModel predicts a token with the tokens after it.*is_decoder=True"):
        scoring_way(bert)
    bert = transformers.BertLMHeadModel(transformers.BertConfig(vocab_size=VOCAB, is_decoder=True, **sizes)).eval()
    assert scoring_way(bert) in ("packed", "rows")
