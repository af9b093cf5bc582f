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
Segments = Sequence[IndexArrays]

# Steps through the index for which a second thread is worth its start.
_WORTH_A_THREAD = 8192


def counts(segments: Segments, ranges: np.ndarray) -> np.ndarray:
    """See `FMIndex.counts`."""
    ranges = _as_ranges(segments, ranges)
    return np.maximum(ranges[..., 1] - ranges[..., 0], 0).sum(axis=-1)


def extend(segments: Segments, ranges: np.ndarray, tokens: Integers, enough: int | None) -> np.ndarray:
    """See `FMIndex.extend`."""
    ranges = _as_ranges(segments, ranges, 3)
    tokens = _as_integers(tokens, "tokens", len(ranges), (1, 2))
    table = tokens.reshape(len(ranges), -1) if len(ranges) else np.empty((0, 0), np.int64)
    if enough is not None and enough < 1:
        raise ValueError(f"enough is {enough}, but at least 1 token has to be looked for. Give a number from 1 on.")
    extended = np.empty((*table.shape, len(segments), 2), np.int64)
    for number, arrays in enumerate(segments):
        index = (arrays.blocks, arrays.levels, arrays.codes, arrays.symbol_of)

        def part(start: int, stop: int, number: int = number, index: Any = index) -> int:
            wanted = table.shape[1] if enough is None else enough
            return search.extend_ranges(*index, ranges, number, table, wanted, extended, start, stop)

        _check_tokens(arrays, _in_threads(part, len(table), table.size), table.reshape(-1))
    return extended.reshape(*tokens.shape, len(segments), 2)


def find(segments: Segments, patterns: Iterable[Sequence[int]] | np.ndarray) -> np.ndarray:
    """See `FMIndex.find_batch`."""
    if isinstance(patterns, np.ndarray) and patterns.ndim == 2:
        indptr = np.arange(len(patterns) + 1, dtype=np.int64) * patterns.shape[1]
        tokens = _as_integers(patterns.reshape(-1), "patterns")
    else:
        patterns = list(patterns)
        indptr = np.zeros(len(patterns) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, patterns), np.int64, len(patterns)), out=indptr[1:])
        tokens = _as_integers(list(chain.from_iterable(patterns)), "patterns")
    found = np.empty((len(patterns), len(segments), 2), np.int64)
    for number, arrays in enumerate(segments):
        index = (arrays.blocks, arrays.levels, arrays.codes, arrays.symbol_of, arrays.symbol_rows)

        def part(start: int, stop: int, number: int = number, index: Any = index) -> int:
            return search.find_patterns(*index, indptr, tokens, number, found, start, stop)

        _check_tokens(arrays, _in_threads(part, len(patterns), len(tokens)), tokens)
    return found


def continuations(segments: Segments, ranges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """See `FMIndex.continuations_batch`."""
    ranges = _as_ranges(segments, ranges, 3)
    (arrays,) = segments
    index = (arrays.blocks, arrays.levels, arrays.symbols, arrays.symbol_rows)

    def part(start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return search.continue_ranges(*index, ranges, 0, start, stop)

    work = np.minimum(np.maximum(ranges[:, 0, 1] - ranges[:, 0, 0], 0), len(arrays.symbols))
    parts = _in_threads(part, len(ranges), int(work.sum()), work)
    if len(parts) == 1:
        return parts[0]
    before = np.cumsum([0, *(len(tokens) for _, tokens, _ in parts)])
    offsets = [part_offsets[1:] + start for (part_offsets, _, _), start in zip(parts, before, strict=False)]
    return (
        np.concatenate([np.zeros(1, np.int64), *offsets]),
        np.concatenate([tokens for _, tokens, _ in parts]),
        np.concatenate([counts for _, _, counts in parts]),
    )


def locate(
    segments: Segments, ranges: np.ndarray, lengths: int | Integers, limit: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """See `FMIndex.locate_batch`."""
    ranges = _as_ranges(segments, ranges, 3)
    if isinstance(lengths, (int, np.integer)):
        lengths = np.full(len(ranges), lengths, np.int64)
    lengths = _as_integers(lengths, "lengths", len(ranges))
    bad = np.flatnonzero(lengths < 1)
    if len(bad):
        raise ValueError(
            f"The length of pattern {bad[0]} is {lengths[bad[0]]}, but a pattern that is located has at least 1 "
            "token. Give the number of tokens of the pattern each range belongs to."
        )
    if limit is not None and limit < 0:
        raise ValueError(f"limit is {limit}, but no pattern has fewer than 0 occurrences. Give a number from 0 on.")
    (arrays,) = segments
    wanted = counts(segments, ranges)
    if limit is not None:
        wanted = np.minimum(wanted, limit)
    numbers = np.repeat(np.arange(len(ranges)), wanted)
    rows = np.arange(len(numbers)) + np.repeat(ranges[:, 0, 0] - np.cumsum(wanted) + wanted, wanted)
    passages, offsets = np.empty_like(rows), np.empty_like(rows)
    index = (arrays.blocks, arrays.levels, arrays.marks, arrays.samples, arrays.passage_starts)

    def part(start: int, stop: int) -> None:
        search.locate_rows(*index, rows, lengths[numbers], passages, offsets, start, stop)

    _in_threads(part, len(rows), len(rows) * SAMPLE_RATE // 2)
    return numbers, passages, offsets


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


def _as_integers(values: Any, name: str, size: int | None = None, dimensions: tuple[int, ...] = (1,)) -> np.ndarray:
    """`values` as int64, with as many dimensions as are allowed."""
    array = np.asarray(values)
    if array.ndim not in dimensions:
        raise ValueError(
            f"{name} has {array.ndim} dimensions, but {' or '.join(map(str, dimensions))} "
            f"{'is' if dimensions == (1,) else 'are'} needed: give one flat sequence of integers."
        )
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"{name} holds values of type {array.dtype}, but integers are needed: give token ids or rows.")
    if size is not None and len(array) != size:
        raise ValueError(f"{name} has {len(array)} values where {size} are needed: give one for each.")
    return np.ascontiguousarray(array, np.int64)


def _as_ranges(segments: Segments, ranges: np.ndarray, dimensions: int | None = None) -> np.ndarray:
    """Check that ranges may be of this index."""
    ranges = np.asarray(ranges)
    if ranges.shape[-2:] != (len(segments), 2) or ranges.ndim != (dimensions or ranges.ndim):
        raise ValueError(
            f"The ranges have the shape {ranges.shape}, but those of this index have the shape "
            f"({'n' if dimensions else '...'}, {len(segments)}, 2). Give ranges that this index returned."
        )
    if ranges.dtype.kind not in "iu" and ranges.size:
        raise TypeError(f"The ranges are of type {ranges.dtype}. Give ranges that this index returned, int64.")
    sizes = np.array([len(arrays.text) for arrays in segments], np.int64)[:, None]
    bad = np.argwhere((ranges < 0) | (ranges > sizes))
    if len(bad):
        low, high = ranges[tuple(bad[0][:-1])]
        raise ValueError(
            f"A range is [{low}, {high}) in segment {bad[0][-2]}, which has rows 0 to {sizes[bad[0][-2], 0] - 1}. "
            "Give ranges that this index returned."
        )
    return np.ascontiguousarray(ranges, np.int64)


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
