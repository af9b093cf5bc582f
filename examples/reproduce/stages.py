"""What each kind of stage does. `rows.py` says which stages a row needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inputs import identifiers_of, questions_of, semantic_ids_of, with_docids
from questions import SPLITS, read_questions
from rankers import make_teacher
from searching import DEPTH, candidates_stage, evaluation_stage, keep_run, tuning_stage
from store import Place, Work
from students import make_tokenizer, model_path
from training import generation_stage, ranking_stage
from transformers import AutoTokenizer

from dgr_trainer import Candidates, FMIndex, Rankings, SemanticIds
from dgr_trainer.runs import score_fusion


def corpus_stage(place: Place) -> dict[str, Any]:
    """Read corpus and questions, and count them."""
    questions = read_questions(str(place.store.data / place.config["name"]))
    held_out = {split: questions.held_out(split, {"seed": 0}) for split in SPLITS}
    return {
        "passages": len(questions.corpus),
        "train": len(questions.train.questions),
        **{split: len(asked.questions) for split, asked in held_out.items()},
        "test_with_training_questions": sum(questions.with_training_questions(held_out["test"])),
    }


def tokenizer_stage(place: Place) -> dict[str, Any]:
    """Find the student's tokenizer: that of its checkpoint, or one trained on the corpus; and add the codes to it."""
    codes = semantic_ids_of(place)
    if "vocabulary" in place.config:
        tokenizer = make_tokenizer(questions_of(place).corpus, place.config["vocabulary"])
    elif codes is not None:
        tokenizer = AutoTokenizer.from_pretrained(model_path(place.config["checkpoint"], place.store.models))
    else:
        return {}
    if codes is not None:
        codes.add_to(tokenizer)
    tokenizer.save_pretrained(place.folder / "tokenizer")
    return {}


def semantic_ids_stage(place: Place) -> dict[str, Any]:
    """Learn the codes of the passages from a bi-encoder's vectors."""
    corpus = questions_of(place).corpus
    teacher = make_teacher(place.config["teacher"], corpus, place.input("corpus").stage.digest, place.store)
    codes = SemanticIds.fit(teacher, progress=False, **place.config["fit"])
    codes.save(place.folder / "codes")
    lengths = [len(codes.docid_tokens(passage_id)) for passage_id in codes]
    return {"tokens": len(codes.tokens), "longest": max(lengths), "mean_length": round(sum(lengths) / len(lengths), 2)}


def index_stage(place: Place) -> dict[str, Any]:
    """Index what the student generates, as its tokens: titles, substrings and pseudo-queries, or docids."""
    corpus = with_docids(place, questions_of(place).corpus)
    identifiers = identifiers_of(place)
    index = FMIndex.from_corpus(corpus, identifiers, progress=False)
    index.save(place.folder / "index")
    return {"tokens": index.num_tokens}


def teacher_stage(place: Place) -> dict[str, Any]:
    """Let a teacher rank the candidates of the training questions."""
    asked = questions_of(place).of_ranking(place.config["questions"])
    found = Candidates.load_from_disk(place.input("candidates").folder / "candidates").to_rankings()
    k = max((len(ids) for ids, _ in found.values()), default=1)
    run = _ranked(place, asked.questions, found, k, "teacher.trec.gz")
    run.to_trec(place.folder / "teacher.trec.gz", tag="teacher")
    return {"pairs": sum(len(ids) for ids, _ in run.values())}


def teacher_run_stage(place: Place) -> dict[str, Any]:
    """Let a teacher search the corpus, or rerank another one's results, for the questions of a split."""
    config = place.config
    asked = questions_of(place).held_out(config["split"], config["questions"])
    pool = None
    if place.has("pool"):
        pool = Rankings.from_trec(place.input("pool").folder / "run.trec.gz").top(config["teacher"]["depth"])
    return keep_run(place, _ranked(place, asked.questions, pool, DEPTH, "run.trec.gz"), asked)


def _ranked(place: Place, questions: Any, pool: Rankings | None, k: int, file: str) -> Rankings:
    teacher: Mapping[str, Any] = place.config["teacher"]
    if teacher["kind"] == "fusion":
        runs = [Rankings.from_trec(place.input(name).folder / file) for name in teacher["of"]]
        return score_fusion(runs, **teacher.get("options") or {}).top(k)
    corpus = place.input("corpus")
    ranker = make_teacher(teacher, questions_of(place).corpus, corpus.stage.digest, place.store)
    ranked: Rankings = ranker.rank(questions, pool, k=k)
    return ranked


def best_round_stage(place: Place) -> dict[str, Any]:
    """Take the student of the round that is best on dev, or the one before the first round if none is better."""
    metric = place.config["metric"]
    numbers = range(place.config["rounds"] + 1)
    values = [place.input(f"evaluation {number}").result["metrics"][metric] for number in numbers]
    best = values.index(max(values))  # The first of equal ones.
    model = place.folder / "model"
    model.unlink(missing_ok=True)
    model.symlink_to(Path("..") / place.input(f"student {best}").folder.name / "model")
    return {"round": best, metric: values}


WORK: dict[str, Work] = {
    "corpus": corpus_stage,
    "semantic-ids": semantic_ids_stage,
    "tokenizer": tokenizer_stage,
    "index": index_stage,
    "generation": generation_stage,
    "tuning": tuning_stage,
    "candidates": candidates_stage,
    "teacher": teacher_stage,
    "ranking": ranking_stage,
    "best-round": best_round_stage,
    "teacher-run": teacher_run_stage,
    "evaluation": evaluation_stage,
}
