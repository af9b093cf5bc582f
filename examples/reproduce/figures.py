"""Figures of the page as SVG: rows side by side, sweeps of a setting, what rounds add. Equal results, equal bytes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import Any

import numpy as np
from claims import SeedValues

from dgr_trainer.evaluation.significance import confidence_interval
from dgr_trainer.reporting.plots import check_matplotlib

METRIC = "ndcg@10"
_SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "reproduce", "font.size": 9.0, "font.family": "sans-serif"}
_MARKERS = "os^DvX"
_OWN_ROW, _OWN, _OTHER, _TEACHER = "DGR", "#b3261e", "#333333", "#8a8a8a"
Lines = Mapping[str, list[tuple[float, float]]]


def sweeps(index: Mapping[str, Any], values: Mapping[str, Mapping[str, SeedValues]]) -> dict[str, Lines]:
    """By setting, the points of each corpus: its values and the mean of the test questions over the seeds of all."""
    points: dict[str, dict[str, float]] = defaultdict(dict)
    for name, row in index["rows"].items():
        if row["sweep"] is not None:
            points[row["sweep"]["of"]][name] = float(row["sweep"]["value"])
    found: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(dict)
    for of, by_name in points.items():
        for corpus, rows in values.items():
            run = {name: value for name, value in by_name.items() if name in rows}
            seeds = set.intersection(*(set(rows[name]) for name in run)) if run else set()
            if len(run) > 1 and seeds:
                means = {name: np.mean([rows[name][seed][METRIC] for seed in seeds]) for name in run}
                found[of][corpus] = sorted((value, float(means[name])) for name, value in run.items())
    return dict(found)


def rounds(index: Mapping[str, Any], student: str) -> Lines:
    """The mean of the dev questions after each round, by corpus and row; round 0 is the generation stage."""
    curves: dict[str, list[list[float]]] = defaultdict(list)
    for cell in index["cells"]:
        if cell["student"] == student and cell["rounds"]:
            curves[f"{cell['corpus']}, {cell['row']}"].append([of[METRIC] for of in cell["rounds"]])
    complete = {name: [one for one in of if len(one) == max(map(len, of))] for name, of in curves.items()}
    return {name: list(enumerate(np.mean(of, axis=0).tolist())) for name, of in complete.items()}


def figure(lines: Lines, label: str, questions: str) -> str:
    """An SVG of lines over the values of a setting.

    Raises:
        MissingPackageError: if matplotlib is not installed.
    """
    with _drawing((5.6, 3.4)) as (drawn, text):
        axes = drawn.subplots()
        for number, (name, points) in enumerate(lines.items()):
            marker = _MARKERS[number % len(_MARKERS)]
            axes.plot(*zip(*points, strict=True), marker=marker, markersize=5, linewidth=1.4, label=name)
        axes.set(xlabel=label, ylabel=f"nDCG@10, {questions}")
        axes.set_xticks(sorted({value for points in lines.values() for value, _ in points}))
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(y=0.15)
        axes.legend(frameon=False, fontsize=8)
    return text.getvalue()


def overview(rows: Mapping[str, Mapping[str, SeedValues]], names: Sequence[str]) -> str:
    """An SVG of the rows of each corpus: the mean over questions and seeds, with its 95 % interval over questions.

    Args:
        rows (`Mapping[str, Mapping[str, SeedValues]]`): Values of the test questions by corpus and row.
        names (`Sequence[str]`): The rows to show, from the top.

    Raises:
        MissingPackageError: if matplotlib is not installed.
    """
    names = [name for name in names if any(name in of for of in rows.values())]
    with _drawing((1.6 + 2.1 * len(rows), 0.7 + 0.23 * len(names))) as (drawn, text):
        panels = drawn.subplots(1, len(rows), sharey=True, squeeze=False)[0]
        for axes, (corpus, of) in zip(panels, rows.items(), strict=True):
            for place, name in enumerate(names):
                if name not in of:
                    continue
                values = np.mean([by_metric[METRIC] for by_metric in of[name].values()], axis=0)
                colour = _OWN if name == _OWN_ROW else _TEACHER if "None" in of[name] else _OTHER
                axes.plot(confidence_interval(values), (place, place), color=colour, linewidth=1.4)
                axes.plot(values.mean(), place, "o", markersize=5, color=colour)
            axes.set(title=corpus, xlabel="nDCG@10", ylim=(len(names) - 0.5, -0.5))
            axes.set_yticks(range(len(names)), names)
            axes.grid(axis="x", linewidth=0.4)
            axes.set_axisbelow(True)
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.tick_params(axis="y", length=0)
    return text.getvalue()


@contextmanager
def _drawing(inches: tuple[float, float]) -> Iterator[tuple[Any, StringIO]]:
    """A figure to draw on, and where its SVG is when that is done."""
    check_matplotlib()
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS):
        drawn, text = Figure(figsize=inches, layout="constrained"), StringIO()
        yield drawn, text
        FigureCanvasSVG(drawn).print_svg(text, metadata={"Date": None})
