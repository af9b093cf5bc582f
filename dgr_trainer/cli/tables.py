"""Tables of numbers for the terminal."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dgr_trainer.evaluation.agreement import AgreementTable
    from dgr_trainer.evaluation.comparison import RunComparison
    from dgr_trainer.runs.statistics import RankListStatistics

Labels = Mapping[str, str]
"""What a run is called in a table, by its name."""


def fitted(names: Sequence[str], *tables: Callable[[Labels], list[str]]) -> list[str]:
    """Tables about the same runs, which are numbered where the terminal is too narrow for their names.

    Args:
        names (`Sequence[str]`): Names of the runs.
        tables (`Callable[[Labels], list[str]]`): Each makes the lines of a table with the labels it is given.

    Returns:
        `list[str]`: The lines of all, with an empty one between two tables. Output that goes to no terminal has the
        names.
    """
    width = shutil.get_terminal_size((10**6, 24)).columns
    drawn = [table({name: name for name in names}) for table in tables]
    numbers = {name: f"[{number}]" for number, name in enumerate(names, 1)}
    if max(len(line) for lines in drawn for line in lines) > width and max(map(len, names)) > len(numbers[names[-1]]):
        drawn = [table(numbers) for table in tables]
        drawn.append([f"{number} {name}" for name, number in numbers.items()])
    return [line for place, lines in enumerate(drawn) for line in ([""] if place else []) + lines]


def comparison_lines(comparison: RunComparison, digits: int, labels: Labels | None = None) -> list[str]:
    """A comparison as lines of text: a block for each metric, a line for each run."""
    labels = labels or {name: name for name in comparison.runs}
    width = max(3, *(len(labels[name]) for name in comparison.runs))
    number = digits + 2
    first = next(iter(comparison.runs))
    interval = f"{comparison.level:.0%} interval"
    cell = max(2 * number + 3, len(interval))
    metrics = list(comparison.runs[first])
    label = max(6, *(len(metric) for metric in metrics))
    head = f"{'metric':<{label}}  {'run':<{width}}  {'mean':>{number}}  {interval:<{cell}}"
    tested = comparison.baseline is not None
    t_tested = any(
        value.test and value.test.t_p_value is not None for of in comparison.runs.values() for value in of.values()
    )
    tests_head = f"  {'differs':>{number + 1}}  {'p':<5}{'  p(t)' if t_tested else ''}" if tested else ""
    lines = [(head + tests_head).rstrip()]
    for metric in metrics:
        for name, values in comparison.runs.items():
            value = values[metric]
            between = f"{value.low:.{digits}f} - {value.high:.{digits}f}"
            line = f"{metric if name == first else '':<{label}}  {labels[name]:<{width}}  "
            line += f"{value.mean:>{number}.{digits}f}  {between:<{cell}}"
            if value.test is not None:
                line += f"  {value.test.difference:>+{number + 1}.{digits}f}"
                line += f"  {_p_value(value.test.randomisation_p_value)}"
                if value.test.t_p_value is not None:
                    line += f"  {_p_value(value.test.t_p_value)}"
            lines.append(line.rstrip())
    lines += ["", f"{comparison.queries:,} queries; bootstrap intervals of the mean."]
    if comparison.baseline is not None:
        note = "; p(t): paired t-test" if t_tested else ""
        lines.append(f"p: paired randomisation test against {labels[comparison.baseline]}{note}.")
    return lines


def agreement_lines(table: AgreementTable, digits: int, labels: Labels) -> list[str]:
    """Agreement of rankings as lines of text: a line for each pair."""
    rows = [["agreement", f"tau@{table.k}", f"overlap@{table.k}", "queries"]]
    for pair in table.pairs:
        tau = "-" if math.isnan(pair.tau) else f"{pair.tau:.{digits}f}"
        name = f"{labels[pair.first]}, {labels[pair.second]}"
        rows.append([name, tau, f"{pair.overlap:.{digits}f}", f"{pair.queries:,}"])
    return [
        *_aligned(rows),
        "",
        "tau: Kendall's, of passages both rank; overlap: share of first ones in both.",
    ]


def statistics_lines(lists: Mapping[str, RankListStatistics], labels: Labels) -> list[str]:
    """Statistics of rank lists as lines of text: a column for each run."""
    rows: dict[str, list[str]] = {}
    ranks = dict.fromkeys(rank for one in lists.values() for rank in one.ranks)
    for one in lists.values():
        shortest, _, median, _, longest = map(str, one.lengths) if one.lengths else ["-"] * 5
        cells = {
            "queries": f"{one.queries:,}",
            "  with a rank list": f"{one.lists:,}",
            "passages in a list: median": median,
            "  shortest": shortest,
            "  longest": longest,
            "neighbours of equal score": f"{one.tied:.1%}",
        }
        if ranks:
            cells["judged queries with a list"] = f"{one.judged:,}"
            for rank in ranks:
                place = f"at {rank}" if rank[0].isdigit() else rank
                cells[f"  relevant one {place}"] = _share(one.ranks.get(rank, 0), one.judged)
            cells["best other above relevant"] = f"{one.above[1]:.4g}" if one.above else "-"
        for name, cell in cells.items():
            rows.setdefault(name, []).append(cell)
    return _aligned([["rank lists", *(labels[name] for name in lists)], *([name, *of] for name, of in rows.items())])


def _p_value(value: float) -> str:
    return "<.001" if value < 0.0005 else f"{value:.3f}"


def _share(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total else "-"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for first, *rest in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([f"{first:<{widths[0]}}", *cells]))
    return lines
