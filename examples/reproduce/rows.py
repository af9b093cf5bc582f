"""The graph of stages behind each row of the tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from config import OWN, Preset, Row
from questions import SPLITS, fingerprint
from store import Stage
from students import model_path


@dataclass(frozen=True)
class Cell:
    """A row with a corpus, a student and a seed, and the stages that lead to its results.

    Args:
        corpus (`str`): Name of the corpus.
        student (`str`): Name of the student; `""` for a row that has none.
        row ([`Row`]): The row.
        seed (`int`, *optional*): The seed; `None` for a row in which nothing is random.
        evaluations (`dict[str, Stage]`): The evaluation of each split.
        rounds (`list[Stage]`): Of a row in rounds, the evaluations on dev of the generation stage and of each round.
        settings (`dict[str, Any]`): The sections as they are for this row.
    """

    corpus: str
    student: str
    row: Row
    seed: int | None
    evaluations: Mapping[str, Stage]
    rounds: list[Stage]
    settings: Mapping[str, Any]

    @property
    def label(self) -> str:
        parts = (self.corpus, self.student, self.row.name, "" if self.seed is None else f"seed {self.seed}")
        return " / ".join(part for part in parts if part)

    def candidates(self) -> list[Stage]:
        """The candidates of the first round, if it is a row of a ranking stage."""
        return [stage for stage in self.evaluations["dev"].chain() if stage.kind == "candidates"][:1]

    def students(self) -> list[Stage]:
        """The stages that end with a student of the row, whose weights take most of the room on the disk."""
        return [stage for stage in self.evaluations["dev"].chain() if stage.kind in ("ranking", "best-round")]


class Graph:
    """Makes the stages of a preset's rows from its settings; nothing is computed here but digests of files.

    Args:
        preset ([`Preset`]): The preset.
        data (`Path`): Folder of the corpora.
        models (`Path`, *optional*): Folder of the checkpoints that the preset names.
    """

    def __init__(self, preset: Preset, data: Path, models: Path | None = None) -> None:
        self.preset = preset
        self.data = data
        self.models = models
        self._cached_corpus = lru_cache(self._corpus)

    def cells(
        self,
        corpora: list[str] | None = None,
        students: list[str] | None = None,
        rows: list[str] | None = None,
        seeds: list[int] | None = None,
    ) -> Iterator[Cell]:
        """The rows with each corpus, student and seed: all rows of a seed before those of the next."""
        preset = self.preset
        chosen = [row for name, row in preset.rows.items() if rows is None or name in rows]
        for number, seed in enumerate(preset.seeds if seeds is None else seeds):
            for corpus in preset.corpora if corpora is None else corpora:
                for row in chosen:
                    if row.kind == "teacher" and number == 0 and corpus in (row.corpora or [corpus]):
                        yield self._teacher_cell(corpus, row)
                for student in preset.students if students is None else students:
                    for row in chosen:
                        if row.kind != "teacher" and preset.applies(row, corpus, student):
                            yield self._student_cell(corpus, student, row, seed)

    def _corpus(self, corpus: str) -> Stage:
        folder = self.data / corpus
        if not (folder / "corpus.jsonl").exists():
            raise SystemExit(f"{folder} has no corpus.jsonl. --data is a folder with a BEIR folder for each corpus.")
        return Stage("corpus", corpus, {"name": corpus, "fingerprint": fingerprint(str(folder))})

    # Teachers

    def _teacher(self, name: str) -> dict[str, Any]:
        """A teacher's entry with the digest of its model."""
        teacher = dict(self.preset.teachers[name])
        if "model" in teacher:
            teacher["fingerprint"] = fingerprint(model_path(teacher["model"], self.models))
        return teacher

    def _teacher_run(self, corpus: str, name: str, split: str, questions: Mapping[str, Any]) -> Stage:
        teacher = self._teacher(name)
        others = {other: other for other in teacher.get("of", [])}
        if "pool" in teacher:
            others["pool"] = teacher["pool"]
        inputs = {key: self._teacher_run(corpus, other, split, questions) for key, other in others.items()}
        config = {"teacher": teacher, "split": split, "questions": _held_out(questions, split)}
        return Stage(
            "teacher-run", f"{corpus} / {name} / {split}", config, {"corpus": self._cached_corpus(corpus), **inputs}
        )

    def _teacher_cell(self, corpus: str, row: Row) -> Cell:
        student = next(iter(self.preset.students))
        settings = self.preset.resolved(corpus, student, row)
        name = self.preset.teacher_of(row, corpus)
        runs = {split: self._teacher_run(corpus, name, split, settings["questions"]) for split in SPLITS}
        return Cell(corpus, "", row, None, runs, [], {"teacher": self._teacher(name)})

    def _scores(self, label: str, name: str, questions: Mapping[str, Any], inputs: Mapping[str, Stage]) -> Stage:
        """A teacher's order of candidates."""
        teacher = self._teacher(name)
        others = {other: self._scores(label, other, questions, inputs) for other in teacher.get("of", [])}
        return Stage(
            "teacher", f"{label} / {name}", {"teacher": teacher, "questions": questions}, {**inputs, **others}
        )

    # Students

    def _student_cell(self, corpus: str, student: str, row: Row, seed: int) -> Cell:
        settings = self.preset.resolved(corpus, student, row)
        label, questions = f"{corpus} / {student} / seed {seed}", settings["questions"]
        read = {"corpus": self._cached_corpus(corpus)}
        codes = self._semantic_ids(corpus, student, read)
        base = {**read, **codes, "tokenizer": self._tokenizer(student, read, codes)}
        base["index"] = Stage("index", f"{corpus} / {student}", {}, dict(base))
        generation = Stage(
            "generation", _with_row(label, row),
            {"seed": seed, "questions": {name: questions[name] for name in ("sharing", "seed")},
             "pairs": settings["pairs"], "training": settings["generation"],
             "scratch": self.preset.students[student].get("scratch")},
            base,
        )  # fmt: skip
        given = {"search": settings["search"], "scoring": settings["scoring"]}
        tuning = settings["tuning"] or {}
        asked = {"dev": questions.get("dev"), "seed": questions["seed"]}

        def tuned(name: str, model: Stage, config: dict[str, Any], inputs: dict[str, Stage]) -> dict[str, Any]:
            """`config` and `inputs` that say how to search, after tuning with a student if the preset wants that."""
            if not tuning.get(name):
                return {"config": config, "inputs": inputs}
            stage = Stage(
                "tuning", f"{label} / {row.name}" if name == "row" else f"{_with_row(label, row)} / generation",
                {**config, "questions": asked, "tuning": tuning[name]}, {**base, "student": model, **inputs},
            )  # fmt: skip
            return {"config": {}, "inputs": {"settings": stage}}

        how = tuned("student", generation, {"settings": given}, {})
        models = [generation]
        if row.kind == "ranking":
            for number in range(row.rounds):
                models.append(self._round(label, corpus, row, settings, seed, number, models[-1], base, how))

        def evaluation(model: Stage, split: str, name: str) -> Stage:
            """Of a student; the same one in two rows has one evaluation."""
            final = tuned("row", model, how["config"], how["inputs"])
            return Stage(
                "evaluation", f"{label} / {name} / {split}",
                {**final["config"], "split": split, "questions": _held_out(questions, split)},
                {**base, "student": model, **final["inputs"]},
            )  # fmt: skip

        if row.kind != "ranking" or row.rounds == 1:
            evaluations = {split: evaluation(models[-1], split, row.name) for split in SPLITS}
            return Cell(corpus, student, row, seed, evaluations, [], settings)
        rounds = [evaluation(model, "dev", f"{row.name}, round {n}") for n, model in enumerate(models)]
        of_rounds = {f"student {n}": model for n, model in enumerate(models)}
        of_rounds |= {f"evaluation {n}": stage for n, stage in enumerate(rounds)}
        best = Stage("best-round", f"{label} / {row.name}", {"rounds": row.rounds, "metric": "ndcg@10"}, of_rounds)
        evaluations = {split: evaluation(best, split, row.name) for split in SPLITS}
        return Cell(corpus, student, row, seed, evaluations, rounds, settings)

    def _semantic_ids(self, corpus: str, student: str, read: Mapping[str, Stage]) -> dict[str, Stage]:
        """The codes of the corpus's passages, if the student generates those."""
        asked = dict(self.preset.students[student].get("semantic_ids") or {})
        if not asked:
            return {}
        config = {"teacher": self._teacher(asked.pop("teacher")), "fit": asked}
        return {"semantic_ids": Stage("semantic-ids", f"{corpus} / {student}", config, read)}

    def _tokenizer(self, student: str, read: Mapping[str, Stage], codes: Mapping[str, Stage]) -> Stage:
        of = self.preset.students[student]
        identifiers = {"identifiers": of["identifiers"]} if "identifiers" in of else {}
        if "scratch" in of:
            config = {"vocabulary": of["scratch"]["vocabulary"], **identifiers}
            return Stage("tokenizer", student, config, {**read, **codes})
        checkpoint = of["checkpoint"]
        return Stage(
            "tokenizer", student,
            {"checkpoint": checkpoint, "fingerprint": fingerprint(model_path(checkpoint, self.models)), **identifiers},
            codes,
        )  # fmt: skip

    def _round(
        self, label: str, corpus: str, row: Row, settings: Mapping[str, Any], seed: int, number: int, model: Stage,
        base: Mapping[str, Stage], how: Mapping[str, Any],
    ) -> Stage:  # fmt: skip
        """Candidates of a student, their teacher's order, and the student that learns it."""
        questions = _training(settings["questions"])
        shared = _with_row(label, row) + f" / {row.name}, round {number + 1}" * (number > 0)
        candidates = Stage(
            "candidates", shared,
            {**how["config"], **settings["candidates"], "questions": questions},
            {**base, "student": model, **how["inputs"]},
        )  # fmt: skip
        inputs = {**base, "student": model, "candidates": candidates, **how["inputs"]}
        name = self.preset.teacher_of(row, corpus)
        if name != OWN:
            read = {"corpus": base["corpus"], "candidates": candidates}
            inputs["teacher"] = self._scores(shared, name, questions, read)
        config = {
            "seed": seed + number, "questions": questions, "collator": settings["collator"],
            "training": settings["training"], "lora": settings["lora"], **how["config"],
        }  # fmt: skip
        return Stage("ranking", f"{label} / {row.name}" + (f", round {number + 1}" * (row.rounds > 1)), config, inputs)


def _with_row(label: str, row: Row) -> str:
    """The label of what rows share, with the row's name where it has its own generation stage."""
    own = {"pairs", "generation", "questions"} & row.settings.keys()
    return f"{label} / {row.name}" if own else label


def _training(questions: Mapping[str, Any]) -> dict[str, Any]:
    limits = {name: questions.get(name) for name in ("ranking", "sharing", "seed")}
    return limits if questions.get("judged") is None else {**limits, "judged": questions["judged"]}


def _held_out(questions: Mapping[str, Any], split: str) -> dict[str, Any]:
    return {name: questions.get(name) for name in (split, "seed")}
