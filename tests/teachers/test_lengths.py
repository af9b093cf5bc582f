"""How many tokens models read: as many as they have positions for, of which some begin after the padding's."""

import copy

import pytest
import torch
import transformers
from tiny_models import plain_tokenizer
from transformers import AutoModel

from dgr_trainer.teachers.lengths import checked_max_length, position_limit, position_offset

SIZES = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 8,
    "max_position_embeddings": 12,
}
FURTHER = {
    "distilbert": {"dim": 8, "n_layers": 1, "n_heads": 1, "hidden_dim": 8},
    "electra": {"embedding_size": 8},
    "gpt2": {"vocab_size": 20, "n_positions": 12, "n_embd": 8, "n_layer": 1, "n_head": 1},
    "longformer": {"attention_window": [4]},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
}


@pytest.mark.parametrize(
    ("family", "offset"),
    [
        *((family, 0) for family in ("bert", "distilbert", "electra", "gpt2")),
        *((family, 2) for family in ("camembert", "data2vec-text", "mpnet", "roberta", "xlm-roberta", "xmod")),
    ],
)
def test_a_model_reads_as_many_tokens_as_it_has_positions(family, offset):
    sizes = FURTHER["gpt2"] if family == "gpt2" else {**SIZES, **FURTHER.get(family, {})}
    config = transformers.CONFIG_MAPPING[family](**sizes, pad_token_id=1)
    model = AutoModel.from_config(config).eval()
    assert position_offset(model) == offset and position_limit(model) == 12 - offset
    with torch.no_grad():
        model(input_ids=torch.full((1, 12 - offset), 5))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, 13 - offset), 5))


def test_the_longest_input_of_a_model_that_pads_to_windows():
    config = transformers.LongformerConfig(**{**SIZES, **FURTHER["longformer"], "pad_token_id": 1})
    assert position_limit(AutoModel.from_config(config)) == 10


def test_models_without_positions_have_no_limit():
    config = transformers.T5Config(vocab_size=20, d_model=8, d_kv=8, d_ff=8, num_layers=1, num_heads=1)
    assert position_limit(transformers.T5EncoderModel(config)) is None
    xlnet = transformers.XLNetConfig(vocab_size=20, d_model=8, n_layer=1, n_head=1, d_inner=8)
    assert position_limit(AutoModel.from_config(xlnet)) is None


def test_a_length_is_checked_or_found():
    tokenizer = copy.deepcopy(plain_tokenizer())
    tokenizer.model_max_length = 100
    assert checked_max_length(None, 64, tokenizer, 2, "m") == 64
    assert checked_max_length(None, None, tokenizer, 2, "m") == 100
    assert checked_max_length(64, 64, tokenizer, 2, "m") == 64
    tokenizer.model_max_length = int(1e30)
    assert checked_max_length(None, None, tokenizer, 2, "m") is None
    with pytest.raises(ValueError, match="max_length is 65, but m has positions for 64 tokens. Give a smaller"):
        checked_max_length(65, 64, tokenizer, 2, "m")
    with pytest.raises(ValueError, match="max_length is 2, but an input of m has 2 special tokens, which leave no"):
        checked_max_length(2, 64, tokenizer, 2, "m")
