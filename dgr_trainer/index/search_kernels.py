"""The FM-index's queries as compiled kernels over batches; each works on the part [start, stop) of its batch.

`dead` is a bit vector of the rows whose passage was removed, without blocks where none was. A range without any other
row is empty.

Where a kernel checks its input it returns the place of the first bad item, or -1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dgr_trainer.index.bit_vector import compiled, rank_and_bit, set_bit
from dgr_trainer.index.wavelet_matrix import (
    child_range,
    distinct_symbols,
    extend_range,
    next_row,
)

# Levels of the wavelet matrix whose nodes are kept while a range is extended by many tokens.
_KEPT_LEVELS = 8


@compiled
def living(dead: np.ndarray, low: int, high: int) -> int:
    """Number of rows in [low, high) whose passages were not removed."""
    if low >= high:
        return 0
    if len(dead) == 0:
        return high - low
    before, _ = rank_and_bit(dead, 0, low)
    after, _ = rank_and_bit(dead, 0, high)
    return high - low - (after - before)


@compiled
def count_ranges(dead: np.ndarray, ranges: np.ndarray, segment: int, counts: np.ndarray) -> None:
    """Add to `counts` the number of living rows of each range."""
    for index in range(len(ranges)):
        counts[index] += living(dead, ranges[index, segment, 0], ranges[index, segment, 1])


@compiled
def living_rows(dead: np.ndarray, low: int, rows: np.ndarray) -> None:
    """Write the first living rows from `low` on."""
    row = low
    for index in range(len(rows)):
        if len(dead):
            while rank_and_bit(dead, 0, row)[1]:
                row += 1
        rows[index] = row
        row += 1


@compiled
def extend_ranges(
    blocks: np.ndarray,
    levels: np.ndarray,
    dead: np.ndarray,
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
    """Extend ranges in one segment by several tokens each.

    The first steps of all tokens of a range lead through the same few nodes of the wavelet matrix, so these are kept.

    Args:
        ranges (`np.ndarray` of int64, shape `(n, segments, 2)`): the ranges.
        tokens (`np.ndarray` of int64, shape `(n, m)`): the tokens to append to each.
        enough (`int`): once so many of a range's tokens occur, in this segment or in those before, the rest is left
            empty.
        extended (`np.ndarray` of int64, shape `(n, m, segments, 2)`): the new ranges; those of the segments before
            are there already.
    """
    nodes = np.zeros((1 << (_KEPT_LEVELS + 1), 2), np.int64)
    owner = np.full(len(nodes), -1, np.int64)
    width = tokens.shape[1]
    for index in range(start, stop):
        first, last = ranges[index, segment, 0], ranges[index, segment, 1]
        occurring = np.int64(0)
        for place in range(width):
            if occurring == enough:
                extended[index, place, : segment + 1] = 0
                continue
            token = tokens[index, place]
            if token < 0 or token >= len(symbol_of):
                return index * width + place
            symbol = symbol_of[token]
            low, high = np.int64(0), np.int64(0)
            if first < last and symbol >= 0:
                low, high = first, last
                code = codes[symbol]
                level, node = 0, np.int64(1)
                while width > 1 and level < _KEPT_LEVELS and code != np.uint64(1) and low < high:
                    node = (node << 1) | np.int64(code & np.uint64(1))
                    if owner[node] == index:
                        low, high = nodes[node, 0], nodes[node, 1]
                    else:
                        low, high = child_range(blocks, levels, level, code, low, high)
                        owner[node], nodes[node, 0], nodes[node, 1] = index, low, high
                    code >>= np.uint64(1)
                    level += 1
                low, high = extend_range(blocks, levels, code, level, low, high)
                if len(dead) and living(dead, low, high) == 0:
                    low, high = np.int64(0), np.int64(0)
            extended[index, place, segment, 0], extended[index, place, segment, 1] = low, high
            occurs = low < high
            for before in range(segment):
                occurs |= extended[index, place, before, 0] < extended[index, place, before, 1]
            occurring += occurs
    return -1


@compiled
def continue_ranges(
    blocks: np.ndarray,
    levels: np.ndarray,
    dead: np.ndarray,
    codes: np.ndarray,
    symbols: np.ndarray,
    symbol_rows: np.ndarray,
    ranges: np.ndarray,
    segment: int,
    start: int,
    stop: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct tokens that follow each range, with counts; `offsets` says where each range's begin and end."""
    offsets = np.zeros(stop - start + 1, np.int64)
    room = np.int64(256)
    tokens, counts = np.empty(room, np.int64), np.empty(room, np.int64)
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
            if needed > room:
                room = max(2 * room, needed)
                more_tokens, more_counts = np.empty(room, np.int64), np.empty(room, np.int64)
                for place in range(used):
                    more_tokens[place], more_counts[place] = tokens[place], counts[place]
                tokens, counts = more_tokens, more_counts
            begin = used
            if last - first == symbol_rows[-1]:
                for symbol in range(len(symbols)):
                    tokens[used] = symbol
                    counts[used] = symbol_rows[symbol + 1] - symbol_rows[symbol]
                    used += 1
            else:
                used = distinct_symbols(blocks, levels, first, last, nodes[0], nodes[1], tokens, counts, used)
            kept = begin
            for place in range(begin, used):
                symbol = tokens[place]
                count = counts[place]
                if len(dead):
                    if last - first < symbol_rows[-1]:
                        low, high = extend_range(blocks, levels, codes[symbol], 0, first, last)
                    else:
                        low, high = symbol_rows[symbol], symbol_rows[symbol + 1]
                    count = living(dead, low, high)
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
    """The continuations of ranges over two parts of the corpus, from those in each."""
    out_offsets = np.zeros(len(offsets), np.int64)
    out_tokens = np.empty(len(tokens) + len(more_tokens), np.int64)
    out_counts = np.empty(len(out_tokens), np.int64)
    places = np.full(vocab_size, -1, np.int64)
    used = 0
    for index in range(len(offsets) - 1):
        begin = used
        for entry in range(offsets[index], offsets[index + 1]):
            places[tokens[entry]] = used
            out_tokens[used], out_counts[used] = tokens[entry], counts[entry]
            used += 1
        for entry in range(more_offsets[index], more_offsets[index + 1]):
            token = more_tokens[entry]
            if places[token] >= begin:
                out_counts[places[token]] += more_counts[entry]
            else:
                out_tokens[used], out_counts[used] = token, more_counts[entry]
                used += 1
        out_offsets[index + 1] = used
    return out_offsets, out_tokens[:used], out_counts[:used]


@compiled
def mark_passages(
    blocks: np.ndarray,
    levels: np.ndarray,
    first_rows: np.ndarray,
    passage_starts: np.ndarray,
    passages: np.ndarray,
    dead: np.ndarray,
) -> None:
    """Set the bits of all rows of passages."""
    for passage in passages:
        row = np.int64(first_rows[passage])
        for left in range(passage_starts[passage + 1] - passage_starts[passage] - 1, -1, -1):
            set_bit(dead, 0, row)
            if left:
                row = next_row(blocks, levels, row)
