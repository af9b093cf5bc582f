"""What rounds came to: their figures on the disk, which of them is the best, and when to stop."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgr_trainer.errors import input_errors
from dgr_trainer.files.atomic import atomic_write

if TYPE_CHECKING:
    from dgr_trainer.retrieval.retriever import GenerativeRetriever

ROUND_FILE = "round.json"
"""The file in the folder of a round that is written last."""


@dataclass(frozen=True)
class Round:
    """A finished round.

    Args:
        number (`int`): Its number; 0 is the student that the first round started from.
        metrics (`dict[str, float]`): Retrieval metrics on the dev queries after the round; empty without dev queries.
        agreement (`float`, *optional*): Kendall's tau of the student's order of its candidates and the teacher's, from
            -1 to 1: the mean over up to 1,000 queries, with the student that the round started from. `None` in round 0
            and in generation.
        new_candidates (`float`, *optional*): Share of the candidates that the round before did not have.
        new_scores (`float`, *optional*): Share of the candidates that no round before had, which the teacher scores
            for the first time. `None` in generation.
        seconds (`dict[str, float]`): What the steps took: `"search"`, `"teacher"` (or `"pairs"`), `"training"`,
            `"evaluation"`. Of a round that was interrupted, since it was last resumed.
        student (`str`, *optional*): Digest of the student's weights after the round; `None` if they were not saved.
    """

    number: int
    metrics: dict[str, float]
    agreement: float | None = None
    new_candidates: float | None = None
    new_scores: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    student: str | None = None

    def save(self, folder: Path) -> None:
        """Write it into the folder of the round, which is finished by that."""
        with atomic_write(folder / ROUND_FILE) as file:
            json.dump(asdict(self), file, indent=1)
            file.write("\n")

    @classmethod
    def load(cls, folder: Path) -> Round | None:
        """Read what `save` wrote; `None` if the round is not finished."""
        file = folder / ROUND_FILE
        if not file.is_file():
            return None
        with input_errors(f"{file} is damaged", ValueError, TypeError):
            return cls(**json.loads(file.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class RoundsResult:
    """The result of training in rounds.

    Args:
        retriever ([`GenerativeRetriever`]): The retriever that was given, with the student of the best round.
        history (`list[Round]`): The rounds, the student before the first one included.
        best (`int`): Number of the best round: that of the best metric, or the last one without dev queries.
    """

    retriever: GenerativeRetriever
    history: list[Round]
    best: int

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the best round."""
        return self.history[self.best].metrics

    def to_markdown(self) -> str:
        """The history as a Markdown table."""
        names = list(self.history[0].metrics)
        rows = [["round", *names, "agreement", "new candidates", "new scores", "seconds"]]
        for one in self.history:
            figures = [one.metrics.get(name) for name in names] + [one.agreement]
            shares = [one.new_candidates, one.new_scores]
            rows.append(
                [
                    f"{one.number} (best)" if one.number == self.best else str(one.number),
                    *("-" if figure is None else f"{figure:.3f}" for figure in figures),
                    *("-" if share is None else f"{share:.1%}" for share in shares),
                    f"{sum(one.seconds.values()):.0f}",
                ]
            )
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
            for row in rows
        ]
        return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def best_round(history: Sequence[Round], metric: str | None) -> int:
    """Number of the round with the best metric, the earliest of equal ones; the last round without a metric."""
    if metric is None:
        return history[-1].number
    return max(history, key=lambda one: (one.metrics[metric], -one.number)).number


def rounds_without_gain(history: Sequence[Round], metric: str, min_gain: float) -> int:
    """How many rounds have passed since one was better by more than `min_gain` than all before it."""
    best, passed = history[0].metrics[metric], 0
    for one in history[1:]:
        value = one.metrics[metric]
        passed = 0 if value > best + min_gain else passed + 1
        best = max(best, value)
    return passed


def read_history(folder: Path) -> list[Round]:
    """Read the finished rounds in a folder, from round 0 on, up to the first that is not finished."""
    history: list[Round] = []
    while (one := Round.load(round_folder(folder, len(history)))) is not None:
        history.append(one)
    return history


def round_folder(folder: Path, number: int) -> Path:
    """The folder of a round."""
    return folder / f"round-{number}"


def retrieval_metrics(metrics: Mapping[str, Any], names: Sequence[str]) -> dict[str, float]:
    """The metrics of these names in what a trainer's evaluation returned."""
    return {name: float(metrics[f"eval_{name}"]) for name in names}
