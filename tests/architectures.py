"""Small random models of many architectures, and identifiers to score with them."""

import torch
import transformers

from dgr_trainer.student.packing import pack_identifiers

VOCAB = 120
SIZES = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "init_std": 0.2,
}


def make(name: str, attention: str = "sdpa", seed: int = 0) -> transformers.PreTrainedModel:
    torch.manual_seed(seed)
    if name == "t5gemma":
        side = {
            "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3,
        }  # fmt: skip
        config = transformers.T5GemmaConfig(encoder=side, decoder=side, vocab_size=VOCAB, decoder_start_token_id=0)
        config.pad_token_id = 1
    elif name in ("t5", "mt5", "umt5", "longt5", "switch_transformers"):
        config = transformers.CONFIG_MAPPING[name](
            vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0
        )
        if name == "switch_transformers":
            config.router_jitter_noise = 0.0  # Routes at random in training.
    elif name == "led":
        config = transformers.LEDConfig(**SIZES, attention_window=[8, 8], max_encoder_position_embeddings=64)
        config.max_decoder_position_embeddings = 64
    else:
        config = transformers.CONFIG_MAPPING[name](**SIZES)
    attention = "eager" if name == "t5gemma" else attention  # The only one it has.
    config._attn_implementation = attention
    model = transformers.AutoModelForSeq2SeqLM.from_config(config)
    assert model.config._attn_implementation == attention or name == "led"
    return model.eval()


def random_identifiers(queries: int = 3, prompts: int = 2, each: int = 9, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)

    def number(low, high):
        return int(torch.randint(low, high, (), generator=generator))

    # Few first tokens, so that prefixes are shared.
    identifiers = [
        [
            [
                number(3, 5),
                *(number(3, 6) for _ in range(number(0, 3))),
                *(number(3, VOCAB) for _ in range(number(0, 6))),
            ]
            for _ in range(each)
        ]
        for _ in range(queries)
    ]
    of_prompt = [[number(0, prompts) for _ in range(each)] for _ in range(queries)]
    texts = [[[number(3, VOCAB) for _ in range(number(2, 9))] for _ in range(prompts)] for _ in range(queries)]
    return identifiers, of_prompt, texts


def as_batch(identifiers, of_prompt, texts, max_row_tokens=24):
    """Prompts, their mask, and packed rows, as tensors."""
    packed = pack_identifiers(identifiers, of_prompt, len(texts[0]), max_row_tokens)
    flat = [text for of_query in texts for text in of_query]
    input_ids = torch.zeros(len(flat), max(map(len, flat)), dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for place, text in enumerate(flat):
        input_ids[place, : len(text)] = torch.tensor(text)
        attention_mask[place, : len(text)] = 1
    return input_ids, attention_mask, {name: torch.from_numpy(array) for name, array in packed._asdict().items()}
