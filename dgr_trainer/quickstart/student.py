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

# How people begin a question; most often with nothing.
_OPENINGS = ("", "", "", "", "how to", "how do i", "how can i", "python", "way to", "function to", "what", "find out")
_WORD_OF_NAME = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def train_tokenizer(corpus: Corpus, vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer of `vocabulary` tokens, with BART's special tokens, on a corpus."""
    settings = IdentifierSettings()

    def texts() -> Iterator[str]:
        for passage in corpus:
            markers = [f"{settings.query_start} {query} {settings.query_end}" for query in passage.pseudo_queries]
            # The leading space gives the first word of a title the same token as inside a text.
            yield " ".join(["", passage.title, settings.title_end, passage.text, *markers])
            yield " " + settings.prompts["substring"].replace("{query}", " ".join(name_words(passage.title)))

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer, length=2 * len(corpus))
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=128,
    )


def new_student(identifiers: Identifiers, seed: int) -> BartForConditionalGeneration:
    """Build the student with random weights: a BART of about four million parameters."""
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
            # The usual 0.02 suits wider models: at this width attention would start out almost uniform for long.
            init_std=0.06,
            bos_token_id=0,
            pad_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=2,
            forced_eos_token_id=None,
        )
    )


def name_words(name: str) -> list[str]:
    """Split a dotted name into lower-case words: `csv.DictReader` into `csv`, `dict`, `reader`."""
    return [word.lower() for word in _WORD_OF_NAME.findall(name)]


def made_up_questions(corpus: Corpus, per_passage: int, seed: int) -> tuple[datasets.Dataset, Qrels]:
    """Make questions from the passages themselves, for a corpus with too few questions.

    A question is a common opening and a few words of a passage's first pseudo-query, text and name, in their order,
    some left out. Its relevant passage is the one that it was made from.

    Args:
        corpus ([`Corpus`]): Passages, each with at least one pseudo-query, of which the first is used.
        per_passage (`int`): Number of questions of each passage.
        seed (`int`): Seed of the random choices.

    Returns:
        `tuple[datasets.Dataset, Qrels]`: a dataset with the columns `query_id` and `query`, and the judgements.
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
        words_of_name = [word for word in name_words(passage.title) if random.random() < 0.5]
        position = 0 if random.random() < 0.5 else len(kept)
        kept[position:position] = words_of_name
    text = " ".join([*_OPENINGS[random.integers(len(_OPENINGS))].split(), *kept[:10]])
    text = text.strip(".,:;").lower() if random.random() < 0.8 else text.strip(".,:;")
    return text or " ".join(name_words(passage.title))
