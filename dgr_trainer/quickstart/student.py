"""The quickstart's student: a small BART, its tokenizer, and the made-up questions that it learns from."""

import re
import zlib
from collections.abc import Iterator

import datasets
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.data.queries import Qrels
from dgr_trainer.identifiers import Identifiers, IdentifierSettings

VOCABULARY = 4096

# How people begin a question, the empty beginning most of all.
_OPENINGS = ("", "", "", "", "how to", "how do i", "how can i", "python", "way to", "function to", "what", "find out")
_WORD_OF_NAME = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def train_tokenizer(corpus: Corpus) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer of 4,096 tokens, with BART's special tokens, on a corpus."""
    settings = IdentifierSettings()

    def texts() -> Iterator[str]:
        for passage in corpus:
            markers = [f"{settings.query_start} {query} {settings.query_end}" for query in passage.pseudo_queries]
            # The space in front gives a title's first word the token that it has inside a text.
            yield " ".join(["", passage.title, settings.title_end, passage.text, *markers])
            yield " " + settings.prompts["substring"].replace("{query}", " ".join(name_words(passage.title)))

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer, length=2 * len(corpus))
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=128,
    )


def new_student(identifiers: Identifiers, seed: int) -> BartForConditionalGeneration:
    """Builds the student with random weights: a BART of about four million parameters."""
    torch.manual_seed(seed)
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=identifiers.vocab_size,
            d_model=256,
            encoder_layers=3,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=512,
            decoder_ffn_dim=512,
            max_position_embeddings=128,
            dropout=0.1,
            # The usual 0.02 suits wider models: at this width attention would start out blind, and stay so for long.
            init_std=0.06,
            bos_token_id=0,
            pad_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=2,
            forced_eos_token_id=None,
        )
    )


def name_words(name: str) -> list[str]:
    """Splits a dotted name into lower-case words: `csv.DictReader` into `csv`, `dict`, `reader`."""
    return [word.lower() for word in _WORD_OF_NAME.findall(name)]


def made_up_questions(corpus: Corpus, per_passage: int, seed: int) -> tuple[datasets.Dataset, Qrels]:
    """Makes questions from the passages themselves, for a corpus on which nobody has asked enough.

    A question is a handful of words of a passage's first pseudo-query, body and name, in order, some left out, behind
    an opening such as people use. It is judged relevant to the passage it was made from.

    Args:
        corpus ([`Corpus`]): Passages with a pseudo-query each, or more, of which the first is used.
        per_passage (`int`): Questions a passage.
        seed (`int`): Equal seeds make equal questions.

    Returns:
        `tuple[datasets.Dataset, Qrels]`: Columns `query_id`, `query`, and the judgements.
    """
    ids, texts, qrels = [], [], {}
    for passage in corpus:
        random = np.random.default_rng([seed, zlib.crc32(passage.id.encode())])
        for number in range(per_passage):
            query_id = f"made-up-{number}-{passage.id}"
            ids.append(query_id)
            texts.append(_made_up_question(passage, random))
            qrels[query_id] = {passage.id: 1}
    return datasets.Dataset.from_dict({"query_id": ids, "query": texts}), qrels


def _made_up_question(passage: Passage, random: np.random.Generator) -> str:
    body = passage.text.split()
    start = int(random.integers(max(1, len(body) - 12)))
    summary = " ".join(passage.pseudo_queries[:1]).split() or body[:12]
    words = summary if random.random() < 0.65 else body[start : start + 12]
    kept = [word for word in words[:16] if random.random() < 0.7]
    if random.random() < 0.6:
        of_name = [word for word in name_words(passage.title) if random.random() < 0.5]
        place = 0 if random.random() < 0.5 else len(kept)
        kept[place:place] = of_name
    text = " ".join([*_OPENINGS[random.integers(len(_OPENINGS))].split(), *kept[:10]])
    text = text.strip(".,:;").lower() if random.random() < 0.8 else text.strip(".,:;")
    return text or " ".join(name_words(passage.title))
