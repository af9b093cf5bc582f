"""Teachers by the `kind` that a preset gives them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from store import Store
from students import model_path

from dgr_trainer import (
    BiEncoderTeacher,
    BM25Teacher,
    Corpus,
    CrossEncoderTeacher,
    FunctionTeacher,
    Passage,
    PyseriniTeacher,
)

KINDS = ("bm25", "pyserini", "bi-encoder", "cross-encoder", "fusion", "random")


def make_teacher(config: Mapping[str, Any], corpus: Corpus, corpus_digest: str, store: Store) -> Any:
    """A teacher that ranks the corpus, or given candidates.

    What it computes about passages and pairs is kept in the output folder and shared among stages.

    Args:
        config (`Mapping[str, Any]`): `kind`, `options` (arguments of the class), and `model` where it has one.
        corpus (`Corpus`): The passages, without the training questions.
        corpus_digest (`str`): Names the corpus in the folders of what is shared.
        store (`Store`): Knows these folders, and where the models are.
    """
    kind, options = config["kind"], config.get("options") or {}
    if kind == "bm25":
        return BM25Teacher(corpus, progress=False, **options)
    if kind == "pyserini":
        folder = store.shared("lucene", corpus_digest)
        return PyseriniTeacher(corpus, index_dir=folder, progress=False, **options)
    if kind == "random":
        return FunctionTeacher(_random_scores(config["seed"]), corpus, name="random", progress=False)
    model = model_path(config["model"], store.models)
    if kind == "bi-encoder":
        folder = store.shared("vectors", corpus_digest, config["fingerprint"], repr(sorted(options.items())))
        folder.parent.mkdir(parents=True, exist_ok=True)
        return BiEncoderTeacher(model, corpus, vectors=folder, progress=False, **options)
    if kind == "cross-encoder":
        cache = store.shared("scores", config["fingerprint"])
        cache.parent.mkdir(parents=True, exist_ok=True)
        return CrossEncoderTeacher(model, corpus, cache=cache, progress=False, **options)
    raise SystemExit(f"A teacher is of kind {kind!r}; use one of {', '.join(KINDS)}.")


def _random_scores(seed: int) -> Any:
    """A score for each pair that depends on the seed and the texts alone: an order that means nothing."""

    def scores(query: str, passages: list[Passage]) -> Sequence[float]:
        digests = (hashlib.sha256(f"{seed}\0{query}\0{passage.id}".encode()).digest() for passage in passages)
        return [int.from_bytes(digest[:6], "little") / 2**48 for digest in digests]

    return scores
