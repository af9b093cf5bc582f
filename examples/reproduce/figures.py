"""Figures of the page as SVG: sweeps of a setting, and what rounds add. Equal results give equal bytes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from io import StringIO
from typing import Any

import numpy as np
from claims import SeedValues

from dgr_trainer.reporting.plots import check_matplotlib

METRIC = "ndcg@10"
_SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "reproduce", "font.size": 9.0, "font.family": "sans-serif"}
_MARKERS = "os^DvX"
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
    check_matplotlib()
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS):
        drawn = Figure(figsize=(5.6, 3.4), layout="constrained")
        axes = drawn.subplots()
        for number, (name, points) in enumerate(lines.items()):
            marker = _MARKERS[number % len(_MARKERS)]
            axes.plot(*zip(*points, strict=True), marker=marker, markersize=5, linewidth=1.4, label=name)
        axes.set(xlabel=label, ylabel=f"nDCG@10, {questions}")
        axes.set_xticks(sorted({value for points in lines.values() for value, _ in points}))
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(y=0.15)
        axes.legend(frameon=False, fontsize=8)
        text = StringIO()
        FigureCanvasSVG(drawn).print_svg(text, metadata={"Date": None})
    return text.getvalue()
