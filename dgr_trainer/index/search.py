"""The FM-index's queries as compiled kernels over batches; each works on the part [start, stop) of its batch.

Where a kernel checks its input it returns the place of the first bad item, or -1.
"""

from __future__ import annotations

import numpy as np

from dgr_trainer.index.bit_vector import compiled, rank_and_bit
from dgr_trainer.index.wavelet_matrix import distinct_symbols, extend_range, next_row


@compiled
def extend_ranges(
    blocks: np.ndarray,
    levels: np.ndarray,
    codes: np.ndarray,
    symbol_of: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    tokens: np.ndarray,
    out_low: np.ndarray,
    out_high: np.ndarray,
    start: int,
    stop: int,
) -> int:
    """Extend ranges by one token each."""
    for index in range(start, stop):
        token = tokens[index]
        if token < 0 or token >= len(symbol_of):
            return index
        symbol = symbol_of[token]
        if low[index] >= high[index] or symbol < 0:
            out_low[index], out_high[index] = 0, 0
        else:
            out_low[index], out_high[index] = extend_range(blocks, levels, codes[symbol], low[index], high[index])
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
    out_low: np.ndarray,
    out_high: np.ndarray,
    start: int,
    stop: int,
) -> int:
    """Find the ranges of patterns; the empty pattern has all rows. Returns the place of a bad token in `tokens`."""
    for index in range(start, stop):
        low, high = 0, symbol_rows[-1]
        for place in range(indptr[index], indptr[index + 1]):
            token = tokens[place]
            if token < 0 or token >= len(symbol_of):
                return place
            symbol = symbol_of[token]
            if low >= high or symbol < 0:
                low, high = 0, 0
            elif place == indptr[index]:
                low, high = symbol_rows[symbol], symbol_rows[symbol + 1]
            else:
                low, high = extend_range(blocks, levels, codes[symbol], low, high)
        out_low[index], out_high[index] = low, high
    return -1


@compiled
def continue_ranges(
    blocks: np.ndarray,
    levels: np.ndarray,
    symbols: np.ndarray,
    symbol_rows: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
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
        first, last = low[index], high[index]
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
) -> int:
    """Where the occurrences of patterns start, given their rows and the patterns' lengths."""
    size = passage_starts[-1]
    num_passages = len(passage_starts) - 1
    for index in range(start, stop):
        row = rows[index]
        if row < 0 or row >= size or lengths[index] < 1:
            return index
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
    return -1


@compiled
def copy_passages(
    text: np.ndarray, passage_starts: np.ndarray, passages: np.ndarray, indptr: np.ndarray, out: np.ndarray
) -> None:
    """Copy the tokens of passages, without separators, to the places `indptr` gives."""
    for index in range(len(passages)):
        first = passage_starts[passages[index]]
        for place in range(indptr[index + 1] - indptr[index]):
            out[indptr[index] + place] = text[first + place]
