"""Writes one small folder or file of each format that the library saves, and what a search in them gives.

What it wrote is committed in tests/assets/formats, and tests open it, so that a change of a format is noticed. When a
format version changes on purpose, keep the committed folder as long as the library reads it, and write a new one:
PYTHONPATH=.:tests python tests/formats/make_saved_formats.py tests/assets/formats/v2
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from tiny_models import bpe_tokenizer, make_bart
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dgr_trainer.candidates import Candidate, Candidates, MatchedIdentifier
from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.identifier_weights import ScoringSettings
from dgr_trainer.identifiers import VIEWS, Identifiers, IdentifierSettings
from dgr_trainer.index import FMIndex
from dgr_trainer.index.corpus_sync import CORPUS, save_changed
from dgr_trainer.retrieval.retriever import GenerativeRetriever
from dgr_trainer.retrieval.settings import SearchSettings
from dgr_trainer.runs.rankings import Rankings

FIRST_PASSAGES = (
    Passage("nile", "Nile", "The Nile is a long river in Africa.", ("what river flows through egypt",)),
    Passage("moon", "Moon", "The Moon circles the Earth. Its gravity raises the tides.", ("what causes the tides",)),
    Passage("tide", "Tide", "Tides are the rise and fall of the sea.", ()),
    Passage("bee", "Honey bee", "Honey bees dance to tell others where flowers are.", ("how do bees talk",)),
)
ADDED_PASSAGES = (
    Passage("chess", "Chess", "Chess is a board game for two players.", ("board game with a king",)),
    Passage("zebra", "Zebra", "Zebras are African horses with stripes: Größe über alles.", ()),
)
REMOVED_ID = "tide"
QUERY = "what raises the tides of the sea"
CANDIDATES = {
    "q1": [
        Candidate(
            "moon",
            12.5,
            (
                MatchedIdentifier("title", (40, 50, 2), 1, 8.25),
                MatchedIdentifier("substring", (60,), 3, 4.25, "unigram"),
            ),
        ),
        Candidate("nile", -0.5, (MatchedIdentifier("pseudo_query", (70, 71, 72), 2, -0.5),)),
    ],
    "q2": [],
}
RANK_LISTS = {"q1": [("moon", 3.5), ("nile", -1.25)], "q2": [("bee", 0.1)]}


def write_formats(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write each format to `folder`.

    `corpus` is a corpus as it is saved first. `index` is a folder of `dgr index`: an index of two segments, the first
    with a removed passage, and its corpus, which has a second part and the same passage removed. `retriever` holds a
    model, its tokenizer, an index of one segment and its corpus. `candidates` and `rank_lists.jsonl` are input for
    training.
    """
    identifiers = Identifiers(tokenizer, IdentifierSettings(views=VIEWS))
    first, added = Corpus.from_passages(FIRST_PASSAGES), Corpus.from_passages(ADDED_PASSAGES)
    first.save_to_disk(folder / "corpus")
    index = FMIndex.from_corpus(first, identifiers, progress=False)
    index.save(folder / "index")
    first.save_to_disk(folder / "index" / CORPUS)
    opened = FMIndex.load(folder / "index")
    save_changed(
        folder / "index",
        "index.json",
        opened,
        opened.remove([REMOVED_ID]).add_corpus(added, identifiers, progress=False),
        removed=np.array([opened.passage_position(REMOVED_ID)]),
        added=added,
        compacted=False,
    )
    (folder / "index" / "index.lock").unlink(missing_ok=True)
    GenerativeRetriever(
        model,
        identifiers,
        index,
        corpus=first,
        settings=SearchSettings(beam_size=4, unigrams=100),
        scoring=ScoringSettings(smoothing=0.1),  # The default outweighs the counts of so small a corpus.
    ).save_pretrained(folder / "retriever")
    Candidates.from_lists(
        CANDIDATES, corpus_tokens=index.num_tokens, tokenizer_fingerprint=identifiers.fingerprint
    ).save_to_disk(folder / "candidates")
    Rankings(RANK_LISTS, "teacher").to_jsonl(folder / "rank_lists.jsonl")


def small_student(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A BART that has learnt the sentences of the first passages, so that a search with it finds them."""
    bart = make_bart(
        tokenizer,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=64,
    )
    optimizer = torch.optim.Adam(bart.parameters(), lr=0.01)
    prompts = [f"{passage.title} || body || +" for passage in FIRST_PASSAGES]
    texts = [" " + passage.text for passage in FIRST_PASSAGES]
    inputs = tokenizer(prompts, padding=True, return_tensors="pt")
    labels = tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")
    for _ in range(100):
        loss = bart(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            labels=labels["input_ids"].masked_fill(labels["attention_mask"] == 0, -100),
        ).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return bart


if __name__ == "__main__":
    target = Path(sys.argv[1])
    write_formats(target, small_student(bpe_tokenizer()), bpe_tokenizer())
    (hits,) = GenerativeRetriever.from_pretrained(target / "retriever").search(QUERY)
    found = [[hit.passage_id, hit.score, len(hit.identifiers)] for hit in hits]
    (target / "search.json").write_text(json.dumps({"query": QUERY, "hits": found}, indent=2) + "\n")
