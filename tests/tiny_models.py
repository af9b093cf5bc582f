"""Tokenizers trained on the sample corpus, and random models small enough to build in a test.

Training a Unigram or WordPiece tokenizer breaks ties differently in every process, so what was trained is kept in
tests/assets. To train again after a change of the sample corpus: python tests/tiny_models.py
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import torch
from sample_corpus import PASSAGES, QUERIES
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

DATA = Path(__file__).with_name("assets")


def _texts() -> Iterator[str]:
    for passage in PASSAGES:
        yield " ".join([passage.title, "@@", passage.text, *(f"|| {q} @@" for q in passage.pseudo_queries), "##"])
    for query in QUERIES.values():
        for view in ("body", "title", "query"):
            yield f"{query} || {view} || +"


def train_bpe() -> Tokenizer:
    """Byte-level BPE with BART's special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def train_unigram() -> Tokenizer:
    """SentencePiece's Unigram with T5's special tokens."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=500, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def train_plain() -> Tokenizer:
    """Lower-casing WordPiece that has a [SEP] but no end-of-sequence token."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=500, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


_TRAIN = {"bpe": train_bpe, "unigram": train_unigram, "plain": train_plain}
_SPECIALS = {
    "bpe": {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    },
    "unigram": {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"},
    "plain": {"sep_token": "[SEP]", "cls_token": "[CLS]", "pad_token": "[PAD]", "unk_token": "[UNK]"},
}


@lru_cache
def _trained(name: str) -> PreTrainedTokenizerBase:
    return PreTrainedTokenizerFast(tokenizer_file=str(DATA / f"{name}_tokenizer.json"), **_SPECIALS[name])


def bpe_tokenizer() -> PreTrainedTokenizerBase:
    """Byte-level BPE with BART's special tokens."""
    return _trained("bpe")


def unigram_tokenizer() -> PreTrainedTokenizerBase:
    """SentencePiece's Unigram with T5's special tokens."""
    return _trained("unigram")


def plain_tokenizer() -> PreTrainedTokenizerBase:
    """Lower-casing WordPiece that has a [SEP] but no end-of-sequence token."""
    return _trained("plain")


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "bpe": bpe_tokenizer,
    "unigram": unigram_tokenizer,
    "plain": plain_tokenizer,
}


def make_bart(tokenizer: PreTrainedTokenizerBase, seed: int = 0, **overrides: object) -> BartForConditionalGeneration:
    """A random BART of two layers a side, in evaluation mode."""
    torch.manual_seed(seed)
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    settings: dict[str, object] = {
        "vocab_size": len(tokenizer),
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "max_position_embeddings": 128,
        "init_std": 0.2,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id,
        "eos_token_id": eos,
        "decoder_start_token_id": eos,
        "forced_eos_token_id": eos,  # As BART's checkpoints have it: decoding must not depend on it.
    }
    return BartForConditionalGeneration(BartConfig(**{**settings, **overrides})).eval()


def make_causal(
    tokenizer: PreTrainedTokenizerBase, kind: str = "qwen3", seed: int = 0, **overrides: object
) -> PreTrainedModel:
    """A random decoder-only model of two layers, in evaluation mode: `"qwen3"`, `"llama"`, `"gemma3_text"`."""
    torch.manual_seed(seed)
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    settings: dict[str, object] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": eos,
        "tie_word_embeddings": True,
    }
    if kind == "gemma3_text":  # Masks that differ by layer, and a window that is shorter than prompts.
        settings |= {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
    config = CONFIG_MAPPING[kind](**{**settings, **overrides})
    return AutoModelForCausalLM.from_config(config).eval()


def make_t5(tokenizer: PreTrainedTokenizerBase, seed: int = 0, **overrides: object) -> T5ForConditionalGeneration:
    """A random T5 of two layers a side, in evaluation mode."""
    torch.manual_seed(seed)
    settings: dict[str, object] = {
        "vocab_size": len(tokenizer),
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
        "initializer_factor": 0.5,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
    }
    return T5ForConditionalGeneration(T5Config(**{**settings, **overrides})).eval()


if __name__ == "__main__":
    DATA.mkdir(exist_ok=True)
    for name, train in _TRAIN.items():
        train().save(str(DATA / f"{name}_tokenizer.json"))
