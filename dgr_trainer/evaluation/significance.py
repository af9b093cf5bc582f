"""How sure a mean is, and whether two means differ by more than chance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dgr_trainer.errors import DGRTypeError, DGRValueError

Values = Mapping[str, float] | Sequence[float] | np.ndarray
_CHUNK_VALUES = 2**22


def confidence_interval(
    values: Values, level: float = 0.95, seed: int = 0, resamples: int = 5000
) -> tuple[float, float]:
    """Bootstrap interval of a mean: the middle `level` of the means of samples drawn with replacement.

    Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 13 (the percentile interval).

    Args:
        values (`Mapping[str, float]` or `Sequence[float]`): one value a query.
        level (`float`, *optional*, defaults to 0.95): how much of the means the interval holds, between 0 and 1.
        seed (`int`, *optional*, defaults to 0): the same seed and values give the same interval.
        resamples (`int`, *optional*, defaults to 5000): number of samples.

    Returns:
        `tuple[float, float]`: lower and upper end.

    Raises:
        ValueError: if there are no values, one is not finite, or an argument is out of range.
    """
    if not 0 < level < 1:
        raise DGRValueError(f"level is {level}, but it has to be between 0 and 1, such as 0.95.")
    array = _array(values, "values")
    if resamples < 1:
        raise DGRValueError(f"resamples is {resamples}, but at least one sample is needed.")
    if array.min() == array.max():
        return float(array[0]), float(array[0])
    generator = np.random.default_rng(seed)
    means = np.concatenate(
        [
            array[generator.integers(0, len(array), (rows, len(array)))].mean(1)
            for rows in _chunks(resamples, len(array))
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class PairedTest:
    """Two systems compared on the same queries.

    Args:
        queries (`int`): number of queries.
        difference (`float`): mean of the first minus mean of the second.
        t (`float`): t statistic of the differences.
        t_p_value (`float`): two-sided p-value of the paired t-test.
        randomisation_p_value (`float`): two-sided p-value of the paired randomisation test.
    """

    queries: int
    difference: float
    t: float
    t_p_value: float
    randomisation_p_value: float


def paired_test(a: Values, b: Values, *, seed: int = 0, resamples: int = 10_000) -> PairedTest:
    """Test whether two systems differ: the paired t-test and the paired randomisation test, both two-sided.

    The randomisation test asks how often the mean difference is at least as large when each query's two values are
    swapped at random. Up to 2^n <= `resamples` it takes all swaps, and is exact.

    Source: Smucker, Allan and Carterette (2007), A Comparison of Statistical Significance Tests for Information
    Retrieval Evaluation.

    Args:
        a, b (`Mapping[str, float]` or `Sequence[float]`): one value a query. Mappings are paired by query id, and have
            to have the same ones; sequences are paired by position.
        seed (`int`, *optional*, defaults to 0): the same seed and values give the same p-value.
        resamples (`int`, *optional*, defaults to 10000): number of random swaps.

    Returns:
        [`PairedTest`]

    Raises:
        TypeError: if one is a mapping and the other is not.
        ValueError: if they cannot be paired, there are fewer than two pairs, or a value is not finite.
    """
    if isinstance(a, Mapping) != isinstance(b, Mapping):
        raise DGRTypeError(
            "Of two systems one has its values by query id and the other has not. Give both the same way."
        )
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if a.keys() != b.keys():
            alone = sorted(a.keys() ^ b.keys())
            raise DGRValueError(
                f"{len(alone)} queries have a value in only one of the two systems, such as {alone[0]!r}. "
                "Evaluate both with the same qrels."
            )
        b = [b[query_id] for query_id in a]
    first, second = _array(a, "a"), _array(b, "b")
    if len(first) != len(second):
        raise DGRValueError(f"The systems have {len(first)} and {len(second)} values, which cannot be paired.")
    if len(first) < 2:
        raise DGRValueError("There is one query only. A test needs at least two.")
    if resamples < 1:
        raise DGRValueError(f"resamples is {resamples}, but at least one is needed.")
    differences = first - second
    count = len(differences)
    mean = math.fsum(differences) / count
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    if error <= 1e-12 * float(np.abs(differences).max()):
        t = 0.0 if mean == 0 else math.copysign(math.inf, mean)
    else:
        t = mean / error
    return PairedTest(count, mean, t, _two_sided_t(t, count - 1), _randomisation(differences, seed, resamples))


def _randomisation(differences: np.ndarray, seed: int, resamples: int) -> float:
    differences = differences[differences != 0]  # swapping equal values changes nothing
    count = len(differences)
    if count == 0:
        return 1.0
    observed = abs(float(differences.sum()))
    threshold = observed - 1e-9 * float(np.abs(differences).sum())  # sums in another order differ in the last digits
    if count < 63 and 2**count <= resamples:
        swaps = np.arange(2**count)[:, None] >> np.arange(count) & 1
        return float((np.abs((1 - 2 * swaps) @ differences) >= threshold).mean())
    generator = np.random.default_rng(seed)
    extreme = 0
    for rows in _chunks(resamples, count):
        kept = generator.integers(0, 2, (rows, count), dtype=np.int8) * 2 - 1
        extreme += int((np.abs(kept @ differences) >= threshold).sum())
    return (extreme + 1) / (resamples + 1)


def _two_sided_t(t: float, freedom: int) -> float:
    """P(|T| >= |t|) of Student's t distribution: the regularised incomplete beta function I_x(freedom / 2, 1 / 2)."""
    if math.isinf(t):
        return 0.0
    return _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t), t * t / (freedom + t * t))


def _incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """I_x(a, b) with `rest` = 1 - x, by its continued fraction (Abramowitz and Stegun 26.5.8; Lentz's method)."""
    if x <= 0 or rest <= 0:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly
        return 1.0 - _incomplete_beta(b, a, rest, x)
    front = a * math.log(x) + b * math.log(rest) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    tiny = 1e-300
    c, d = 1.0, 1.0 / _away_from_zero(1.0 - (a + b) * x / (a + 1), tiny)
    value = d
    for m in range(1, 10_000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / _away_from_zero(1.0 + term * d, tiny)
            c = _away_from_zero(1.0 + term / c, tiny)
            value *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return math.exp(front) * value / a


def _away_from_zero(value: float, tiny: float) -> float:
    return tiny if abs(value) < tiny else value


def _array(values: Values, name: str) -> np.ndarray:
    array = np.asarray(list(values.values()) if isinstance(values, Mapping) else values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise DGRValueError(
            f"{name} has the shape {array.shape}, but one value a query is needed, and at least one query."
        )
    if not np.isfinite(array).all():
        raise DGRValueError(f"{name} holds {array[~np.isfinite(array)][0]}, but every value has to be finite.")
    return array


def _chunks(resamples: int, width: int) -> Iterator[int]:
    """Numbers of rows, together `resamples`, so that a chunk of rows of that width stays small in memory."""
    rows = max(1, _CHUNK_VALUES // width)
    for start in range(0, resamples, rows):
        yield min(rows, resamples - start)
