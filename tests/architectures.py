"""Small random models of many architectures, and identifiers to score with them."""

import torch
import transformers

from dgr_trainer.student.packing import pack_identifiers
from dgr_trainer.student.probing import scoring_way
from dgr_trainer.student.token_scores import token_scores

VOCAB = 120
# Architectures by the way in which they can score identifiers.
PACKED = [
    "bart", "mbart", "plbart", "pegasus", "marian", "mvp", "blenderbot", "blenderbot-small", "bigbird_pegasus",
    "t5", "mt5", "umt5", "longt5", "t5gemma",
]  # fmt: skip
ROWS = ["led", "m2m_100", "nllb-moe", "switch_transformers", "pegasus_x", "seamless_m4t", "encoder-decoder"]
PLAIN = ["fsmt"]
CAUSAL = [
    "llama",
    "qwen3",
    "qwen3-sliding",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "phi",
    "mistral",
    "opt",
    "cohere",
]
CAUSAL_ROWS = ["gpt_neo", "mamba", "bloom"]  # No mask of single tokens, or no positions.
REFUSED = ["prophetnet"]  # Padding after an identifier changes its scores.
_EAGER = {"gemma2", "gpt_neo", "mamba", "bloom",
          "t5gemma", "led", "mvp", "bigbird_pegasus", "longt5", "switch_transformers", "nllb-moe", "pegasus_x",
          "fsmt", "prophetnet"}  # fmt: skip
_TOKENS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}


def make(
    name: str, attention: str = "sdpa", seed: int = 0, vocab: int = VOCAB, **changes
) -> transformers.PreTrainedModel:
    """A small random model of an architecture, whose scores differ enough to compare them."""
    torch.manual_seed(seed)
    config = _config(name, vocab)
    for key, value in changes.items():
        setattr(config, key, value)
    if name in CAUSAL or name in CAUSAL_ROWS:
        config._attn_implementation = "eager" if name in _EAGER else attention
        return transformers.AutoModelForCausalLM.from_config(config).eval()
    config._attn_implementation = "eager" if name in _EAGER else attention
    if name == "encoder-decoder":
        return transformers.EncoderDecoderModel(config).eval()
    return transformers.AutoModelForSeq2SeqLM.from_config(config).eval()


def _config(name: str, vocab: int) -> transformers.PreTrainedConfig:
    sizes = {
        "vocab_size": vocab,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "max_position_embeddings": 64,
        "init_std": 0.2,
        **_TOKENS,
    }
    if name in CAUSAL or name in CAUSAL_ROWS:
        return _causal_config(name, vocab)
    if name == "t5gemma":
        side = {
            "vocab_size": vocab, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3,
        }  # fmt: skip
        config = transformers.T5GemmaConfig(encoder=side, decoder=side, vocab_size=vocab, decoder_start_token_id=0)
        config.pad_token_id = 1
        return config
    if name in ("t5", "mt5", "umt5", "longt5", "switch_transformers"):
        config = transformers.CONFIG_MAPPING[name](
            vocab_size=vocab, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0
        )
        if name == "switch_transformers":
            config.num_sparse_encoder_layers = config.num_sparse_decoder_layers = 1
            config.num_experts = 4
            config.router_jitter_noise = 0.0  # Routes at random in training.
        return config
    if name == "encoder-decoder":
        side = transformers.BertConfig(
            vocab_size=vocab, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
            max_position_embeddings=64, initializer_range=0.2,
        )  # fmt: skip
        config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(side, side)
        config.vocab_size = vocab
        for key, value in _TOKENS.items():
            setattr(config, key, value)
        return config
    if name == "led":
        config = transformers.LEDConfig(**sizes, attention_window=[8, 8], max_encoder_position_embeddings=64)
        config.max_decoder_position_embeddings = 64
        return config
    if name == "pegasus_x":
        return transformers.PegasusXConfig(**sizes, block_size=8, num_global_tokens=4)
    if name == "nllb-moe":
        return transformers.NllbMoeConfig(**sizes, num_experts=4, encoder_sparse_step=2, decoder_sparse_step=2)
    if name == "seamless_m4t":
        sizes = {key: value for key, value in sizes.items() if key not in ("d_model", "init_std")}
        return transformers.SeamlessM4TConfig(**sizes, hidden_size=32, initializer_range=0.2)
    if name == "fsmt":
        del sizes["vocab_size"]
        return transformers.FSMTConfig(langs=["en", "de"], src_vocab_size=vocab, tgt_vocab_size=vocab, **sizes)
    if name == "prophetnet":
        renamed = {
            "d_model": "hidden_size", "encoder_layers": "num_encoder_layers", "decoder_layers": "num_decoder_layers",
            "encoder_attention_heads": "num_encoder_attention_heads",
            "decoder_attention_heads": "num_decoder_attention_heads",
        }  # fmt: skip
        return transformers.ProphetNetConfig(**{renamed.get(key, key): value for key, value in sizes.items()})
    return transformers.CONFIG_MAPPING[name](**sizes)


def _causal_config(name: str, vocab: int) -> transformers.PreTrainedConfig:
    tokens = {"vocab_size": vocab, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    if name == "gpt2":
        return transformers.GPT2Config(
            **tokens, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.2
        )
    if name == "gpt_neo":
        return transformers.GPTNeoConfig(
            **tokens, hidden_size=32, num_layers=2, num_heads=4, max_position_embeddings=128, window_size=4,
            attention_types=[[["global", "local"], 1]], initializer_range=0.2,
        )  # fmt: skip
    if name == "bloom":
        return transformers.BloomConfig(**tokens, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.2)
    if name == "mamba":
        return transformers.MambaConfig(
            **tokens, hidden_size=32, num_hidden_layers=2, state_size=8, time_step_rank=4, initializer_range=0.2
        )
    sizes = {
        **tokens, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 128, "initializer_range": 0.2,
    }  # fmt: skip
    if name == "opt":
        return transformers.OPTConfig(
            vocab_size=vocab, hidden_size=32, word_embed_proj_dim=32, ffn_dim=64, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=128, init_std=0.2, pad_token_id=1, bos_token_id=0,
            eos_token_id=2,
        )  # fmt: skip
    if name not in ("gpt_neox", "phi"):
        sizes["num_key_value_heads"] = 2
    if name.startswith(("gemma", "qwen3")):
        sizes["head_dim"] = 8
    # Windows that are shorter than the samples.
    if name == "mistral":
        sizes["sliding_window"] = 4
    if name in ("gemma2", "gemma3_text"):
        sizes |= {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
    if name == "qwen3-sliding":
        name = "qwen3"
        sizes |= {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 1}
    return transformers.CONFIG_MAPPING[name](**sizes)


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


def score_tokens(model, input_ids, attention_mask, rows, *, way=None, tokens_at_once=None):
    """Scores of the tokens of a batch, by default in the way that the trainer takes."""
    way = scoring_way(model) if way is None else way
    return token_scores(model, input_ids, attention_mask, rows, way, tokens_at_once=tokens_at_once)


def ordinary_scores(model, identifiers, of_prompt, texts):
    """(B, K): each identifier in a call of its own, as the labels of an ordinary seq2seq example."""
    scores = []
    for query, query_identifiers in enumerate(identifiers):
        for ids, number in zip(query_identifiers, of_prompt[query], strict=True):
            prompt = torch.tensor([texts[query][number]])
            if not model.config.is_encoder_decoder:
                read = torch.tensor([[*texts[query][number], *ids[:-1]]])
                logits = model(input_ids=read, attention_mask=torch.ones_like(read), use_cache=False).logits
                log_p = logits[0, -len(ids) :].log_softmax(-1)
                scores.append(log_p[range(len(ids)), list(ids)].sum())
                continue
            inputs = torch.tensor([[model.config.decoder_start_token_id, *ids[:-1]]])
            logits = model(
                input_ids=prompt, attention_mask=torch.ones_like(prompt), decoder_input_ids=inputs,
                decoder_attention_mask=torch.ones_like(inputs), use_cache=False,
            ).logits  # fmt: skip
            scores.append(logits[0].log_softmax(-1)[range(len(ids)), list(ids)].sum())
    return torch.stack(scores).view(len(identifiers), -1)


def without_dropout(model):
    """The model in training mode, but with the same results at every call."""
    for module in model.modules():
        for name in ("p", "dropout", "activation_dropout", "attention_dropout", "dropout_rate", "layerdrop"):
            if isinstance(vars(module).get(name), float):
                setattr(module, name, 0.0)
    return model.train()


def checkpoint_activations(model, *, use_reentrant):
    """Has layers run again in the backward pass; the method was renamed in transformers 5.23."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": use_reentrant})
    model.enable_input_require_grads()
