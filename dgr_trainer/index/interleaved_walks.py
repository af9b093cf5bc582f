"""Compiled kernels that interleave several walks through an index to hide the latency of the memory.

A walk goes from a suffix-array row to the row of the next token, or from a pattern's range to that of a longer
pattern, and would wait for the memory at every level of every step. So several walks take turns, one level at a time,
and the data of a walk's next level is prefetched before its turn. Kernels process the items [start, stop) of a batch.
"""

from __future__ import annotations

import numpy as np

from dgr_trainer.compilation import compiled
from dgr_trainer.index.bit_vector import fetch, rank_and_bit, set_bit
from dgr_trainer.index.range_kernels import count_remaining
from dgr_trainer.index.wavelet_matrix import (
    FIRST_BLOCK,
    FIRST_ROW,
    FIRST_SYMBOL,
    NODES,
    SIZE,
    ZEROS,
    child_range,
)

_WALKS = 16

# Columns of the state of each walk.
_ITEM = 0  # the item of the batch
_ROW = 1  # its suffix-array row, or its position on the level
_LEVEL = 2  # the level of the wavelet matrix; -1 at a row
_NODE = 3  # the node on the level
_STEPS = 4  # number of steps so far
_COLUMNS = 5


@compiled
def last_at_most(values: np.ndarray, value: int, low: int, high: int) -> int:
    """The last place in [low, high) of ascending values that are at most `value`, as the first of them is."""
    while high - low > 1:
        middle = (low + high) // 2
        if values[middle] <= value:
            low = middle
        else:
            high = middle
    return low


@compiled
def passage_at(passage_starts: np.ndarray, position: int) -> int:
    """The passage that holds a position of the text."""
    passage: int = last_at_most(passage_starts, position, 0, len(passage_starts) - 1)
    return passage


@compiled
def locate_rows(
    blocks: np.ndarray,
    levels: np.ndarray,
    marks: np.ndarray,
    samples: np.ndarray,
    passage_starts: np.ndarray,
    end_passages: np.ndarray,
    first_separator_row: int,
    rows: np.ndarray,
    lengths: np.ndarray,
    passages: np.ndarray,
    offsets: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Find where occurrences of patterns start, given their suffix-array rows and the patterns' lengths.

    From each row, the text is followed to the next stored position or to the end of the passage.
    """
    walks = np.zeros((_WALKS, _COLUMNS), np.int64)
    running = min(_WALKS, stop - start)
    item = start
    for walk in range(running):
        walks[walk, _ITEM], walks[walk, _ROW], walks[walk, _LEVEL] = item, rows[item], -1
        fetch(marks, 0, rows[item])
        item += 1
    while running > 0:
        walk = 0
        while walk < running:
            row, level = walks[walk, _ROW], walks[walk, _LEVEL]
            if level >= 0:
                if row < levels[level, SIZE]:
                    ones, bit = rank_and_bit(blocks, levels[level, FIRST_BLOCK], row)
                    row = levels[level, ZEROS] + ones if bit else row - ones
                    level += 1
                    walks[walk, _ROW], walks[walk, _LEVEL] = row, level
                    if row < levels[level, SIZE]:
                        fetch(blocks, levels[level, FIRST_BLOCK], row)
                        walk += 1
                        continue
                row += levels[level, FIRST_ROW] - levels[level, SIZE]
                walks[walk, _ROW], walks[walk, _LEVEL] = row, -1
                walks[walk, _STEPS] += 1
                fetch(marks, 0, row)
                walk += 1
                continue
            passage = np.int64(-1)
            position = np.int64(0)
            if first_separator_row <= row < first_separator_row + len(end_passages):
                passage = np.int64(end_passages[row - first_separator_row])
                position = passage_starts[passage + 1] - 1
            else:
                sample, marked = rank_and_bit(marks, 0, row)
                if marked:
                    position = np.int64(samples[sample])
                    passage = passage_at(passage_starts, position)
            if passage < 0:
                walks[walk, _LEVEL] = 0
                fetch(blocks, levels[0, FIRST_BLOCK], row)
                walk += 1
                continue
            done = walks[walk, _ITEM]
            passages[done] = passage
            offsets[done] = position - walks[walk, _STEPS] - lengths[done] + 1 - passage_starts[passage]
            if item < stop:
                walks[walk, _ITEM], walks[walk, _ROW], walks[walk, _STEPS] = item, rows[item], 0
                fetch(marks, 0, rows[item])
                item += 1
            else:
                running -= 1
                walks[walk] = walks[running]


@compiled
def read_passages(
    blocks: np.ndarray,
    levels: np.ndarray,
    symbols: np.ndarray,
    symbol_rows: np.ndarray,
    first_rows: np.ndarray,
    passages: np.ndarray,
    starts: np.ndarray,
    sizes: np.ndarray,
    tokens: np.ndarray,
    positions: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Write the tokens of passages, without separators, to `tokens`, from the position in `starts` for each.

    `positions` is empty, or receives for each suffix-array row of these tokens where its token was written.
    """
    with_positions = len(positions) > 0
    walks = np.zeros((_WALKS, _COLUMNS), np.int64)
    running = 0
    item = start
    while True:
        while running < _WALKS and item < stop:
            if sizes[item] > 0:
                row = np.int64(first_rows[passages[item]])
                tokens[starts[item]] = _token_of_row(symbols, symbol_rows, row)
                if with_positions:
                    positions[row] = starts[item]
                if sizes[item] > 1:
                    fetch(blocks, levels[0, FIRST_BLOCK], row)
                    walks[running, _ITEM], walks[running, _ROW], walks[running, _STEPS] = item, row, 1
                    walks[running, _LEVEL], walks[running, _NODE] = 0, 0
                    running += 1
            item += 1
        if running == 0:
            return
        walk = 0
        while walk < running:
            row, level, node = walks[walk, _ROW], walks[walk, _LEVEL], walks[walk, _NODE]
            if row < levels[level, SIZE]:
                ones, bit = rank_and_bit(blocks, levels[level, FIRST_BLOCK], row)
                if bit:
                    row, node = levels[level, ZEROS] + ones, levels[level, NODES] + node
                else:
                    row -= ones
                level += 1
                if row < levels[level, SIZE]:
                    fetch(blocks, levels[level, FIRST_BLOCK], row)
                    walks[walk, _ROW], walks[walk, _LEVEL], walks[walk, _NODE] = row, level, node
                    walk += 1
                    continue
            done, steps = walks[walk, _ITEM], walks[walk, _STEPS]
            tokens[starts[done] + steps] = symbols[levels[level, FIRST_SYMBOL] + node - levels[level, NODES]]
            row += levels[level, FIRST_ROW] - levels[level, SIZE]
            if with_positions:
                positions[row] = starts[done] + steps
            steps += 1
            if steps < sizes[done]:
                fetch(blocks, levels[0, FIRST_BLOCK], row)
                walks[walk, _ROW], walks[walk, _LEVEL], walks[walk, _NODE], walks[walk, _STEPS] = row, 0, 0, steps
                walk += 1
            else:
                running -= 1
                walks[walk] = walks[running]


@compiled
def mark_passages(
    blocks: np.ndarray,
    levels: np.ndarray,
    first_rows: np.ndarray,
    passage_starts: np.ndarray,
    passages: np.ndarray,
    marked: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Set the bits of all suffix-array rows of passages, those of their separators included."""
    walks = np.zeros((_WALKS, _COLUMNS), np.int64)
    running = 0
    item = start
    while True:
        while running < _WALKS and item < stop:
            passage = passages[item]
            row = np.int64(first_rows[passage])
            set_bit(marked, 0, row)
            steps = passage_starts[passage + 1] - passage_starts[passage] - 1
            if steps > 0:
                fetch(blocks, levels[0, FIRST_BLOCK], row)
                walks[running, _ROW], walks[running, _LEVEL], walks[running, _STEPS] = row, 0, steps
                running += 1
            item += 1
        if running == 0:
            return
        walk = 0
        while walk < running:
            row, level = walks[walk, _ROW], walks[walk, _LEVEL]
            if row < levels[level, SIZE]:
                ones, bit = rank_and_bit(blocks, levels[level, FIRST_BLOCK], row)
                row = levels[level, ZEROS] + ones if bit else row - ones
                level += 1
                if row < levels[level, SIZE]:
                    fetch(blocks, levels[level, FIRST_BLOCK], row)
                    walks[walk, _ROW], walks[walk, _LEVEL] = row, level
                    walk += 1
                    continue
            row += levels[level, FIRST_ROW] - levels[level, SIZE]
            set_bit(marked, 0, row)
            steps = walks[walk, _STEPS] - 1
            if steps > 0:
                fetch(blocks, levels[0, FIRST_BLOCK], row)
                walks[walk, _ROW], walks[walk, _LEVEL], walks[walk, _STEPS] = row, 0, steps
                walk += 1
            else:
                running -= 1
                walks[walk] = walks[running]


@compiled
def _token_of_row(symbols: np.ndarray, symbol_rows: np.ndarray, row: int) -> int:
    """The token at the text position of a suffix-array row."""
    token: int = symbols[last_at_most(symbol_rows, row, 0, len(symbols))]
    return token


# Columns of the state of the search for a pattern, beside _ITEM.
_POSITION = 1  # the position of the token that is appended next
_DEPTH = 2  # the level of the wavelet matrix; -1 before the first
_LOW = 3
_HIGH = 4


@compiled
def find_patterns(
    blocks: np.ndarray,
    levels: np.ndarray,
    removed_rows: np.ndarray,
    codes: np.ndarray,
    symbol_of: np.ndarray,
    symbol_rows: np.ndarray,
    separator: int,
    indptr: np.ndarray,
    tokens: np.ndarray,
    segment: int,
    ranges: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Write the ranges of patterns in one segment to `ranges`; the empty pattern has all rows.

    A pattern with a separator does not occur, unless the separator is its first or last token.
    """
    walks = np.zeros((_WALKS, _COLUMNS), np.int64)
    codes_left = np.zeros(_WALKS, np.uint64)  # the bits of the codes that are still to be followed
    running = 0
    item = start
    while True:
        while running < _WALKS and item < stop:
            first = indptr[item]
            low, high = np.int64(0), symbol_rows[-1]
            if first < indptr[item + 1]:
                symbol = symbol_of[tokens[first]]
                if symbol < 0:
                    high = np.int64(0)
                else:
                    low, high = symbol_rows[symbol], symbol_rows[symbol + 1]
            if low < high and indptr[item + 1] - first > 1:
                walks[running, _ITEM], walks[running, _POSITION], walks[running, _DEPTH] = item, first + 1, -1
                walks[running, _LOW], walks[running, _HIGH] = low, high
                running += 1
            else:
                _write_range(removed_rows, ranges, item, segment, low, high)
            item += 1
        if running == 0:
            return
        walk = 0
        while walk < running:
            done, position, level = walks[walk, _ITEM], walks[walk, _POSITION], walks[walk, _DEPTH]
            low, high, code = walks[walk, _LOW], walks[walk, _HIGH], codes_left[walk]
            if level < 0:
                symbol = symbol_of[tokens[position]]
                if symbol < 0 or (position > indptr[done] + 1 and tokens[position - 1] == separator):
                    low, high = np.int64(0), np.int64(0)
                else:
                    code, level = codes[symbol], np.int64(0)
            else:
                low, high = child_range(blocks, levels, level, code, low, high)
                code >>= np.uint64(1)
                level += 1
            if low < high and code == np.uint64(1):
                shift = levels[level, FIRST_ROW] - levels[level, SIZE]
                low, high, level = low + shift, high + shift, np.int64(-1)
                position += 1
            if low >= high or position == indptr[done + 1]:
                _write_range(removed_rows, ranges, done, segment, low, high)
                running -= 1
                walks[walk], codes_left[walk] = walks[running], codes_left[running]
                continue
            if level >= 0:
                fetch(blocks, levels[level, FIRST_BLOCK], low)
                fetch(blocks, levels[level, FIRST_BLOCK], high)
            walks[walk, _POSITION], walks[walk, _DEPTH] = position, level
            walks[walk, _LOW], walks[walk, _HIGH], codes_left[walk] = low, high, code
            walk += 1


@compiled
def _write_range(removed_rows: np.ndarray, ranges: np.ndarray, item: int, segment: int, low: int, high: int) -> None:
    if count_remaining(removed_rows, low, high) == 0:
        low, high = 0, 0
    ranges[item, segment, 0], ranges[item, segment, 1] = low, high
