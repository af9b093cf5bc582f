"""Runs side by side: means, intervals and tests against a baseline, as a table."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from dgr_trainer.data.grades import as_qrels
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
        low (`float`): lower end of the bootstrap interval of the mean.
        high (`float`): upper end of the interval.
        test (`PairedTest`, *optional*): the run against the baseline; `None` for the baseline, or without one.
    """

    mean: float
    low: float
    high: float
    test: PairedTest | None = None


@dataclass(frozen=True)
class RunComparison:
    """Result of [`compare_runs`].

    Args:
        runs (`dict[str, dict[str, RunMetric]]`): the metrics, by the name of the run and by the name of the metric.
        queries (`int`): number of queries.
        level (`float`): confidence level of the intervals.
        baseline (`str`, *optional*): the run that the others are tested against.
        per_query (`dict[str, dict[str, dict[str, float]]]`, *optional*): the values behind the means, by the name of a
            run, by metric and by query id.
    """

    runs: dict[str, dict[str, RunMetric]]
    queries: int
    level: float
    baseline: str | None = None
    per_query: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain dicts and numbers for JSON, without the values per query."""
        values = asdict(replace(self, per_query={}))
        del values["per_query"]
        return values

    def write_per_query(self, path: str | os.PathLike[str]) -> None:
        """Write the values per query to a tab-separated file, a line for each run and query.

        The file is written in one step: an interruption leaves the old file or none.

        Args:
            path (`str` or `os.PathLike`): the file, compressed if its name says so (`.gz`, `.zst`, `.bz2`, `.xz`). Its
                first line has the names of the columns: `run`, `query_id` and the metrics.

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
        """Return a Markdown table with a row for each run, a column for each metric, and mean and interval in a cell.

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
        """Return a LaTeX table for the package booktabs with a row for each run and a column for each metric.

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
    runs: Mapping[str, Rankings | Mapping[str, Mapping[str, float]]],
    qrels: Mapping[str, Mapping[str, int]],
    metrics: Sequence[str] = DEFAULT_METRICS,
    *,
    baseline: str | None = None,
    level: float = 0.95,
    relevance_level: int = 1,
    seed: int = 0,
    t_test: bool = False,
    ignore_identical_ids: bool = False,
) -> RunComparison:
    """Evaluate runs on the same qrels and test each against a baseline.

    Args:
        runs (`Mapping[str, Rankings | Mapping[str, Mapping[str, float]]]`): runs by name.
        qrels (`Mapping[str, Mapping[str, int]]`): relevance by query id and passage id.
        metrics (`Sequence[str]`, *optional*): see [`~evaluation.metrics.Metric`] for their names.
        baseline (`str`, *optional*): name of the run that the others are tested against; without one, nothing is
            tested.
        level (`float`, *optional*, defaults to 0.95): confidence level of the intervals.
        relevance_level (`int`, *optional*, defaults to 1): the lowest relevance that counts as relevant.
        seed (`int`, *optional*, defaults to 0): seed of intervals and tests.
        t_test (`bool`, *optional*, defaults to `False`): whether to also compute the p-value of the paired t-test. It
            needs scipy (the extra `eval`).
        ignore_identical_ids (`bool`, *optional*, defaults to `False`): whether to leave the passage that has the id of
            the query out of the lists, as BEIR does.

    Returns:
        [`RunComparison`], which prints as a table with `to_markdown()`.

    Raises:
        ValueError: if there are no runs, the baseline is not among them, or for the reasons of
            [`evaluate_per_query`].
        ImportError: if `t_test` is asked for and scipy is not installed.
    """
    if not runs:
        raise DGRValueError("There are no runs to compare. Give at least one.")
    if baseline is not None and baseline not in runs:
        raise DGRValueError(f"The baseline {baseline!r} is not among the runs {list(runs)}.")
    qrels = as_qrels(qrels)
    values = {
        name: evaluate_per_query(
            run, qrels, metrics, relevance_level=relevance_level, ignore_identical_ids=ignore_identical_ids
        )
        for name, run in runs.items()
    }
    compared: dict[str, dict[str, RunMetric]] = {}
    for name, by_metric in values.items():
        compared[name] = {}
        for metric, by_query in by_metric.items():
            test = None
            if baseline is not None and name != baseline and len(by_query) > 1:
                test = paired_test(by_query, values[baseline][metric], seed=seed, t_test=t_test)
            low, high = confidence_interval(by_query, level, seed)
            compared[name][metric] = RunMetric(math.fsum(by_query.values()) / len(by_query), low, high, test)
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
