"""A corpus with its questions: which are trained on, tuned on and tested on.

The training questions of a passage are its pseudo-queries, so the index holds them; a search for candidates leaves out
the text of the question that it searches for. The questions of the other splits are never seen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset

from dgr_trainer import Corpus, Passage, read_qrels, read_queries, split_queries
from dgr_trainer.files.fingerprints import path_fingerprint

Qrels = dict[str, dict[str, int]]
SPLITS = ("dev", "test")


class Asked(NamedTuple):
    """Questions and their judgements."""

    questions: Dataset
    qrels: Qrels


class Questions:
    """Passages and questions of a BEIR folder with the splits train, dev and test."""

    def __init__(self, folder: Path) -> None:
        passages = list(Corpus.read(folder))
        self.train = _split(folder, "train")
        asked_of = defaultdict(list)
        for row in self.train.questions:
            for passage_id in self.train.qrels[row["query_id"]]:
                asked_of[passage_id].append(row["query"])
        self.passages = passages
        self.corpus = Corpus.from_passages(
            Passage(p.id, p.title, p.text, (*p.pseudo_queries, *asked_of[p.id])) for p in passages
        )
        self._folder = folder

    def held_out(self, split: str, limits: Mapping[str, Any]) -> Asked:
        """The questions of a split, a random sample if there are more than `limits` say."""
        return _sample(_split(self._folder, split), limits.get(split), limits["seed"])

    def of_generation(self, limits: Mapping[str, Any]) -> Asked:
        """The training questions of the generation stage."""
        return self._parts(limits)[0]

    def of_ranking(self, limits: Mapping[str, Any]) -> Asked:
        """The training questions of the ranking stage, with the judgements of at most `limits["judged"]` of them."""
        part = self._parts(limits)[-1]
        asked, judged = (_sample(part, limits.get(name), limits["seed"]) for name in ("ranking", "judged"))
        # Both are drawn alike: a stage of fewer questions has those that another one knows the judgements of.
        return Asked(asked.questions, {i: judged.qrels[i] for i in asked.questions["query_id"] if i in judged.qrels})

    def corpus_of_generation(self, limits: Mapping[str, Any]) -> Corpus:
        """The corpus that pairs are made from: without the questions that the generation stage is not to see."""
        if limits["sharing"] == "shared":
            return self.corpus
        asked_of, (questions, qrels) = defaultdict(list), self.of_generation(limits)
        for row in questions:
            for passage_id in qrels[row["query_id"]]:
                asked_of[passage_id].append(row["query"])
        return Corpus.from_passages(
            Passage(p.id, p.title, p.text, (*p.pseudo_queries, *asked_of[p.id])) for p in self.passages
        )

    def with_training_questions(self, asked: Asked) -> list[bool]:
        """Of each question, whether a relevant passage is also that of a training question."""
        known = {passage_id for relevant in self.train.qrels.values() for passage_id in relevant}
        return [not known.isdisjoint(asked.qrels[query_id]) for query_id in asked.questions["query_id"]]

    def _parts(self, limits: Mapping[str, Any]) -> list[Asked]:
        if limits["sharing"] == "shared":
            return [self.train]
        if limits["sharing"] != "disjoint":
            raise SystemExit(f"questions.sharing is {limits['sharing']!r}; use shared or disjoint.")
        parts = split_queries(self.train.questions, seed=limits["seed"])
        return [Asked(part, {i: self.train.qrels[i] for i in part["query_id"]}) for part in parts]


def _split(folder: Path, split: str) -> Asked:
    qrels = read_qrels(folder, split)
    qrels = {query_id: {p: grade for p, grade in of.items() if grade > 0} for query_id, of in qrels.items()}
    qrels = {query_id: of for query_id, of in qrels.items() if of}
    questions = read_queries(folder, split).filter(lambda row: row["query_id"] in qrels)
    return Asked(questions, {query_id: qrels[query_id] for query_id in questions["query_id"]})


def _sample(asked: Asked, most: int | None, seed: int) -> Asked:
    if most is None or most >= len(asked.questions):
        return asked
    questions = asked.questions.shuffle(seed=seed).select(range(most))
    return Asked(questions, {query_id: asked.qrels[query_id] for query_id in questions["query_id"]})


@lru_cache(maxsize=2)
def read_questions(folder: str) -> Questions:
    return Questions(Path(folder))


@lru_cache
def fingerprint(path: str) -> str:
    """A digest of a file or folder; of what is neither, such as a name on the hub, the name."""
    return str(path_fingerprint(path).get("sha256", path))[:16]
