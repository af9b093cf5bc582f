"""Numbers as readers want them."""

from __future__ import annotations

import math


def number(value: float | int | None, digits: int = 3) -> str:
    """A number with so many significant digits: `1,234`, `0.0123`, `1.2e-08`; a dash for none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "\u2013"
    if isinstance(value, int) or value == int(value):
        return f"{int(value):,}".replace("-", "\u2212") if abs(value) < 1e15 else f"{value:.{digits}g}"
    if 1e-4 <= abs(value) < 10**digits - 0.5:  # From there it is rounded to one more digit.
        return f"{value:.{digits}g}".replace("-", "\u2212")
    return f"{value:,.0f}".replace("-", "\u2212") if abs(value) >= 1 else f"{value:.{digits - 1}e}"


def points(value: float) -> str:
    """A difference of a metric between 0 and 1, in points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "\u2212")


def share(value: float) -> str:
    """A share in percent; only none is `0 %`, and only all is `100 %`."""
    if 0 < value < 0.001:
        return "< 0.1\u00a0%"
    if 0.999 < value < 1:
        return "> 99.9\u00a0%"
    return f"{100 * value:.0f}\u00a0%" if 0.0995 < value < 0.9905 or value in (0, 1) else f"{100 * value:.1f}\u00a0%"


def p_value(value: float) -> str:
    """A p-value: `p = 0.012`, or `p < 0.001`."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def duration(seconds: float | None) -> str:
    """Seconds as people say them."""
    if seconds is None:
        return "\u2013"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def memory(size: float | None) -> str:
    """Bytes as GB, MB or kB."""
    if size is None:
        return "\u2013"
    if size < 1e6:
        return f"{size / 1e3:.1f} kB"
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
