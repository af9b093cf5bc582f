"""How certain a mean is, and whether two means differ by more than chance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgr_trainer.data.ids import as_id
from dgr_trainer.data.texts import is_missing
from dgr_trainer.errors import DGRTypeError, DGRValueError, MissingPackageError

Values = Mapping[str, float] | Sequence[float] | np.ndarray
_CHUNK_VALUES = 2**22


def confidence_interval(
    values: Values, level: float = 0.95, seed: int = 0, resamples: int = 5000
) -> tuple[float, float]:
    """Compute the bootstrap interval of a mean: the middle `level` of the means of samples drawn with replacement.

    Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 13 (the percentile interval).

    Args:
        values (`Mapping[str, float]` or `Sequence[float]`): one value a query.
        level (`float`, *optional*, defaults to 0.95): share of the means inside the interval, between 0 and 1.
        seed (`int`, *optional*, defaults to 0): the same seed and values give the same interval.
        resamples (`int`, *optional*, defaults to 5000): number of samples.

    Returns:
        `tuple[float, float]`: lower and upper end.

    Raises:
        ValueError: if there are no values, a value is not finite, or an argument is out of range.
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
        randomisation_p_value (`float`): two-sided p-value of the paired randomisation test.
        t_p_value (`float`, *optional*): two-sided p-value of the paired t-test, if it was asked for.
    """

    queries: int
    difference: float
    t: float
    randomisation_p_value: float
    t_p_value: float | None = None


def paired_test(a: Values, b: Values, *, seed: int = 0, resamples: int = 10_000, t_test: bool = False) -> PairedTest:
    """Test whether two systems differ, with the paired randomisation test and optionally the paired t-test.

    The randomisation test counts how often the mean difference is at least as large when the two values of each query
    are swapped at random. If all 2^n swaps are at most `resamples`, it tries all of them and is exact. Both tests are
    two-sided.

    Source: Smucker, Allan and Carterette (2007), A Comparison of Statistical Significance Tests for Information
    Retrieval Evaluation.

    Args:
        a (`Mapping[str, float]` or `Sequence[float]`): the first system's values, one a query. Mappings are paired by
            query id, and both need the same ids; sequences are paired by position.
        b (`Mapping[str, float]` or `Sequence[float]`): the second system's values.
        seed (`int`, *optional*, defaults to 0): the same seed and values give the same p-value.
        resamples (`int`, *optional*, defaults to 10000): number of random swaps.
        t_test (`bool`, *optional*, defaults to `False`): whether to compute the p-value of the t-test. It needs scipy
            (the extra `eval`).

    Returns:
        [`PairedTest`]

    Raises:
        TypeError: if one is a mapping and the other is not.
        ValueError: if they cannot be paired, there are fewer than two pairs, or a value is not finite.
        ImportError: if `t_test` is asked for and scipy is not installed.
    """
    student_t = _student_t() if t_test else None
    if isinstance(a, Mapping) != isinstance(b, Mapping):
        raise DGRTypeError(
            "One system has its values by query id and the other does not. Give both as mappings or both as sequences."
        )
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        a, b = ({as_id(query, "query", "values"): value for query, value in of.items()} for of in (a, b))
        if a.keys() != b.keys():
            alone = sorted(a.keys() ^ b.keys())
            raise DGRValueError(
                f"{len(alone)} queries have a value in only one of the two systems, such as {alone[0]!r}. "
                "Evaluate both with the same qrels."
            )
        _check_present(b, "b")
        b = [b[query_id] for query_id in a]
    first, second = _array(a, "a"), _array(b, "b")
    if len(first) != len(second):
        raise DGRValueError(f"The systems have {len(first)} and {len(second)} values, which cannot be paired.")
    if len(first) < 2:
        raise DGRValueError("There is only one query, but a test needs at least two.")
    if resamples < 1:
        raise DGRValueError(f"resamples is {resamples}, but at least one random swap is needed.")
    differences = first - second
    count = len(differences)
    mean = math.fsum(differences) / count
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    if error <= 1e-12 * float(np.abs(differences).max()):
        t = 0.0 if mean == 0 else math.copysign(math.inf, mean)
    else:
        t = mean / error
    t_p_value = None if student_t is None else 2 * float(student_t.sf(abs(t), count - 1))
    return PairedTest(count, mean, t, _randomisation(differences, seed, resamples), t_p_value)


def _student_t() -> Any:
    """Student's t distribution of scipy."""
    try:
        from scipy.stats import t
    except ImportError as error:
        raise MissingPackageError(
            "The p-value of the paired t-test needs scipy, which is not installed. Install it with "
            'pip install "dgr-trainer[eval]", or leave t_test out: the randomisation test needs no other package.'
        ) from error
    return t


def _randomisation(differences: np.ndarray, seed: int, resamples: int) -> float:
    differences = differences[differences != 0]  # Swapping equal values changes nothing.
    count = len(differences)
    if count == 0:
        return 1.0
    observed = abs(float(differences.sum()))
    # Sums in another order differ in the last digits.
    threshold = observed - 1e-9 * float(np.abs(differences).sum())
    if count < 63 and 2**count <= resamples:
        swaps = np.arange(2**count)[:, None] >> np.arange(count) & 1
        return float((np.abs((1 - 2 * swaps) @ differences) >= threshold).mean())
    generator = np.random.default_rng(seed)
    extreme = 0
    for rows in _chunks(resamples, count):
        kept = generator.integers(0, 2, (rows, count), dtype=np.int8) * 2 - 1
        extreme += int((np.abs(kept @ differences) >= threshold).sum())
    return (extreme + 1) / (resamples + 1)


def _check_present(values: Mapping[str, float], name: str) -> None:
    """Raise a `ValueError` that names a query whose value is missing."""
    missing = next((query_id for query_id, value in values.items() if is_missing(value)), None)
    if missing is not None:
        raise DGRValueError(f"{name}: the value of query {missing!r} is {values[missing]}. Every query needs one.")


def _array(values: Values, name: str) -> np.ndarray:
    if isinstance(values, Mapping):
        _check_present(values, name)
    array = np.asarray(list(values.values()) if isinstance(values, Mapping) else values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise DGRValueError(
            f"{name} has the shape {array.shape}, but a list of at least one number is needed, one for each query."
        )
    if not np.isfinite(array).all():
        raise DGRValueError(f"{name} contains {array[~np.isfinite(array)][0]}, but every value has to be finite.")
    return array


def _chunks(resamples: int, width: int) -> Iterator[int]:
    """Yield numbers of rows that add up to `resamples`, so that each chunk of rows of that width fits in memory."""
    rows = max(1, _CHUNK_VALUES // width)
    for start in range(0, resamples, rows):
        yield min(rows, resamples - start)
