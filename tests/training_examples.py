"""Candidates, rank lists and trainers for the sample corpus."""

import random
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import datasets
from sample_corpus import PASSAGES, QRELS, QUERIES
from tiny_models import make_bart
from transformers import PreTrainedTokenizerBase

from dgr_trainer.candidates import Candidate, Candidates, MatchedIdentifier
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.training.arguments import DistillationTrainingArguments
from dgr_trainer.training.collator import DistillationCollator
from dgr_trainer.training.trainer import DistillationGenerativeRetrievalTrainer

CORPUS_TOKENS = 3_000_000_000  # Of Wikipedia: so large that random models, too, find identifiers likelier than chance.
TITLES = {passage.id: passage.title for passage in PASSAGES}
# Transformers before 5.23 know the argument by its old name.
_ARGUMENTS = [field.name for field in fields(DistillationTrainingArguments)]
CHECKPOINTING = "activation_checkpointing" if "activation_checkpointing" in _ARGUMENTS else "gradient_checkpointing"


def query_dataset() -> datasets.Dataset:
    return datasets.Dataset.from_dict({"query_id": list(QUERIES), "query": list(QUERIES.values())})


def make_candidates(identifiers: Identifiers, seed: int = 0) -> Candidates:
    """Ten candidates a query, with a title, substrings and pseudo-queries that really occur in them."""
    rng = random.Random(seed)
    segments = dict(zip((p.id for p in PASSAGES), identifiers.encode_segments(PASSAGES), strict=True))
    lists = {}
    for query_id in QUERIES:
        others = [passage.id for passage in PASSAGES if passage.id not in QRELS[query_id]]
        chosen = list(QRELS[query_id]) + rng.sample(others, 10 - len(QRELS[query_id]))
        rng.shuffle(chosen)
        found = []
        for place, passage_id in enumerate(chosen):
            own = segments[passage_id]
            starts = [rng.randrange(len(own.body) - 4) for _ in range(4)]
            spans = {tuple(own.body[start : start + rng.randint(1, 4)]) for start in starts}
            matched = [MatchedIdentifier("title", identifiers.target("title", own.title), 1, 9.0)]
            matched += [MatchedIdentifier("substring", ids, rng.randint(1, 5), 3.0) for ids in sorted(spans)]
            for ids in own.pseudo_queries[:1]:
                matched.append(MatchedIdentifier("pseudo_query", identifiers.target("pseudo_query", ids), 1, 2.0))
            found.append(Candidate(passage_id, 100.0 - place, tuple(matched)))
        lists[query_id] = tuple(found)
    return Candidates.from_lists(lists, corpus_tokens=CORPUS_TOKENS, tokenizer_fingerprint=identifiers.fingerprint)


def make_rankings(seed: int = 1) -> Rankings:
    """A teacher that ranks all passages for every query, the relevant ones highest."""
    rng = random.Random(seed)
    return Rankings(
        {query_id: {p.id: rng.random() + QRELS[query_id].get(p.id, 0) for p in PASSAGES} for query_id in QUERIES}
    )


def make_collator(
    tokenizer: PreTrainedTokenizerBase, kind: str = "candidates", **settings: Any
) -> DistillationCollator:
    identifiers = Identifiers(tokenizer)
    passages = make_candidates(identifiers) if kind == "candidates" else TITLES
    # Lists that are drawn anew in each epoch.
    settings = {"qrels": QRELS, "rankings": make_rankings(), "list_length": 6, "sampling": "dgr_paper", **settings}
    return DistillationCollator(identifiers, passages, **settings)


def make_arguments(folder: Path, **settings: Any) -> DistillationTrainingArguments:
    settings = {
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "max_steps": 3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        **settings,
    }
    return DistillationTrainingArguments(output_dir=str(folder), **settings)


def make_trainer(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    make_model: Callable[..., Any] = make_bart,
    model: Any = None,
    collator: DistillationCollator | None = None,
    train_dataset: Any = None,
    trainer_settings: dict[str, Any] | None = None,
    **arguments: Any,
) -> DistillationGenerativeRetrievalTrainer:
    return DistillationGenerativeRetrievalTrainer(
        model=make_model(tokenizer) if model is None else model,
        args=make_arguments(folder, **arguments),
        data_collator=make_collator(tokenizer) if collator is None else collator,
        train_dataset=query_dataset() if train_dataset is None else train_dataset,
        **(trainer_settings or {}),
    )
