"""Tiny random decoder-only models of the sample corpus, and what they give by ordinary calls."""

import torch
import transformers
from tiny_models import TOKENIZERS

from dgr_trainer.identifiers import Identifiers, IdentifierSettings

# Two for the fast tests: positions that are rotary, with fewer heads of keys; a window shorter than most prompts.
FAST = ["llama", "mistral"]
SLOW = ["qwen3", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "phi", "opt"]
WINDOW = 6
_NO_SDPA = ("gemma2",)


def make_causal(name, vocab_size, *, attention="sdpa", seed=0, **changes):
    """A model of two layers, whose scores differ enough to compare them."""
    torch.manual_seed(seed)
    tokens = {"vocab_size": vocab_size, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    if name == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.3}
    elif name == "opt":
        sizes = {
            "hidden_size": 32, "ffn_dim": 64, "word_embed_proj_dim": 32, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 128, "init_std": 0.3,
        }  # fmt: skip
    else:
        sizes = {
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
            "max_position_embeddings": 128, "initializer_range": 0.3,
        }  # fmt: skip
    if name not in ("gpt2", "opt", "gpt_neox", "phi", "bloom", "mamba"):
        sizes["num_key_value_heads"] = 2
    if name.startswith(("gemma", "qwen3")):
        sizes["head_dim"] = 8
    if name == "mistral" or name.startswith("gemma"):
        sizes["sliding_window"] = WINDOW
    if name.startswith("gemma"):
        sizes["layer_types"] = ["sliding_attention", "full_attention"]
    config = transformers.CONFIG_MAPPING[name](**{**tokens, **sizes, **changes})
    attention = "eager" if name in _NO_SDPA else attention
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


def causal_identifiers(**settings):
    """Identifiers of a tokenizer that begins and ends texts with special tokens, of which prompts keep the first."""
    return Identifiers(TOKENIZERS["bpe"](), IdentifierSettings(closed_prompts=False, **settings))


def log_likelihood(model, prompt, ids):
    """log p of a sequence after a prompt, by one plain forward pass."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *ids[:-1]]]), use_cache=False).logits[0, len(prompt) - 1 :]
    return logits.float().log_softmax(-1)[range(len(ids)), list(ids)].sum().item()
