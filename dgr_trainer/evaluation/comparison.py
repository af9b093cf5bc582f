"""Runs side by side: means, intervals and tests against a baseline, as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dgr_trainer.evaluation.metrics import DEFAULT_METRICS, evaluate_per_query
from dgr_trainer.evaluation.significance import PairedTest, confidence_interval, paired_test
from dgr_trainer.rankings import Rankings


@dataclass(frozen=True)
class RunMetric:
    """One metric of one run.

    Args:
        mean (`float`): mean over the queries of the qrels.
        low, high (`float`): ends of the bootstrap interval of the mean.
        test (`PairedTest`, *optional*): the run against the baseline; `None` for the baseline, or without one.
    """

    mean: float
    low: float
    high: float
    test: PairedTest | None = None


@dataclass(frozen=True)
class RunComparison:
    """What [`compare_runs`] found.

    Args:
        runs (`dict[str, dict[str, RunMetric]]`): by the name of a run and by metric.
        queries (`int`): number of queries.
        level (`float`): confidence level of the intervals.
        baseline (`str`, *optional*): the run that others are tested against.
    """

    runs: dict[str, dict[str, RunMetric]]
    queries: int
    level: float
    baseline: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain dicts and numbers, which JSON can hold."""
        return asdict(self)

    def to_markdown(self, *, digits: int = 3) -> str:
        """A Markdown table: a row for each run, a column for each metric, mean and interval in each cell.

        Means that differ from the baseline's with p < 0.05 in the paired randomisation test have a `*`. The p-values
        are not corrected for the number of comparisons.

        Args:
            digits (`int`, *optional*, defaults to 3): decimal places.
        """
        metrics = list(next(iter(self.runs.values())))
        rows = [["run", *metrics]]
        for name, values in self.runs.items():
            cells = [_cell(values[metric], digits) for metric in metrics]
            rows.append([name.replace("|", "\\|") + (" (baseline)" if name == self.baseline else ""), *cells])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
            for row in rows
        ]
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        note = f"{self.queries} queries; in brackets the {self.level:.0%} bootstrap interval of the mean."
        if self.baseline is not None:
            note += f" * differs from {self.baseline} with p < 0.05 (paired randomisation test)."
        return "\n".join([*lines, "", note])


def compare_runs(
    runs: Mapping[str, Rankings],
    qrels: Mapping[str, Mapping[str, int]],
    metrics: Sequence[str] = DEFAULT_METRICS,
    *,
    baseline: str | None = None,
    level: float = 0.95,
    relevance_level: int = 1,
    seed: int = 0,
) -> RunComparison:
    """Evaluate runs on the same qrels and test each against a baseline.

    Args:
        runs (`Mapping[str, Rankings]`): runs by name.
        qrels (`Mapping[str, Mapping[str, int]]`): relevance by query id and passage id.
        metrics (`Sequence[str]`, *optional*): see [`~evaluation.metrics.Metric`] for their names.
        baseline (`str`, *optional*): name of the run that others are tested against; without one, nothing is tested.
        level (`float`, *optional*, defaults to 0.95): confidence level of the intervals.
        relevance_level (`int`, *optional*, defaults to 1): the lowest relevance that is relevant.
        seed (`int`, *optional*, defaults to 0): seed of intervals and tests.

    Returns:
        [`RunComparison`], which prints as a table with `to_markdown()`.

    Raises:
        ValueError: if there are no runs, the baseline is not among them, or as [`evaluate_per_query`] does.
    """
    if not runs:
        raise ValueError("There are no runs to compare.")
    if baseline is not None and baseline not in runs:
        raise ValueError(f"The baseline {baseline!r} is not among the runs {list(runs)}.")
    values = {
        name: evaluate_per_query(run, qrels, metrics, relevance_level=relevance_level) for name, run in runs.items()
    }
    compared: dict[str, dict[str, RunMetric]] = {}
    for name, by_metric in values.items():
        compared[name] = {}
        for metric, of in by_metric.items():
            test = None
            if baseline is not None and name != baseline and len(of) > 1:
                test = paired_test(of, values[baseline][metric], seed=seed)
            low, high = confidence_interval(of, level, seed)
            compared[name][metric] = RunMetric(math.fsum(of.values()) / len(of), low, high, test)
    return RunComparison(compared, len(qrels), level, baseline)


def _cell(value: RunMetric, digits: int) -> str:
    mark = "*" if value.test is not None and value.test.randomisation_p_value < 0.05 else ""
    return f"{value.mean:.{digits}f}{mark} [{value.low:.{digits}f}, {value.high:.{digits}f}]"
