"""Numbers for a model card: given as a mapping, or as the comparison that `dgr evaluate --json` prints."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

from dgr_trainer.errors import DGRTypeError, DGRValueError, input_errors


class Comparison(Protocol):
    """What `compare_runs` returns."""

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain dicts and numbers."""
        ...


Metrics: TypeAlias = Mapping[str, Any] | Comparison | str | os.PathLike[str]


@dataclass(frozen=True)
class Measurement:
    """A metric that was measured.

    Args:
        name (`str`): The metric, such as `hits@10`.
        value (`float`): Its value.
        low (`float`, *optional*): Lower end of its interval.
        high (`float`, *optional*): Upper end.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Measurements:
    """What was measured on a data set.

    Args:
        dataset (`str`): Name of the data set.
        values (`tuple[Measurement, ...]`): The metrics.
        queries (`int`, *optional*): Number of queries.
        level (`float`, *optional*): Confidence level of the intervals.
    """

    dataset: str
    values: tuple[Measurement, ...]
    queries: int | None = None
    level: float | None = None


def read_measurements(
    metrics: Metrics | None, evaluated_on: str | None, metrics_run: str | None = None
) -> Measurements | None:
    """The numbers that a caller gives for a model card.

    Args:
        metrics (`Mapping`, `RunComparison`, `str` or `os.PathLike`, *optional*): Values by metric, a comparison of
            runs, or a JSON file of one of them.
        evaluated_on (`str`, *optional*): Name of the data set on which they were measured.
        metrics_run (`str`, *optional*): In a comparison of several runs, the run of this model.

    Returns:
        [`Measurements`]: the numbers; `None` if there are none.

    Raises:
        ValueError: if a value is not a finite number, or it is not said what they are about.
        FileNotFoundError: if the file is not there.
    """
    if metrics is None:
        if evaluated_on is not None or metrics_run is not None:
            raise DGRValueError("evaluated_on and metrics_run say what metrics are about. Give metrics, too.")
        return None
    if not evaluated_on:
        raise DGRValueError(
            "metrics are given, but not the data set that they were measured on. Give its name as evaluated_on, such "
            "as 'BeIR/nq' or 'our support questions'."
        )
    where, given = "metrics", cast(Any, metrics)
    if isinstance(given, (str, os.PathLike)):
        where = os.fspath(given)
        with input_errors(f"{where} is not the JSON of metrics", ValueError):
            given = json.loads(Path(given).read_text(encoding="utf-8"))
    elif hasattr(given, "to_dict"):
        given = given.to_dict()
    if not isinstance(given, Mapping):
        raise DGRTypeError(f"{where} is a {type(given).__name__}. Give values by metric, or a comparison of runs.")
    if isinstance(given.get("runs"), Mapping):
        return _of_comparison(given, evaluated_on, metrics_run, where)
    if metrics_run is not None:
        raise DGRValueError(f"metrics_run is {metrics_run!r}, but {where} has no runs. Leave it out.")
    values = tuple(Measurement(str(name), _number(value, name, where)) for name, value in given.items())
    if not values:
        raise DGRValueError(f"{where} has no metrics. Give at least one, such as {{'hits@10': 0.5}}.")
    return Measurements(evaluated_on, values)


def _of_comparison(
    comparison: Mapping[str, Any], evaluated_on: str, metrics_run: str | None, where: str
) -> Measurements:
    runs = comparison["runs"]
    if metrics_run is None and len(runs) == 1:
        metrics_run = next(iter(runs))
    if metrics_run not in runs:
        raise DGRValueError(
            f"{where} compares the runs {', '.join(runs) or '(none)'}. Say which of them is this model's with "
            "metrics_run."
        )
    with input_errors(f"{where} is not a comparison of runs", KeyError, TypeError, AttributeError):
        values = tuple(
            Measurement(
                str(name),
                _number(value["mean"], name, where),
                _number(value["low"], name, where),
                _number(value["high"], name, where),
            )
            for name, value in runs[metrics_run].items()
        )
    return Measurements(evaluated_on, values, comparison.get("queries"), comparison.get("level"))


def _number(value: Any, name: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise DGRValueError(f"{where}: {name} is {value!r}. A metric is a finite number; leave out what is not one.")
    return float(value)
