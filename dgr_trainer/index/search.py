"""The FM-index's queries as compiled kernels over batches; each works on the part [start, stop) of its batch.

Where a kernel checks its input it returns the place of the first bad item, or -1.
"""

from __future__ import annotations

import numpy as np

from dgr_trainer.index.bit_vector import compiled, rank_and_bit
from dgr_trainer.index.wavelet_matrix import child_range, distinct_symbols, extend_range, next_row

# Levels of the wavelet matrix whose nodes are kept while a range is extended by many tokens.
_KEPT_LEVELS = 8


@compiled
def extend_ranges(
    blocks: np.ndarray,
    levels: np.ndarray,
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
            extended[index, place, segment, 0], extended[index, place, segment, 1] = low, high
            occurs = low < high
            for before in range(segment):
                occurs |= extended[index, place, before, 0] < extended[index, place, before, 1]
            occurring += occurs
    return -1


@compiled
def find_patterns(
    blocks: np.ndarray,
    levels: np.ndarray,
    codes: np.ndarray,
    symbol_of: np.ndarray,
    symbol_rows: np.ndarray,
    indptr: np.ndarray,
    tokens: np.ndarray,
    segment: int,
    found: np.ndarray,
    start: int,
    stop: int,
) -> int:
    """Find the ranges of patterns in one segment; the empty pattern has all rows. Returns the place of a bad token."""
    for index in range(start, stop):
        low, high = np.int64(0), symbol_rows[-1]
        for place in range(indptr[index], indptr[index + 1]):
            token = tokens[place]
            if token < 0 or token >= len(symbol_of):
                return place
            symbol = symbol_of[token]
            if low >= high or symbol < 0:
                low, high = np.int64(0), np.int64(0)
            elif place == indptr[index]:
                low, high = symbol_rows[symbol], symbol_rows[symbol + 1]
            else:
                low, high = extend_range(blocks, levels, codes[symbol], 0, low, high)
        found[index, segment, 0], found[index, segment, 1] = low, high
    return -1


@compiled
def continue_ranges(
    blocks: np.ndarray,
    levels: np.ndarray,
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
    stack = np.empty((len(levels) + 1, 4), np.int64)
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
                used = distinct_symbols(blocks, levels, first, last, stack, tokens, counts, used)
            for place in range(begin, used):
                tokens[place] = symbols[tokens[place]]
        offsets[index - start + 1] = used
    return offsets, tokens[:used], counts[:used]


@compiled
def locate_rows(
    blocks: np.ndarray,
    levels: np.ndarray,
    marks: np.ndarray,
    samples: np.ndarray,
    passage_starts: np.ndarray,
    rows: np.ndarray,
    lengths: np.ndarray,
    passages: np.ndarray,
    offsets: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Where the occurrences of patterns start, given their rows and the patterns' lengths."""
    size = passage_starts[-1]
    num_passages = len(passage_starts) - 1
    for index in range(start, stop):
        row = rows[index]
        steps = np.int64(0)
        sample, marked = rank_and_bit(marks, 0, row)
        while not marked:
            row = next_row(blocks, levels, row)
            steps += 1
            sample, marked = rank_and_bit(marks, 0, row)
        position = (np.int64(samples[sample]) - steps - lengths[index] + 1) % size
        left, right = 0, num_passages
        while right - left > 1:
            middle = (left + right) // 2
            if passage_starts[middle] <= position:
                left = middle
            else:
                right = middle
        if position == passage_starts[left + 1] - 1:
            passages[index] = left + 1 if left + 1 < num_passages else 0
            offsets[index] = -1
        else:
            passages[index] = left
            offsets[index] = position - passage_starts[left]


@compiled
def copy_passages(
    text: np.ndarray, passage_starts: np.ndarray, passages: np.ndarray, indptr: np.ndarray, out: np.ndarray
) -> None:
    """Copy the tokens of passages, without separators, to the places `indptr` gives."""
    for index in range(len(passages)):
        first = passage_starts[passages[index]]
        for place in range(indptr[index + 1] - indptr[index]):
            out[indptr[index] + place] = text[first + place]
