"""Batches of queries: arguments are checked, and the work goes to compiled kernels, in threads where it is much."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, TypeVar

import numba
import numpy as np

from dgr_trainer.index import search
from dgr_trainer.index.build import SAMPLE_RATE, IndexArrays

T = TypeVar("T")

Integers = np.ndarray | Sequence[int]

# Steps through the index for which a second thread is worth its start.
_WORTH_A_THREAD = 8192


def extend(arrays: IndexArrays, low: Integers, high: Integers, tokens: Integers) -> tuple[np.ndarray, np.ndarray]:
    """See `FMIndex.extend`."""
    low, high = _as_ranges(arrays, low, high)
    tokens = _as_integers(tokens, "tokens", len(low))
    out_low, out_high = np.empty_like(low), np.empty_like(high)
    index = (arrays.blocks, arrays.levels, arrays.codes, arrays.symbol_of)

    def part(start: int, stop: int) -> int:
        return search.extend_ranges(*index, low, high, tokens, out_low, out_high, start, stop)

    _check_tokens(arrays, _in_threads(part, len(low), len(low)), tokens)
    return out_low, out_high


def find(arrays: IndexArrays, patterns: Iterable[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """See `FMIndex.find_batch`."""
    patterns = list(patterns)
    indptr = np.zeros(len(patterns) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, patterns), np.int64, len(patterns)), out=indptr[1:])
    tokens = _as_integers(list(chain.from_iterable(patterns)), "patterns")
    out_low, out_high = np.empty(len(patterns), np.int64), np.empty(len(patterns), np.int64)
    index = (arrays.blocks, arrays.levels, arrays.codes, arrays.symbol_of, arrays.symbol_rows)

    def part(start: int, stop: int) -> int:
        return search.find_patterns(*index, indptr, tokens, out_low, out_high, start, stop)

    _check_tokens(arrays, _in_threads(part, len(patterns), len(tokens)), tokens)
    return out_low, out_high


def continuations(arrays: IndexArrays, low: Integers, high: Integers) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """See `FMIndex.continuations_batch`."""
    low, high = _as_ranges(arrays, low, high)
    index = (arrays.blocks, arrays.levels, arrays.symbols, arrays.symbol_rows)

    def part(start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return search.continue_ranges(*index, low, high, start, stop)

    work = np.minimum(np.maximum(high - low, 0), len(arrays.symbols))
    parts = _in_threads(part, len(low), int(work.sum()), work)
    if len(parts) == 1:
        return parts[0]
    before = np.cumsum([0, *(len(tokens) for _, tokens, _ in parts)])
    offsets = [part_offsets[1:] + start for (part_offsets, _, _), start in zip(parts, before, strict=False)]
    return (
        np.concatenate([np.zeros(1, np.int64), *offsets]),
        np.concatenate([tokens for _, tokens, _ in parts]),
        np.concatenate([counts for _, _, counts in parts]),
    )


def locate(arrays: IndexArrays, rows: Integers, lengths: int | Integers) -> tuple[np.ndarray, np.ndarray]:
    """See `FMIndex.locate_batch`."""
    rows = _as_integers(rows, "rows")
    if isinstance(lengths, (int, np.integer)):
        lengths = np.full(len(rows), lengths, np.int64)
    lengths = _as_integers(lengths, "lengths", len(rows))
    passages, offsets = np.empty_like(rows), np.empty_like(rows)
    index = (arrays.blocks, arrays.levels, arrays.marks, arrays.samples, arrays.passage_starts)

    def part(start: int, stop: int) -> int:
        return search.locate_rows(*index, rows, lengths, passages, offsets, start, stop)

    for bad in _in_threads(part, len(rows), len(rows) * SAMPLE_RATE // 2):
        if bad >= 0 and lengths[bad] < 1:
            raise ValueError(
                f"The length of pattern {bad} is {lengths[bad]}, but a pattern that is located has at least 1 token. "
                "Give the number of tokens of the pattern each row belongs to."
            )
        if bad >= 0:
            raise IndexError(
                f"Row {rows[bad]} (number {bad}) is outside the index, which has rows 0 to {len(arrays.text) - 1}. "
                "Give rows of ranges that this index returned."
            )
    return passages, offsets


def extract(arrays: IndexArrays, passages: Integers) -> tuple[np.ndarray, np.ndarray]:
    """See `FMIndex.extract_batch`."""
    passages = _as_integers(passages, "passages")
    starts = arrays.passage_starts
    bad = np.flatnonzero((passages < 0) | (passages >= len(starts) - 1))
    if len(bad):
        raise IndexError(
            f"There is no passage {passages[bad[0]]} (number {bad[0]}): the index holds passages 0 to "
            f"{len(starts) - 2}. Use FMIndex.passage_position to find a passage by its id."
        )
    indptr = np.zeros(len(passages) + 1, np.int64)
    np.cumsum(starts[passages + 1] - starts[passages] - 1, out=indptr[1:])
    tokens = np.empty(indptr[-1], np.int64)
    search.copy_passages(arrays.text, starts, passages, indptr, tokens)
    return indptr, tokens


def _as_integers(values: Any, name: str, size: int | None = None) -> np.ndarray:
    """`values` as one row of int64."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} has {array.ndim} dimensions, but one is needed: give one flat sequence of integers.")
    if array.dtype.kind not in "iu" and len(array):
        raise TypeError(f"{name} holds values of type {array.dtype}, but integers are needed: give token ids or rows.")
    if size is not None and len(array) != size:
        raise ValueError(f"{name} has {len(array)} values where {size} are needed: give one for each.")
    return np.ascontiguousarray(array, np.int64)


def _as_ranges(arrays: IndexArrays, low: Integers, high: Integers) -> tuple[np.ndarray, np.ndarray]:
    low = _as_integers(low, "low")
    high = _as_integers(high, "high", len(low))
    size = len(arrays.text)
    bad = np.flatnonzero((low < 0) | (high < 0) | (low > size) | (high > size))
    if len(bad):
        raise ValueError(
            f"Range {bad[0]} is [{low[bad[0]]}, {high[bad[0]]}), but the index has rows 0 to {size - 1}. "
            "Give ranges that this index returned."
        )
    return low, high


def _check_tokens(arrays: IndexArrays, bad: list[int], tokens: np.ndarray) -> None:
    for place in bad:
        if place >= 0:
            raise ValueError(
                f"Token id {tokens[place]} is outside the vocabulary of the index (0 to {len(arrays.symbol_of) - 1}). "
                "Encode patterns with the tokenizer that the index was made with."
            )


def _in_threads(run: Callable[[int, int], T], size: int, work: int, weights: np.ndarray | None = None) -> list[T]:
    """Call `run(start, stop)` on the whole of a batch, or on its parts in threads where there is much to do."""
    threads = min(int(numba.config.NUMBA_NUM_THREADS), size, work // _WORTH_A_THREAD)  # type: ignore[attr-defined]
    if threads <= 1:
        return [run(0, size)]
    if weights is None:
        bounds = np.linspace(0, size, threads + 1).astype(np.int64)
    else:
        bounds = np.searchsorted(np.cumsum(weights), np.linspace(0, work, threads + 1))
        bounds[-1] = size
    # A pool of its own for each call: threads kept between calls would be missing in a forked process.
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, bounds[:-1].tolist(), bounds[1:].tolist()))
