"""Runs side by side: means, intervals and tests against a baseline, as a table."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from dgr_trainer.errors import DGRValueError
from dgr_trainer.evaluation.metrics import DEFAULT_METRICS, evaluate_per_query
from dgr_trainer.evaluation.significance import PairedTest, confidence_interval, paired_test
from dgr_trainer.files.compression import atomic_text
from dgr_trainer.runs.rankings import Rankings


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
        per_query (`dict[str, dict[str, dict[str, float]]]`, *optional*): the values behind the means, by the name of a
            run, by metric and by query id.
    """

    runs: dict[str, dict[str, RunMetric]]
    queries: int
    level: float
    baseline: str | None = None
    per_query: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The same without the values per query, as plain dicts and numbers, which JSON can hold."""
        values = asdict(replace(self, per_query={}))
        del values["per_query"]
        return values

    def write_per_query(self, path: str | os.PathLike[str]) -> None:
        """Write the values per query, whole or not at all: tab-separated, a line for each run and query.

        Args:
            path (`str` or `os.PathLike`): the file (compressed if named `.gz` or `.zst`). Its first line names the
                columns: run, query and the metrics.

        Raises:
            ValueError: if the comparison does not have the values.
        """
        if not self.per_query:
            raise DGRValueError("This comparison has no values per query. Make it with compare_runs.")
        with atomic_text(path) as file:
            metrics = list(next(iter(self.per_query.values())))
            file.write("\t".join(["run", "query_id", *metrics]) + "\n")
            for name, by_metric in self.per_query.items():
                for query_id in next(iter(by_metric.values())):
                    values = [repr(by_metric[metric][query_id]) for metric in metrics]
                    file.write("\t".join([name, query_id, *values]) + "\n")

    def to_markdown(self, *, digits: int = 3) -> str:
        """A Markdown table: a row for each run, a column for each metric, mean and interval in each cell.

        Means that differ from the baseline's with p < 0.05 in the paired randomisation test have a `*`. The p-values
        are not corrected for the number of comparisons.

        Args:
            digits (`int`, *optional*, defaults to 3): decimal places.
        """
        metrics = self._metrics()
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
        return "\n".join([*lines, "", self._note()])

    def to_latex(self, *, digits: int = 3) -> str:
        """A LaTeX table for the package booktabs: a row for each run, a column for each metric.

        The best mean of each metric is bold. Means that differ from the baseline's with p < 0.05 in the paired
        randomisation test have a `*`; the p-values are not corrected for the number of comparisons.

        Args:
            digits (`int`, *optional*, defaults to 3): decimal places.
        """
        metrics = self._metrics()
        best = {metric: max(values[metric].mean for values in self.runs.values()) for metric in metrics}
        lines = [
            f"\\begin{{tabular}}{{l{'r' * len(metrics)}}}",
            "\\toprule",
            " & ".join(["run", *map(_latex, metrics)]) + r" \\",
            "\\midrule",
        ]
        for name, values in self.runs.items():
            cells = [_latex(name)]
            for metric in metrics:
                mean = f"{values[metric].mean:.{digits}f}"
                mean = f"\\textbf{{{mean}}}" if values[metric].mean == best[metric] else mean
                cells.append(mean + ("$^{*}$" if _differs(values[metric]) else ""))
            lines.append(" & ".join(cells) + r" \\")
        return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", f"% {self._note(intervals=False)}"])

    def _metrics(self) -> list[str]:
        return list(next(iter(self.runs.values())))

    def _note(self, *, intervals: bool = True) -> str:
        note = f"{self.queries} queries"
        note += f"; in brackets the {self.level:.0%} bootstrap interval of the mean." if intervals else "."
        if self.baseline is not None:
            note += f" * differs from {self.baseline} with p < 0.05 (paired randomisation test)."
        return note


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
        raise DGRValueError("There are no runs to compare.")
    if baseline is not None and baseline not in runs:
        raise DGRValueError(f"The baseline {baseline!r} is not among the runs {list(runs)}.")
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
    return RunComparison(compared, len(qrels), level, baseline, values)


def _differs(value: RunMetric) -> bool:
    return value.test is not None and value.test.randomisation_p_value < 0.05


_LATEX = str.maketrans({**{sign: f"\\{sign}" for sign in "&%$#_{}"}, "~": r"\textasciitilde{}"} | {
    "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"})  # fmt: skip


def _latex(text: str) -> str:
    return text.translate(_LATEX)


def _cell(value: RunMetric, digits: int) -> str:
    mark = "*" if _differs(value) else ""
    return f"{value.mean:.{digits}f}{mark} [{value.low:.{digits}f}, {value.high:.{digits}f}]"
