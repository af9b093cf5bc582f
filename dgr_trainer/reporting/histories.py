"""What trainings logged, as series for plots and sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dgr_trainer.reporting.training_runs import TrainingRun

MOST_POINTS = 300
"""A longer series is drawn as the means of so many neighbours."""

TERMS = {
    "loss": ("Loss", "What is minimised: the weighted sum of the terms, or the loss of pairs."),
    "eval_loss": ("Loss on other queries", "The same on the queries of the evaluation."),
    "loss_ranking": ("Ranking loss", "How far the student is from the order that is taught; unweighted."),
    "loss_generation": ("Generation loss", "Of the identifiers of the relevant passages; unweighted."),
    "rank_accuracy": ("Pairs in the teacher's order", "Share of the pairs that the student orders as its teacher."),
    "kendall_tau": (
        "Agreement with the teacher (Kendall's tau)",
        "1: its order; 0: chance; \u22121: reversed.",
    ),
    "violated_margins": ("Violated margins", "Share of the pairs that are closer than their margin asks for."),
    "learning_rate": ("Learning rate", ""),
}


@dataclass(frozen=True)
class Series:
    """Values of one quantity of one run: `steps` ascending, a value for each."""

    run: str
    steps: list[float]
    values: list[float]


def series_of(run: TrainingRun, key: str) -> Series | None:
    """The values logged under a name; of a step that was logged twice, the last. `None` if there are none."""
    values = {}
    for entry in run.history:
        value = entry.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            values[float(entry.get("step", 0))] = float(value)
    if not values:
        return None
    steps = sorted(values)
    return Series(run.name, steps, [values[step] for step in steps])


def all_series(runs: Sequence[TrainingRun], key: str) -> list[Series]:
    """The series of the runs that logged this."""
    return [series for run in runs if (series := series_of(run, key)) is not None]


def metric_keys(runs: Sequence[TrainingRun]) -> list[str]:
    """Names of the retrieval metrics that were logged, such as `eval_ndcg@10`."""
    keys = {key: None for run in runs for entry in run.history for key in entry if key.startswith("eval_")}
    return [key for key in keys if "@" in key or key in ("eval_mrr", "eval_ndcg", "eval_map")]


def not_finite(run: TrainingRun) -> int | None:
    """The first step with a loss that is not a finite number; `None` if there is none."""
    for entry in run.history:
        value = entry.get("loss", 0.0)
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            return int(entry.get("step", 0))
    return None


def ends(series: Series) -> tuple[float, float]:
    """The level at the beginning and at the end: means of the first and the last tenth of the values."""
    count = max(1, len(series.values) // 10)
    return math.fsum(series.values[:count]) / count, math.fsum(series.values[-count:]) / count


def thinned(series: Series) -> Series:
    """A series of at most `MOST_POINTS` points: means of neighbours."""
    size = -(-len(series.steps) // MOST_POINTS)
    if size <= 1:
        return series
    blocks = range(0, len(series.steps), size)
    return Series(
        series.run,
        [series.steps[min(start + size, len(series.steps)) - 1] for start in blocks],
        [math.fsum(block) / len(block) for start in blocks if (block := series.values[start : start + size])],
    )
