"""Searches with a student: for candidates, to tune settings, and to evaluate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from inputs import identifiers_of, index_of, questions_of, settings_of
from questions import Asked
from store import Place
from students import load_student

from dgr_trainer import GenerativeRetriever, Rankings
from dgr_trainer.evaluation.metrics import evaluate_per_query
from dgr_trainer.evaluation.tuning import tune_search
from dgr_trainer.files.compression import atomic_text, open_bytes

METRICS = ("hits@1", "hits@5", "hits@20", "hits@100", "mrr@10", "ndcg@10")
DEPTH = 100
_DIGITS = 6


def candidates_stage(place: Place) -> dict[str, Any]:
    """Search for the training questions of the ranking stage; goes on where it was interrupted."""
    asked = questions_of(place).of_ranking(place.config["questions"])
    retriever = _retriever(place, place.config["search"])
    retriever.save_candidates(place.folder / "candidates", asked.questions, place.config["k"], asked.qrels)
    return {"questions": len(asked.questions)}


def tuning_stage(place: Place) -> dict[str, Any]:
    """Fit the settings of the search to questions of the split dev."""
    asked = _held_out(place, "dev")
    tuned = tune_search(_retriever(place, {}), asked.questions, asked.qrels, progress=False, **place.config["tuning"])
    tuned.save(place.folder / "settings.json")
    tuning = tuned.to_dict()["tuning"]
    del tuning["trials"]
    return tuning


def evaluation_stage(place: Place) -> dict[str, Any]:
    """Rank the questions of a split with a student, and keep the metrics of each."""
    asked = _held_out(place, place.config["split"])
    run = _retriever(place, {}).rank(asked.questions, k=DEPTH)
    return keep_run(place, run, asked)


def keep_run(place: Place, run: Rankings, asked: Asked) -> dict[str, Any]:
    """Write a run and its metrics; returns their means."""
    run.to_trec(place.folder / "run.trec.gz", tag="run")
    values = evaluate_per_query(run, asked.qrels, list(METRICS))
    ids = list(asked.qrels)
    known = questions_of(place).with_training_questions(asked)
    per_query = {
        "query_ids": ids,
        "with_training_questions": dict(zip(asked.questions["query_id"], known, strict=True)),
        "metrics": {metric: [round(of[query_id], _DIGITS) for query_id in ids] for metric, of in values.items()},
    }
    with atomic_text(place.folder / "per_query.json.gz") as file:
        json.dump(per_query, file)
    means = {metric: sum(of.values()) / len(of) for metric, of in values.items()}
    return {"questions": len(ids), "metrics": means}


def read_per_query(place: Place) -> dict[str, Any]:
    """What `keep_run` wrote."""
    with open_bytes(place.folder / "per_query.json.gz") as file:
        values: dict[str, Any] = json.load(file)
    known = values["with_training_questions"]
    return values | {"with_training_questions": [known[query_id] for query_id in values["query_ids"]]}


def _retriever(place: Place, overrides: Mapping[str, Any]) -> GenerativeRetriever:
    search, scoring = settings_of(place)
    return GenerativeRetriever(
        load_student(str(place.input("student").folder / "model")),
        identifiers_of(place),
        index_of(place),
        settings=replace(search, **overrides),
        scoring=scoring,
    )


def _held_out(place: Place, split: str) -> Asked:
    return questions_of(place).held_out(split, place.config["questions"])
