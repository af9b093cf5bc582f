"""Fusion of several rankings into one, by rank or by score."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from dgr_trainer.errors import DGRValueError
from dgr_trainer.runs.rankings import Rankings, as_rankings


def reciprocal_rank_fusion(
    runs: Sequence[Rankings],
    *,
    weights: Sequence[float] | None = None,
    constant: float = 60.0,
    name: str | None = None,
) -> Rankings:
    """Fuse rankings by rank: a passage's score is the sum of `weight / (constant + rank)` over the lists it is in.

    Source: Cormack, Clarke and Buettcher (2009), Reciprocal Rank Fusion outperforms Condorcet and individual Rank
    Learning Methods.

    Args:
        runs (`Sequence[Rankings]`): The rankings. A query is fused from the runs that have it.
        weights (`Sequence[float]`, *optional*, defaults to 1 for each run): Weight of each run, not negative.
        constant (`float`, *optional*, defaults to 60.0): At least 0; the larger, the less the first ranks differ.
        name (`str`, *optional*): Name of the fused rankings.

    Raises:
        ValueError: if there are no runs, or weights or constant are out of range.
    """
    if not constant >= 0:
        raise DGRValueError(f"constant is {constant}, but it has to be 0 or more.")
    return _fused(runs, weights, lambda scores: 1.0 / (constant + np.arange(1, len(scores) + 1)), 0.0, name)


def score_fusion(
    runs: Sequence[Rankings],
    *,
    normalisation: str = "min-max",
    weights: Sequence[float] | None = None,
    name: str | None = None,
) -> Rankings:
    """Fuse rankings by score: a passage's score is the weighted sum of its normalised scores.

    Scores of different rankers have different scales, so those of each list are normalised first. A passage that a
    list lacks gets the lowest normalised score of that list.

    Source: Fox and Shaw (1994), Combination of Multiple Searches (CombSUM); z-scores as in Montague and Aslam (2001),
    Relevance Score Normalization for Metasearch.

    Args:
        runs (`Sequence[Rankings]`): The rankings. A query is fused from the runs that have it.
        normalisation (`str`, *optional*, defaults to `"min-max"`):
            `"min-max"` scales the scores of a list to the range from 0 to 1, `"z-score"` to mean 0 and standard
            deviation 1, `"none"` leaves them unchanged. Equal scores all become 1 with `"min-max"` and 0 with
            `"z-score"`.
        weights (`Sequence[float]`, *optional*, defaults to 1 for each run): Weight of each run, not negative.
        name (`str`, *optional*): Name of the fused rankings.

    Raises:
        ValueError: if there are no runs, there is no such normalisation, or weights are out of range.

    Example:

    ```python
    >>> from dgr_trainer.runs import Rankings, score_fusion
    >>> bm25 = Rankings({"q": {"a": 12.0, "b": 8.0, "c": 4.0}})
    >>> cross_encoder = Rankings({"q": {"b": 0.9, "a": 0.1}})
    >>> score_fusion([bm25, cross_encoder])["q"].passage_ids
    ('b', 'a', 'c')

    ```
    """
    if normalisation not in _NORMALISATIONS:
        raise DGRValueError(f"There is no normalisation {normalisation!r}. There are {', '.join(_NORMALISATIONS)}.")
    return _fused(runs, weights, _NORMALISATIONS[normalisation], None, name)


def _min_max(scores: np.ndarray) -> np.ndarray:
    # Divided before they are subtracted: the span of finite scores may be infinite.
    scale = max(1.0, float(np.abs(scores).max()))
    span = scores[0] / scale - scores[-1] / scale
    return np.ones(len(scores)) if span == 0 else (scores / scale - scores[-1] / scale) / span


def _z_score(scores: np.ndarray) -> np.ndarray:
    scaled = scores / max(1.0, float(np.abs(scores).max()))
    deviation = scaled.std()
    return np.zeros(len(scores)) if scores[0] == scores[-1] or deviation == 0 else (scaled - scaled.mean()) / deviation


_NORMALISATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "min-max": _min_max,
    "z-score": _z_score,
    "none": lambda scores: scores,
}


def _fused(
    runs: Sequence[Rankings],
    weights: Sequence[float] | None,
    values_of: Callable[[np.ndarray], np.ndarray],
    missing: float | None,
    name: str | None,
) -> Rankings:
    """Fuse by sums of weighted values.

    Args:
        runs (`Sequence[Rankings]`): The rankings.
        weights (`Sequence[float]`, *optional*): Weight of each run.
        values_of (`Callable[[np.ndarray], np.ndarray]`): Turns the scores of a list, best first, into values.
        missing (`float`, *optional*): Value of a passage that a list lacks. By default the list's lowest value.
        name (`str`, *optional*): Name of the fused rankings.
    """
    if not runs:
        raise DGRValueError("There are no rankings to fuse.")
    runs = [as_rankings(run) for run in runs]
    weights = [1.0] * len(runs) if weights is None else list(weights)
    if len(weights) != len(runs) or not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise DGRValueError(f"weights is {weights}, but {len(runs)} runs need as many finite weights of 0 or more.")
    fused: dict[str, dict[str, float]] = {}
    for query_id in dict.fromkeys(query_id for run in runs for query_id in run):
        lists: list[tuple[dict[str, float], float]] = []  # values by passage, and the value of a missing one
        for run, weight in zip(runs, weights, strict=True):
            ranked_ids, scores = run[query_id] if query_id in run else ((), np.empty(0))
            if ranked_ids:
                values = weight * values_of(scores)
                floor = float(values.min()) if missing is None else missing
                lists.append((dict(zip(ranked_ids, values.tolist(), strict=True)), floor))
        passage_ids = dict.fromkeys(passage_id for values, _ in lists for passage_id in values)
        # fsum: the sum does not depend on the order of the runs
        fused[query_id] = {id: math.fsum(values.get(id, floor) for values, floor in lists) for id in passage_ids}
    return Rankings(fused, name)
