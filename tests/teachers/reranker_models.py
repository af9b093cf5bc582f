"""Random rerankers of every family, small enough to build in a test, and their tokenizers."""

from pathlib import Path

import torch
from tiny_models import plain_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)


def save_cross_encoder(folder: Path, labels: int = 1, layers: int = 2) -> Path:
    """A random BERT with so many labels."""
    torch.manual_seed(labels)
    tokenizer = plain_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
        num_labels=labels,
        initializer_range=1.0,  # random scores that differ clearly
        pad_token_id=tokenizer.pad_token_id,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_encoder(folder: Path) -> Path:
    """A random BERT without a head."""
    save_cross_encoder(folder)
    BertForSequenceClassification.from_pretrained(folder).bert.save_pretrained(folder)
    return folder


def word_tokenizer(bos: bool, eos: bool) -> PreTrainedTokenizerBase:
    """Words and characters; puts a token before a text and behind it, as Llama's and T5's do."""
    words = [
        "<pad>",
        "<s>",
        "</s>",
        "<unk>",
        "yes",
        "no",
        "Yes",
        "No",
        "true",
        "false",
        "Query",
        "Document",
        "Relevant",
    ]
    alphabet = [chr(code) for code in range(33, 127)]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys([*words, *alphabet, "##"]))}
    for letter in alphabet:
        vocabulary.setdefault(f"##{letter}", len(vocabulary))
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>", max_input_chars_per_word=100))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    single = " ".join(["<s>"] * bos + ["$A"] + ["</s>"] * eos)
    special = [("<s>", vocabulary["<s>"]), ("</s>", vocabulary["</s>"])]
    backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def save_seq2seq(folder: Path) -> Path:
    """A random T5."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer(bos=False, eos=True)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        initializer_factor=2.0,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=0,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_causal_lm(folder: Path, kind: str) -> Path:
    """A random model of the kind `"qwen3"`, `"llama"` or `"gpt2"`; Llama's tokenizer begins texts with a token."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer(bos=kind == "llama", eos=False)
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 1024,
        "initializer_range": 0.5,
        "pad_token_id": 0,
    }
    if kind == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=8))
    elif kind == "llama":
        model = LlamaForCausalLM(LlamaConfig(**sizes))
    else:
        model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=1024, initializer_range=0.5
            )
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
