"""Results on standard output: tables of numbers, and how they are printed."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dgr_trainer.evaluation.agreement import AgreementTable
    from dgr_trainer.evaluation.comparison import RunComparison
    from dgr_trainer.runs.statistics import RankListStatistics

Labels = Mapping[str, str]
"""The label of a run in a table, by the run's name."""


def print_result(text: str) -> None:
    """Print results on standard output; characters that its encoding lacks are replaced by question marks."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text if _can_encode(text, encoding) else text.encode(encoding, "replace").decode(encoding), flush=True)


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Print JSON on standard output, with escapes in place of all but ASCII if its encoding lacks a character."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    if not _can_encode(text, sys.stdout.encoding or "utf-8"):
        text = json.dumps(value, indent=indent)
    print(text, flush=True)


def _can_encode(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def fitted(names: Sequence[str], *tables: Callable[[Labels], list[str]]) -> list[str]:
    """Fit tables about the same runs to the terminal: where it is too narrow for their names, runs are numbered.

    Args:
        names (`Sequence[str]`): Names of the runs.
        tables (`Callable[[Labels], list[str]]`): Each makes the lines of a table with the labels it is given.

    Returns:
        `list[str]`: The lines of all tables, with an empty line between two. Output that is not for a terminal has
        the names.
    """
    width = shutil.get_terminal_size((10**6, 24)).columns
    drawn = [table({name: name for name in names}) for table in tables]
    numbers = {name: f"[{number}]" for number, name in enumerate(names, 1)}
    if max(len(line) for lines in drawn for line in lines) > width and max(map(len, names)) > len(numbers[names[-1]]):
        drawn = [table(numbers) for table in tables]
        drawn.append([f"{number} {name}" for name, number in numbers.items()])
    return [line for number, lines in enumerate(drawn) for line in ([""] if number else []) + lines]


def comparison_lines(comparison: RunComparison, digits: int, labels: Labels | None = None) -> list[str]:
    """Lines of a comparison: a block for each metric, a line for each run."""
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
        value.test and value.test.t_p_value is not None for run in comparison.runs.values() for value in run.values()
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
    """Lines about the agreement of rankings: one for each pair."""
    rows = [["agreement", f"tau@{table.k}", f"overlap@{table.k}", "queries"]]
    for pair in table.pairs:
        tau = "-" if math.isnan(pair.tau) else f"{pair.tau:.{digits}f}"
        name = f"{labels[pair.first]}, {labels[pair.second]}"
        rows.append([name, tau, f"{pair.overlap:.{digits}f}", f"{pair.queries:,}"])
    return [
        *_aligned(rows),
        "",
        "tau: Kendall's, of passages in both lists; overlap: share of the first passages.",
    ]


def statistics_lines(lists: Mapping[str, RankListStatistics], labels: Labels) -> list[str]:
    """Lines about rank lists: a column for each run."""
    rows: dict[str, list[str]] = {}
    ranks = dict.fromkeys(rank for statistics in lists.values() for rank in statistics.ranks)
    for statistics in lists.values():
        shortest, _, median, _, longest = map(str, statistics.lengths) if statistics.lengths else ["-"] * 5
        cells = {
            "queries": f"{statistics.queries:,}",
            "  with a rank list": f"{statistics.lists:,}",
            "passages in a list: median": median,
            "  shortest": shortest,
            "  longest": longest,
            "neighbours of equal score": f"{statistics.tied:.1%}",
        }
        if ranks:
            cells["judged queries with a list"] = f"{statistics.judged:,}"
            for rank in ranks:
                position = f"at {rank}" if rank[0].isdigit() else rank
                cells[f"  relevant one {position}"] = _share(statistics.ranks.get(rank, 0), statistics.judged)
            cells["best other above relevant"] = f"{statistics.above[1]:.4g}" if statistics.above else "-"
        for name, cell in cells.items():
            rows.setdefault(name, []).append(cell)
    header = ["rank lists", *(labels[name] for name in lists)]
    return _aligned([header, *([name, *cells] for name, cells in rows.items())])


def _p_value(value: float) -> str:
    return "<.001" if value < 0.0005 else f"{value:.3f}"


def _share(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total else "-"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column aligned to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for first, *rest in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([f"{first:<{widths[0]}}", *cells]))
    return lines
