"""The student of the examples: a checkpoint that you name, or a small random BART or Qwen3 that needs no download."""

from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)


def load_student(
    name_or_path: str | None, texts: Iterable[str], *, decoder_only: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model and its tokenizer, or make small ones.

    Args:
        name_or_path (`str`, *optional*): Name or folder of a checkpoint, such as a BART, a T5 or a Qwen3.
        texts (`Iterable[str]`): Training texts of the small tokenizer, used if there is no checkpoint.
        decoder_only (`bool`, *optional*, defaults to `False`): Whether the small model is a Qwen3, not a BART.

    Returns:
        `tuple[PreTrainedModel, PreTrainedTokenizerBase]`: The model and its tokenizer.
    """
    if name_or_path is not None:
        is_encoder_decoder = AutoConfig.from_pretrained(name_or_path).is_encoder_decoder
        auto_class = AutoModelForSeq2SeqLM if is_encoder_decoder else AutoModelForCausalLM
        return auto_class.from_pretrained(name_or_path), AutoTokenizer.from_pretrained(name_or_path)

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1200, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(texts, trainer)
    core.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )

    torch.manual_seed(0)
    if decoder_only:
        small = Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            tie_word_embeddings=True,
            initializer_range=0.1,
            bos_token_id=0,
            pad_token_id=1,
            eos_token_id=2,
        )
        return Qwen3ForCausalLM(small), tokenizer
    config = BartConfig(
        vocab_size=len(tokenizer),
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_position_embeddings=128,
        dropout=0.0,
        init_std=0.1,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
    )
    return BartForConditionalGeneration(config), tokenizer
