"""Compiled kernels that count, extend and merge ranges of suffix-array rows.

`removed_rows` is a bit vector of the rows whose passage was removed; it is empty if no passage was. A range in which
all rows are removed counts as empty. Kernels with `start` and `stop` process the items [start, stop) of a batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dgr_trainer.compilation import compiled
from dgr_trainer.index.bit_vector import rank_and_bit
from dgr_trainer.index.wavelet_matrix import (
    child_range,
    distinct_symbols,
    extend_range,
)

# Levels of the wavelet matrix whose nodes are cached while a range is extended by many tokens.
_CACHED_LEVELS = 8


@compiled
def count_remaining(removed_rows: np.ndarray, low: int, high: int) -> int:
    """Number of rows in [low, high) whose passages were not removed."""
    if low >= high:
        return 0
    if len(removed_rows) == 0:
        return high - low
    before, _ = rank_and_bit(removed_rows, 0, low)
    after, _ = rank_and_bit(removed_rows, 0, high)
    count: int = high - low - (after - before)
    return count


@compiled
def count_ranges(removed_rows: np.ndarray, ranges: np.ndarray, segment: int, counts: np.ndarray) -> None:
    """Add the number of remaining rows of each range to `counts`."""
    for index in range(len(ranges)):
        counts[index] += count_remaining(removed_rows, ranges[index, segment, 0], ranges[index, segment, 1])


@compiled
def remaining_rows(removed_rows: np.ndarray, low: int, rows: np.ndarray) -> None:
    """Fill `rows` with the first remaining rows from `low` on."""
    row = low
    for index in range(len(rows)):
        if len(removed_rows):
            while rank_and_bit(removed_rows, 0, row)[1]:
                row += 1
        rows[index] = row
        row += 1


@compiled
def extend_ranges(
    blocks: np.ndarray,
    levels: np.ndarray,
    removed_rows: np.ndarray,
    codes: np.ndarray,
    symbol_of: np.ndarray,
    ranges: np.ndarray,
    segment: int,
    tokens: np.ndarray,
    enough: int,
    extended: np.ndarray,
    start: int,
    stop: int,
) -> int:
    """Extend the ranges [start, stop) in one segment by several tokens each.

    The first steps of all tokens of a range visit the same few nodes of the wavelet matrix, so these are cached.

    `ranges` (`np.ndarray` of int64, shape `(n, segments, 2)`) is extended by `tokens` (`np.ndarray` of int64, shape
    `(n, m)`). Once `enough` tokens of a range occur in this segment or those before, its other tokens get empty
    ranges. The new ranges are written to `extended` (`np.ndarray` of int64, shape `(n, m, segments, 2)`), which holds
    those of the segments before. Returns the position of the first token outside the vocabulary in the flattened
    `tokens`, or -1.
    """
    nodes = np.zeros((1 << (_CACHED_LEVELS + 1), 2), np.int64)
    owner = np.full(len(nodes), -1, np.int64)
    width = tokens.shape[1]
    for index in range(start, stop):
        first, last = ranges[index, segment, 0], ranges[index, segment, 1]
        occurring = np.int64(0)
        for column in range(width):
            if occurring == enough:
                extended[index, column, : segment + 1] = 0
                continue
            token = tokens[index, column]
            if token < 0 or token >= len(symbol_of):
                bad_position: int = index * width + column
                return bad_position
            symbol = symbol_of[token]
            low, high = np.int64(0), np.int64(0)
            if first < last and symbol >= 0:
                low, high = first, last
                code = codes[symbol]
                level, node = 0, np.int64(1)
                while width > 1 and level < _CACHED_LEVELS and code != np.uint64(1) and low < high:
                    node = (node << 1) | np.int64(code & np.uint64(1))
                    if owner[node] == index:
                        low, high = nodes[node, 0], nodes[node, 1]
                    else:
                        low, high = child_range(blocks, levels, level, code, low, high)
                        owner[node], nodes[node, 0], nodes[node, 1] = index, low, high
                    code >>= np.uint64(1)
                    level += 1
                low, high = extend_range(blocks, levels, code, level, low, high)
                if len(removed_rows) and count_remaining(removed_rows, low, high) == 0:
                    low, high = np.int64(0), np.int64(0)
            extended[index, column, segment, 0], extended[index, column, segment, 1] = low, high
            occurs = low < high
            for before in range(segment):
                occurs |= extended[index, column, before, 0] < extended[index, column, before, 1]
            occurring += occurs
    return -1


@compiled
def continue_ranges(
    blocks: np.ndarray,
    levels: np.ndarray,
    removed_rows: np.ndarray,
    codes: np.ndarray,
    symbols: np.ndarray,
    symbol_rows: np.ndarray,
    ranges: np.ndarray,
    segment: int,
    start: int,
    stop: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct tokens that follow each range, with counts: offsets, tokens, counts.

    The tokens of the range `start + i` are those from `offsets[i]` to `offsets[i + 1]`.
    """
    offsets = np.zeros(stop - start + 1, np.int64)
    capacity = np.int64(256)
    tokens, counts = np.empty(capacity, np.int64), np.empty(capacity, np.int64)
    widest: Any = np.int64(0)
    for index in range(start, stop):
        size = ranges[index, segment, 1] - ranges[index, segment, 0]
        if size < symbol_rows[-1]:
            widest = max(widest, size)
    nodes = np.empty((2, min(widest, len(symbols)) + 1, 3), np.int64)
    used = np.int64(0)
    for index in range(start, stop):
        first, last = ranges[index, segment, 0], ranges[index, segment, 1]
        if first < last:
            needed = used + min(last - first, len(symbols))
            if needed > capacity:
                capacity = max(2 * capacity, needed)
                larger_tokens, larger_counts = np.empty(capacity, np.int64), np.empty(capacity, np.int64)
                for entry in range(used):
                    larger_tokens[entry], larger_counts[entry] = tokens[entry], counts[entry]
                tokens, counts = larger_tokens, larger_counts
            begin = used
            if last - first == symbol_rows[-1]:
                for symbol in range(len(symbols)):
                    tokens[used] = symbol
                    counts[used] = symbol_rows[symbol + 1] - symbol_rows[symbol]
                    used += 1
            else:
                used = distinct_symbols(blocks, levels, first, last, nodes[0], nodes[1], tokens, counts, used)
            kept = begin
            for entry in range(begin, used):
                symbol = tokens[entry]
                count = counts[entry]
                if len(removed_rows):
                    if last - first < symbol_rows[-1]:
                        low, high = extend_range(blocks, levels, codes[symbol], 0, first, last)
                    else:
                        low, high = symbol_rows[symbol], symbol_rows[symbol + 1]
                    count = count_remaining(removed_rows, low, high)
                if count:
                    tokens[kept], counts[kept] = symbols[symbol], count
                    kept += 1
            used = kept
        offsets[index - start + 1] = used
    return offsets, tokens[:used], counts[:used]


@compiled
def merge_continuations(
    offsets: np.ndarray,
    tokens: np.ndarray,
    counts: np.ndarray,
    more_offsets: np.ndarray,
    more_tokens: np.ndarray,
    more_counts: np.ndarray,
    vocab_size: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge the continuations of the same ranges in two parts of the corpus."""
    merged_offsets = np.zeros(len(offsets), np.int64)
    merged_tokens = np.empty(len(tokens) + len(more_tokens), np.int64)
    merged_counts = np.empty(len(merged_tokens), np.int64)
    entries = np.full(vocab_size, -1, np.int64)
    used = 0
    for index in range(len(offsets) - 1):
        begin = used
        for entry in range(offsets[index], offsets[index + 1]):
            entries[tokens[entry]] = used
            merged_tokens[used], merged_counts[used] = tokens[entry], counts[entry]
            used += 1
        for entry in range(more_offsets[index], more_offsets[index + 1]):
            token = more_tokens[entry]
            if entries[token] >= begin:
                merged_counts[entries[token]] += more_counts[entry]
            else:
                merged_tokens[used], merged_counts[used] = token, more_counts[entry]
                used += 1
        merged_offsets[index + 1] = used
    return merged_offsets, merged_tokens[:used], merged_counts[:used]
