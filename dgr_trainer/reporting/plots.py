"""Plots as SVG for a page: text stays text, colours are those of the page, and the bytes depend on the data alone.

Runs are told apart by line style, marker and a label at the end of the line, so that no colour is needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from html import escape
from io import StringIO
from typing import Any

from dgr_trainer.errors import MissingPackageError
from dgr_trainer.evaluation.comparison import RunMetric
from dgr_trainer.reporting.histories import Series, thinned

# Drawn in these colours, which then become those of the page, in light and dark.
_INK, _RULE = "#010203", "#040506"
_SERIES = ("#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05", "#0a0b06")
_PAGE = {_INK: "currentColor", _RULE: "var(--rule)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES, start=1)
}
_STYLES = ("-", (0, (5, 2)), (0, (1, 1.3)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)), (0, (9, 3)))
_MARKERS = ("o", "s", "^", "D", "v", "X")
_SIZE = (4.6, 2.9)
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dgr",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _INK,
    "axes.titlesize": 10.0,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "path.simplify": False,
    "text.parse_math": False,
}


def check_matplotlib() -> None:
    """Raise `MissingPackageError` if there is no matplotlib."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingPackageError('Plots need matplotlib. Install it with: pip install "dgr-trainer[plots]"') from None


def line_plot(name: str, title: str, series: Sequence[Series], styles: Sequence[int]) -> str:
    """Values over steps, a line for each run.

    Args:
        name (`str`): Distinguishes the ids of this SVG from those of others on the page.
        title (`str`): What is shown.
        series (`Sequence[Series]`): At least one.
        styles (`Sequence[int]`): The number of each one's run, by which a run looks the same in every plot.

    Returns:
        `str`: an `<svg>` element.
    """

    def draw(axes: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        labels = []
        for style, one in zip(styles, map(thinned, series), strict=True):
            position = style % len(_SERIES)
            many = len(one.steps) > 25
            axes.plot(
                one.steps,
                one.values,
                color=_SERIES[position],
                linestyle=_STYLES[position],
                linewidth=1.6,
                marker=_MARKERS[position],
                markersize=4,
                markevery=max(1, len(one.steps) // 8) if many else 1,
            )
            labels.append((one.steps[-1], one.values[-1], one.run, _SERIES[position]))
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.margins(x=0.02, y=0.08)
        _limits(axes, [value for one in series for value in one.values])
        if len(series) > 1:
            _end_labels(axes, labels)

    return _svg(name, title, draw)


def interval_plot(name: str, title: str, values: Sequence[tuple[str, RunMetric]]) -> str:
    """Means of runs with their intervals, a row for each run."""

    def draw(axes: Any) -> None:
        for row, (_, value) in enumerate(values):
            position = row % len(_SERIES)
            axes.plot([value.low, value.high], [row, row], color=_SERIES[position], linewidth=2, solid_capstyle="butt")
            axes.plot(value.mean, row, color=_SERIES[position], marker=_MARKERS[position], markersize=7)
            axes.annotate(
                f"{value.mean:.3f}", (value.mean, row), xytext=(0, 7), textcoords="offset points", ha="center"
            )
        axes.set_yticks(range(len(values)), [_short(run, 22) for run, _ in values])
        axes.set_ylim(len(values) - 0.5, -0.7)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=_RULE, linewidth=0.5)
        axes.margins(x=0.08)

    return _svg(name, title, draw, height=0.9 + 0.48 * len(values))


def difference_plot(name: str, title: str, differences: Sequence[float]) -> str:
    """What each query gained or lost, the greatest gain first."""

    def draw(axes: Any) -> None:
        ordered = sorted(differences, reverse=True)
        places = range(1, len(ordered) + 1)
        axes.fill_between(
            [edge for place in places for edge in (place - 0.5, place + 0.5)],
            [value for value in ordered for _ in range(2)],
            0,
            color=_SERIES[0],
            linewidth=0,
        )
        axes.axhline(0, color=_INK, linewidth=0.8)
        axes.set_xlabel("queries, ordered by what they gained")
        axes.set_ylim(-1.05, 1.05)
        axes.set_xlim(0.5, len(ordered) + 0.5)
        won, lost = sum(value > 0 for value in ordered), sum(value < 0 for value in ordered)
        axes.text(0.98, 0.95, f"{won} won", transform=axes.transAxes, va="top", ha="right")
        axes.text(0.02, 0.06, f"{lost} lost", transform=axes.transAxes)

    return _svg(name, title, draw)


def count_plot(name: str, title: str, counts: Sequence[tuple[str, int]]) -> str:
    """Counts by group, a bar for each."""

    def draw(axes: Any) -> None:
        total = max(1, sum(count for _, count in counts))
        for row, (_, count) in enumerate(counts):
            axes.barh(row, count, color=_SERIES[0], height=0.6)
            axes.annotate(
                f"{count:,} ({100 * count / total:.0f} %)",
                (count, row),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_yticks(range(len(counts)), [label for label, _ in counts])
        axes.set_ylim(len(counts) - 0.5, -0.5)
        axes.set_xlim(0, 1.35 * max(1, *(count for _, count in counts)))
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="y", length=0)

    return _svg(name, title, draw, height=0.5 + 0.3 * len(counts))


def _limits(axes: Any, values: Sequence[float]) -> None:
    """Shares and metrics show their whole range where that leaves the lines room; losses begin at 0 where they can."""
    low, high = min(values), max(values)
    if low >= 0 and low < 0.6 * high:
        axes.set_ylim(bottom=0)
    if high == low:
        axes.set_ylim(low - (abs(low) or 1) * 0.1, high + (abs(high) or 1) * 0.1)


def _end_labels(axes: Any, labels: Sequence[tuple[float, float, str, str]]) -> None:
    """Name each line at its end, in the order of their ends, and apart from each other."""
    low, high = axes.get_ylim()
    apart = 0.085
    ordered = sorted(range(len(labels)), key=lambda number: (labels[number][1], number))
    heights = [(labels[number][1] - low) / (high - low) for number in ordered]
    for place in range(1, len(heights)):
        heights[place] = max(heights[place], heights[place - 1] + apart)
    excess = max(0.0, heights[-1] - 1.0)
    heights[-1] -= excess
    for place in range(len(heights) - 2, -1, -1):
        heights[place] = min(heights[place], heights[place + 1] - apart)
    for number, height in zip(ordered, heights, strict=True):
        step, value, run, colour = labels[number]
        axes.annotate(
            _short(run, 18),
            (step, value),
            xytext=(1.03, height),
            textcoords=("axes fraction", "axes fraction"),
            va="center",
            color=_INK,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkB": 2},
            annotation_clip=False,
        )


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "\u2026"


def _svg(name: str, title: str, draw: Callable[[Any], None], height: float = _SIZE[1]) -> str:
    """Draw one pair of axes and return it as an element for HTML."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(_SIZE[0], height), layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0)
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        written = StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _inline(written.getvalue(), name, title)


def _inline(svg: str, name: str, title: str) -> str:
    """The `<svg>` element alone, with ids of its own, the colours of the page and a title."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\1{name}-", svg)
    for drawn, shown in _PAGE.items():
        svg = svg.replace(drawn, shown)
    head, rest = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    label = escape(title)
    return (
        f'<svg {box[0]} role="img" aria-label="{label}" class="plot"><title>{label}</title>{rest.strip()}'
    ).replace("xlink:href", "href")
