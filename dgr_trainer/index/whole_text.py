"""The whole text of a segment, from its index: for merging segments, much faster than a walk for each passage.

A step of a walk goes through all levels of the wavelet matrix, each in another place of the memory. Here the steps of
all rows are computed first, from the last level to the first: the elements of a level are merged by its bits as they
were parted when the matrix was built, so that the memory is read and written in order. Then a walk through a passage
reads one number for each step. This takes 8 bytes a token for a while (16 in segments of 2^32 tokens and more), and
leaves the text, 2 or 4 bytes a token.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from dgr_trainer.compilation import compiled, prefetch
from dgr_trainer.index.bit_vector import BLOCK_BITS, BLOCK_WORDS, rank_and_bit
from dgr_trainer.index.index_arrays import IndexArrays
from dgr_trainer.index.interleaved_walks import last_at_most
from dgr_trainer.index.kernel_threads import in_parts, number_of_threads, run_in_threads
from dgr_trainer.index.wavelet_matrix import FIRST_BLOCK, FIRST_ROW, SIZE, ZEROS

_WALKS = 32
_BUCKET_BITS = 10  # A bucket is so many rows, in most of which there is one symbol.


def whole_text(arrays: IndexArrays, separator: int) -> np.ndarray:
    """The tokens of all passages of a segment, removed ones included.

    Args:
        arrays ([`IndexArrays`]): The arrays of the segment.
        separator (`int`): The token id after each passage.

    Returns:
        `np.ndarray` of uint16 (uint32 if the vocabulary needs it), shape `(num_rows,)`: the passages, each followed by
        the separator; passage `p` begins at `arrays.passage_starts[p]`.
    """
    starts = arrays.passage_starts
    text = np.empty(arrays.num_rows, np.uint16 if len(arrays.symbol_of) <= 1 << 16 else np.uint32)
    text[starts[1:] - 1] = separator
    bucket_rows = np.arange((arrays.num_rows >> _BUCKET_BITS) + 2) << _BUCKET_BITS
    buckets = np.searchsorted(arrays.symbol_rows[:-1], bucket_rows, "right").astype(np.int32) - np.int32(1)
    index = (_next_rows(arrays), arrays.symbols, arrays.symbol_rows, buckets, arrays.first_rows, starts)
    in_parts(partial(_read, *index, text), arrays.num_passages, arrays.num_rows, np.diff(starts))
    return text


def _next_rows(arrays: IndexArrays) -> np.ndarray:
    """The suffix-array row of the position after that of each row."""
    levels, num_rows = arrays.levels, arrays.num_rows
    row_type = np.uint32 if num_rows <= 1 << 32 else np.uint64
    below = np.arange(levels[-1, FIRST_ROW], num_rows, dtype=row_type)
    for level in levels[-2::-1]:
        size, first_row = int(level[SIZE]), int(level[FIRST_ROW])
        elements = np.empty(num_rows - first_row, row_type)
        # The elements whose codes end here are in the order of their rows.
        elements[size:] = np.arange(first_row, num_rows - size, dtype=row_type)
        parts = number_of_threads(size)
        bounds = np.append(np.arange(parts) * (size // parts // BLOCK_BITS * BLOCK_BITS), size)
        run_in_threads(
            partial(_merge, arrays.blocks, int(level[FIRST_BLOCK]), int(level[ZEROS]), below, elements), bounds, size
        )
        below = elements
    return below


@compiled
def _merge(
    blocks: np.ndarray, first_block: int, zeros: int, below: np.ndarray, elements: np.ndarray, start: int, stop: int
) -> None:
    """Write the elements [start, stop) of a level; `below` are those of the next one. `start` begins a block."""
    ones, _ = rank_and_bit(blocks, first_block, start)
    zero, one = start - ones, zeros + ones
    word = (first_block + start // BLOCK_BITS) * BLOCK_WORDS
    position = start
    while position < stop:
        if word % BLOCK_WORDS == 0:
            word += 1  # The header of a block.
        bits = blocks[word]
        for _ in range(min(64, stop - position)):
            bit = np.int64(bits & np.uint64(1))
            bits >>= np.uint64(1)
            elements[position] = below[one if bit else zero]
            one += bit
            zero += 1 - bit
            position += 1
        word += 1


@compiled
def _read(
    next_rows: np.ndarray,
    symbols: np.ndarray,
    symbol_rows: np.ndarray,
    buckets: np.ndarray,
    first_rows: np.ndarray,
    passage_starts: np.ndarray,
    text: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Write the tokens of the passages [start, stop), by several walks in turn, which wait for the memory together.

    `buckets` are the symbols at the first rows of the buckets.
    """
    walks = np.empty((_WALKS, 3), np.int64)  # The row, its position in the text, and that of the separator.
    running, passage = 0, start
    while True:
        while running < _WALKS and passage < stop:
            position, end = passage_starts[passage], passage_starts[passage + 1] - 1
            if position < end:
                row = np.int64(first_rows[passage])
                walks[running, 0], walks[running, 1], walks[running, 2] = row, position, end
                prefetch(next_rows, row)
                prefetch(buckets, row >> _BUCKET_BITS)
                running += 1
            passage += 1
        if running == 0:
            return
        walk = 0
        while walk < running:
            row, position = walks[walk, 0], walks[walk, 1]
            bucket = row >> _BUCKET_BITS
            text[position] = symbols[last_at_most(symbol_rows, row, buckets[bucket], buckets[bucket + 1] + 1)]
            position += 1
            if position < walks[walk, 2]:
                row = np.int64(next_rows[row])
                prefetch(next_rows, row)
                prefetch(buckets, row >> _BUCKET_BITS)
                walks[walk, 0], walks[walk, 1] = row, position
                walk += 1
            else:
                running -= 1
                walks[walk] = walks[running]
