"""Checks the arguments of batched queries and runs the compiled kernels, in threads if there is enough work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from dgr_trainer.errors import DGRIndexError, DGRTypeError, DGRValueError
from dgr_trainer.index import interleaved_walks, range_kernels
from dgr_trainer.index.index_arrays import SAMPLE_RATE
from dgr_trainer.index.kernel_threads import in_parts
from dgr_trainer.index.segment import Segment
from dgr_trainer.index.unpacked_text import MOST_TOKENS, UnpackedText, copy_passages, locate_positions

Integers = np.ndarray | Sequence[int]
Segments = Sequence[Segment]
# Offsets, tokens and counts, see `FMIndex.continuations_batch`.
Continuations = tuple[np.ndarray, np.ndarray, np.ndarray]

_LOCATE_STEPS = SAMPLE_RATE // 2  # On average.
_NO_POSITIONS = np.empty(0, np.int32)


def counts(segments: Segments, ranges: np.ndarray) -> np.ndarray:
    """See `FMIndex.counts`."""
    ranges = _as_ranges(segments, ranges)
    flat = ranges.reshape(-1, len(segments), 2)
    result = np.zeros(len(flat), np.int64)
    for number, segment in enumerate(segments):
        range_kernels.count_ranges(segment.removed.rows, flat, number, result)
    return result.reshape(ranges.shape[:-2])


def extend(segments: Segments, ranges: np.ndarray, tokens: Integers, enough: int | None) -> np.ndarray:
    """See `FMIndex.extend`."""
    ranges = _as_ranges(segments, ranges, 3)
    tokens = _as_integers(tokens, "tokens", len(ranges), (1, 2))
    table = tokens.reshape(len(ranges), -1) if len(ranges) else np.empty((0, 0), np.int64)
    if enough is not None and enough < 1:
        raise DGRValueError(f"enough is {enough}, but it must be at least 1.")
    extended = np.empty((*table.shape, len(segments), 2), np.int64)
    for number, segment in enumerate(segments):
        arrays = segment.arrays
        index = (arrays.blocks, arrays.levels, segment.removed.rows, arrays.codes, arrays.symbol_of)

        def part(start: int, stop: int, number: int = number, index: Any = index) -> int:
            limit = table.shape[1] if enough is None else enough
            return int(range_kernels.extend_ranges(*index, ranges, number, table, limit, extended, start, stop))

        _check_tokens(segments, in_parts(part, len(table), table.size), table.reshape(-1))
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
    outside = np.flatnonzero((tokens < 0) | (tokens >= len(segments[0].arrays.symbol_of)))
    _check_tokens(segments, outside[:1].tolist(), tokens)
    ranges = np.empty((len(patterns), len(segments), 2), np.int64)
    for number, segment in enumerate(segments):
        arrays = segment.arrays
        index = (
            arrays.blocks, arrays.levels, segment.removed.rows, arrays.codes, arrays.symbol_of, arrays.symbol_rows,
            segment.separator,
        )  # fmt: skip

        def part(start: int, stop: int, number: int = number, index: Any = index) -> None:
            interleaved_walks.find_patterns(*index, indptr, tokens, number, ranges, start, stop)

        in_parts(part, len(patterns), len(tokens))
    return ranges


def continuations(segments: Segments, ranges: np.ndarray) -> Continuations:
    """See `FMIndex.continuations_batch`."""
    ranges = _as_ranges(segments, ranges, 3)
    merged = _continuations_in(segments[0], ranges, 0)
    for number, segment in enumerate(segments[1:], start=1):
        more = _continuations_in(segment, ranges, number)
        merged = range_kernels.merge_continuations(*merged, *more, len(segment.arrays.symbol_of))
    return merged


def _continuations_in(segment: Segment, ranges: np.ndarray, number: int) -> Continuations:
    arrays = segment.arrays
    index = (arrays.blocks, arrays.levels, segment.removed.rows, arrays.codes, arrays.symbols, arrays.symbol_rows)

    def part(start: int, stop: int) -> Continuations:
        continuations: Continuations = range_kernels.continue_ranges(*index, ranges, number, start, stop)
        return continuations

    work = np.minimum(np.maximum(ranges[:, number, 1] - ranges[:, number, 0], 0), len(arrays.symbols))
    parts = in_parts(part, len(ranges), int(work.sum()), work)
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
        raise DGRValueError(
            f"The length of pattern {bad[0]} is {lengths[bad[0]]}, but only patterns of at least 1 token can be "
            "located. Give, for each range, the number of tokens of its pattern."
        )
    if limit is not None and limit < 0:
        raise DGRValueError(f"limit is {limit}, but it must not be negative.")
    num_left = np.full(len(ranges), np.iinfo(np.int64).max if limit is None else limit)
    occurrences = []
    base = 0
    may_unpack = _is_small(segments)
    for number, segment in enumerate(segments):
        num_rows = np.zeros(len(ranges), np.int64)
        range_kernels.count_ranges(segment.removed.rows, ranges, number, num_rows)
        num_rows = np.minimum(num_rows, num_left)
        num_left -= num_rows
        numbers = np.repeat(np.arange(len(ranges)), num_rows)
        text = segment.unpacked_text(len(numbers) * _LOCATE_STEPS) if may_unpack else None
        passages, offsets = _locate_in(segment, text, ranges[:, number, 0], num_rows, lengths[numbers])
        occurrences.append((numbers, passages + base, offsets))
        base += segment.num_passages
    if len(occurrences) == 1:
        return occurrences[0]
    numbers, passages, offsets = map(np.concatenate, zip(*occurrences, strict=True))
    order = np.argsort(numbers, kind="stable")
    return numbers[order], passages[order], offsets[order]


def _locate_in(
    segment: Segment, text: UnpackedText | None, first_rows: np.ndarray, num_rows: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Passages and offsets of the first `num_rows` suffix-array rows of ranges, without removed rows."""
    arrays, removed_rows = segment.arrays, segment.removed.rows
    rows = np.empty(len(lengths), np.int64)
    ends = np.cumsum(num_rows)
    if len(removed_rows):
        for first, end, size in zip(first_rows.tolist(), ends.tolist(), num_rows.tolist(), strict=True):
            range_kernels.remaining_rows(removed_rows, first, rows[end - size : end])
    else:
        rows[:] = np.arange(len(rows)) + np.repeat(first_rows - ends + num_rows, num_rows)
    passages, offsets = np.empty_like(rows), np.empty_like(rows)
    if text is not None:
        locate_positions(text.positions, arrays.passage_starts, rows, lengths, passages, offsets)
        return segment.remaining_numbers(passages), offsets
    index = (arrays.blocks, arrays.levels, arrays.marks, arrays.samples, arrays.passage_starts, arrays.end_passages)

    def part(start: int, stop: int) -> None:
        interleaved_walks.locate_rows(
            *index, segment.first_separator_row, rows, lengths, passages, offsets, start, stop
        )

    in_parts(part, len(rows), len(rows) * _LOCATE_STEPS)
    return segment.remaining_numbers(passages), offsets


def extract(segments: Segments, passages: Integers) -> tuple[np.ndarray, np.ndarray]:
    """See `FMIndex.extract_batch`."""
    passages = _as_integers(passages, "passages")
    bases = np.cumsum([0, *(segment.num_passages for segment in segments)])
    bad = np.flatnonzero((passages < 0) | (passages >= bases[-1]))
    if len(bad):
        raise DGRIndexError(
            f"There is no passage {passages[bad[0]]} (item {bad[0]}): the index holds passages 0 to "
            f"{bases[-1] - 1}. Use FMIndex.passage_position to find a passage by its id."
        )
    owners = np.searchsorted(bases, passages, side="right") - 1
    sizes = np.empty(len(passages), np.int64)
    by_segment = []
    for number, segment in enumerate(segments):
        items = np.flatnonzero(owners == number)
        numbers = segment.original_numbers(passages[items] - bases[number])
        starts = segment.arrays.passage_starts
        sizes[items] = starts[numbers + 1] - starts[numbers] - 1
        by_segment.append((segment, items, numbers))
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    tokens = np.empty(indptr[-1], np.int64)
    may_unpack = _is_small(segments)
    for segment, items, numbers in by_segment:
        text = segment.unpacked_text(int(sizes[items].sum())) if may_unpack else None
        _extract_from(segment, text, numbers, indptr[items], sizes[items], tokens)
    return indptr, tokens


def _extract_from(
    segment: Segment,
    text: UnpackedText | None,
    passages: np.ndarray,
    starts: np.ndarray,
    sizes: np.ndarray,
    tokens: np.ndarray,
) -> None:
    arrays = segment.arrays
    if text is not None:
        copy_passages(text.tokens, arrays.passage_starts, passages, starts, sizes, tokens)
        return
    index = (arrays.blocks, arrays.levels, arrays.symbols, arrays.symbol_rows, arrays.first_rows)

    def part(start: int, stop: int) -> None:
        interleaved_walks.read_passages(*index, passages, starts, sizes, tokens, _NO_POSITIONS, start, stop)

    in_parts(part, len(passages), int(sizes.sum()), sizes)


def _is_small(segments: Segments) -> bool:
    """Whether all segments together may be unpacked into memory."""
    return sum(segment.arrays.num_rows for segment in segments) <= MOST_TOKENS


def _as_integers(values: Any, name: str, size: int | None = None, dimensions: tuple[int, ...] = (1,)) -> np.ndarray:
    """Convert `values` to int64; raise an error if the number of dimensions, the type or the size is wrong."""
    array = np.asarray(values)
    if array.ndim not in dimensions:
        raise DGRValueError(
            f"{name} has {array.ndim} dimensions, but {' or '.join(map(str, dimensions))} "
            f"{'is' if dimensions == (1,) else 'are'} needed: give one flat sequence of integers."
        )
    if array.dtype.kind not in "iu" and array.size:
        raise DGRTypeError(f"{name} holds values of type {array.dtype}, but integers are needed.")
    if size is not None and len(array) != size:
        raise DGRValueError(f"{name} has {len(array)} values, but {size} are needed: give one for each range.")
    return np.ascontiguousarray(array, np.int64)


def _as_ranges(segments: Segments, ranges: np.ndarray, dimensions: int | None = None) -> np.ndarray:
    """Convert ranges to int64; raise an error if they cannot belong to this index."""
    ranges = np.asarray(ranges)
    if ranges.shape[-2:] != (len(segments), 2) or ranges.ndim != (dimensions or ranges.ndim):
        raise DGRValueError(
            f"The ranges have the shape {ranges.shape}, but ranges of this index have the shape "
            f"({'n' if dimensions else '...'}, {len(segments)}, 2). Give ranges that this index returned."
        )
    if ranges.dtype.kind not in "iu" and ranges.size:
        raise DGRTypeError(f"The ranges are of type {ranges.dtype}. Give ranges that this index returned, int64.")
    sizes = np.array([segment.arrays.num_rows for segment in segments], np.int64)[:, None]
    bad = np.argwhere((ranges < 0) | (ranges > sizes))
    if len(bad):
        low, high = ranges[tuple(bad[0][:-1])]
        raise DGRValueError(
            f"A range is [{low}, {high}) in segment {bad[0][-2]}, which has suffix-array rows 0 to "
            f"{sizes[bad[0][-2], 0] - 1}. Give ranges that this index returned."
        )
    return np.ascontiguousarray(ranges, np.int64)


def _check_tokens(segments: Segments, bad_positions: list[int], tokens: np.ndarray) -> None:
    for position in bad_positions:
        if position >= 0:
            raise DGRValueError(
                f"Token id {tokens[position]} is outside the vocabulary of the index (0 to "
                f"{len(segments[0].arrays.symbol_of) - 1}). Encode patterns with the tokenizer that the index was "
                "made with."
            )
