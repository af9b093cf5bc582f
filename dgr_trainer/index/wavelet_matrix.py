"""A Huffman-shaped wavelet matrix: a sequence of symbols in about its entropy, with rank, access and distinct symbols.

Claude, Navarro and Ordonez, "The wavelet matrix: an efficient wavelet tree for large alphabets", Information Systems
47 (2015). Each symbol has a prefix code; level `l` holds, for every element whose code is longer than `l`, bit `l` of
its code, after a stable partition by the bits before. The codes are dealt out so that on every level the codes that
end there stand last. Symbols are numbered in the order in which their codes end. Three things follow, on which the
kernels rest:

* an element whose position on a level is past the level's bits has reached its symbol;
* its position past the bits, plus the number of elements of the levels above that ended, is its position in the
  sequence sorted by symbol: in the Burrows-Wheeler transform of a text, the row of the FM-index that extends its row;
* a node of the tree is known by its number on the level, and a symbol is its node's number past the inner nodes.

`levels` has one line a level, the last without bits; its columns are the constants below.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from dgr_trainer.errors import DGRValueError
from dgr_trainer.index.bit_vector import (
    BLOCK_BITS,
    BLOCK_WORDS,
    MAX_BITS,
    compiled,
    fetch,
    finish_ranks,
    num_blocks,
    rank_and_bit,
)
from dgr_trainer.index.threads import in_threads, number_of_threads

SIZE = 0  # number of elements with a bit on this level
ZEROS = 1  # number of these bits that are zero
FIRST_BLOCK = 2  # where the level's bits start
NODES = 3  # number of inner nodes of this level
FIRST_SYMBOL = 4  # number of symbols whose codes ended before this level
FIRST_ROW = 5  # number of elements whose codes ended before this level
COLUMNS = 8

# Nodes of a level before its turn at which a node's bits are asked for.
_AHEAD = 8


@compiled
def _code_lengths(weights: np.ndarray) -> None:
    """Lengths of Huffman codes, from two queues: the symbols, and the nodes made so far.

    Args:
        weights (`np.ndarray` of int64, shape `(2 * num_symbols - 1,)`): the symbols' counts, ascending, then room for
            the nodes; the lengths take the counts' places.
    """
    size = (len(weights) + 1) // 2
    parents = np.empty(2 * size - 1, np.int64)
    symbol, node = 0, size
    for made in range(size, 2 * size - 1):
        total = 0
        for _ in range(2):
            if symbol < size and (node >= made or weights[symbol] <= weights[node]):
                chosen = symbol
                symbol += 1
            else:
                chosen = node
                node += 1
            parents[chosen] = made
            total += weights[chosen]
        weights[made] = total
    weights[-1] = 0  # the weights are used up: their place takes the depths
    for index in range(2 * size - 3, -1, -1):
        weights[index] = weights[parents[index]] + 1


def huffman_codes(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order symbols by when their codes end, and give each a code.

    Args:
        counts (`np.ndarray` of int64, shape `(num_symbols,)`): how often each symbol occurs, at least once.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: the symbols in the order in which they are to be numbered (int64), and, in
        that order, their codes (uint64): the bit of level 0 is the lowest, and a one stands above the last.
    """
    ascending = np.argsort(counts, kind="stable")
    lengths = np.empty(len(counts), np.int64)
    weights = np.zeros(2 * len(counts) - 1, np.int64)
    weights[: len(counts)] = counts[ascending]
    _code_lengths(weights)
    lengths[ascending] = weights[: len(counts)]
    order = np.argsort(lengths, kind="stable")
    codes = np.empty(len(counts), np.uint64)
    nodes = np.zeros(1, np.uint64)  # codes of the nodes of a level, in the level's order
    done = 0
    ends = np.bincount(lengths)
    for level, ending in enumerate(ends):
        inner = len(nodes) - int(ending)
        codes[done : done + ending] = nodes[inner:] | (np.uint64(1) << np.uint64(level))
        done += int(ending)
        nodes = np.concatenate([nodes[:inner], nodes[:inner] | (np.uint64(1) << np.uint64(level))])
    return order, codes


def level_table(codes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Describe the levels of the matrix.

    Args:
        codes (`np.ndarray` of uint64, shape `(num_symbols,)`): the codes, as `huffman_codes` returns them.
        counts (`np.ndarray` of int64, shape `(num_symbols,)`): how often each of the same symbols occurs.

    Returns:
        `np.ndarray` of int64, shape `(longest code + 1, 8)`.

    Raises:
        ValueError: if there are more elements than a bit vector can count.
    """
    if int(counts.sum()) >= MAX_BITS:
        raise DGRValueError(
            f"The text has {int(counts.sum())} tokens, but an index holds at most {MAX_BITS - 1}. "
            "Split the corpus and build one index of each part."
        )
    lengths = np.array([int(code).bit_length() - 1 for code in codes], np.int64)
    table = np.zeros((int(lengths.max()) + 1, COLUMNS), np.int64)
    first_block = 0
    nodes = 1
    for level, line in enumerate(table):
        inner = lengths > level
        bits = (codes >> np.uint64(level)) & np.uint64(1)
        line[SIZE] = counts[inner].sum()
        line[ZEROS] = counts[inner & (bits == 0)].sum()
        line[FIRST_BLOCK] = first_block
        line[NODES] = nodes - int((lengths == level).sum())
        line[FIRST_SYMBOL] = (lengths < level).sum()
        line[FIRST_ROW] = counts[lengths < level].sum()
        first_block += num_blocks(int(line[SIZE])) if line[SIZE] else 0
        nodes = 2 * int(line[NODES])
    return table


def build_matrix(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Build the bits of the matrix.

    Args:
        values (`np.ndarray` of uint32 or uint64, shape `(size,)`): the code of every element; overwritten.
        levels (`np.ndarray` of int64): the table of the levels.

    Returns:
        `np.ndarray` of uint64: the blocks of all levels.
    """
    total = sum(num_blocks(int(line[SIZE])) for line in levels if line[SIZE])
    blocks = np.zeros(total * BLOCK_WORDS, np.uint64)
    other = np.empty_like(values)
    for level in range(len(levels) - 1):
        line, size = levels[level], int(levels[level, SIZE])
        parts = number_of_threads(size)
        bounds = np.append(np.arange(parts) * (size // parts // BLOCK_BITS * BLOCK_BITS), size)
        # Codes that end stand last: either no zero ends here, or every one does.
        places = np.zeros((len(bounds), 2), np.int64)
        counted = in_threads(partial(_count_level, values), bounds[:-1], size)
        places[1:-1] = np.cumsum(np.array(counted, np.int64).reshape(-1, 2), axis=0)
        places[:, 1] += line[ZEROS]

        def part(
            start: int, stop: int, values: Any = values, other: Any = other, context: Any = (line, places, bounds)
        ) -> None:
            line, places, bounds = context
            zero, one = places[np.searchsorted(bounds, start)]
            _build_level(values, other, blocks, line, int(zero), int(one), start, stop)

        in_threads(part, bounds, size)
        finish_ranks(blocks, int(line[FIRST_BLOCK]), size)
        values, other = other, values
    return blocks


@compiled
def _count_level(values: np.ndarray, start: int, stop: int) -> tuple[int, int]:
    """How many of the elements [start, stop) go on with a zero, and how many with a one."""
    zeros, ones = 0, 0
    for index in range(start, stop):
        value = values[index]
        goes_on = (value >> 1) != 1
        ones += goes_on & (value & 1)
        zeros += goes_on & (1 - (value & 1))
    return zeros, ones


@compiled
def _build_level(
    values: np.ndarray,
    other: np.ndarray,
    blocks: np.ndarray,
    line: np.ndarray,
    zero: int,
    one: int,
    start: int,
    stop: int,
) -> None:
    """Write the bits of the elements [start, stop) of one level, which start with a block; put those that go on into
    `other`, zeros from `zero` and ones from `one` on, their used bit dropped."""
    word_index, offset = (line[FIRST_BLOCK] + start // BLOCK_BITS) * BLOCK_WORDS + 1, 0
    word = np.uint64(0)
    for index in range(start, stop):
        value = values[index]
        bit = value & 1
        rest = value >> 1
        word |= np.uint64(bit) << np.uint64(offset & 63)
        offset += 1
        if rest != 1:
            if bit:
                other[one] = rest
                one += 1
            else:
                other[zero] = rest
                zero += 1
        if (offset & 63) == 0:
            blocks[word_index] = word
            word = np.uint64(0)
            word_index += 1
            if offset == BLOCK_BITS:
                offset = 0
                word_index += 1
    if offset & 63:
        blocks[word_index] = word


@compiled
def next_row(blocks: np.ndarray, levels: np.ndarray, row: int) -> int:
    """The position, in the sequence sorted by symbol, of the element at position `row` (the LF step)."""
    level = 0
    while row < levels[level, SIZE]:
        ones, bit = rank_and_bit(blocks, levels[level, FIRST_BLOCK], row)
        row = levels[level, ZEROS] + ones if bit else row - ones
        level += 1
    return levels[level, FIRST_ROW] + row - levels[level, SIZE]


@compiled
def child_range(
    blocks: np.ndarray, levels: np.ndarray, level: int, code: np.uint64, low: int, high: int
) -> tuple[int, int]:
    """The positions, on the next level, of the elements in [low, high) whose bit is the lowest of `code`."""
    low_ones, _ = rank_and_bit(blocks, levels[level, FIRST_BLOCK], low)
    high_ones, _ = rank_and_bit(blocks, levels[level, FIRST_BLOCK], high)
    if code & np.uint64(1):
        return levels[level, ZEROS] + low_ones, levels[level, ZEROS] + high_ones
    return low - low_ones, high - high_ones


@compiled
def extend_range(
    blocks: np.ndarray, levels: np.ndarray, code: np.uint64, level: int, low: int, high: int
) -> tuple[int, int]:
    """The rows, in the sequence sorted by symbol, of the elements in [low, high) with this code; (0, 0) if none.

    Args:
        code (`np.uint64`): what is left of the code on `level`.
    """
    while code != np.uint64(1) and low < high:
        low, high = child_range(blocks, levels, level, code, low, high)
        code >>= np.uint64(1)
        level += 1
    if low >= high:
        return 0, 0
    shift = levels[level, FIRST_ROW] - levels[level, SIZE]
    return low + shift, high + shift


@compiled
def distinct_symbols(
    blocks: np.ndarray,
    levels: np.ndarray,
    low: int,
    high: int,
    nodes: np.ndarray,
    ones: np.ndarray,
    symbols: np.ndarray,
    counts: np.ndarray,
    start: int,
) -> int:
    """Write the distinct symbols in [low, high), in no useful order, with how often each occurs.

    All nodes of a level are visited before those of the next, so that none waits for the memory of another, and
    whether a child is there decides where the next is written, not what is done.

    Args:
        nodes, ones (`np.ndarray` of int64, shape `(room, 3)`): to work in; `room` is above the number of distinct
            symbols.
        symbols, counts (`np.ndarray` of int64): written from `start` on.

    Returns:
        `int`: where the next symbol would be written.
    """
    nodes[0, 0], nodes[0, 1], nodes[0, 2] = low, high, 0
    size, level = 1, 0
    while True:
        # Nodes that are symbols stand last.
        while size > 0 and nodes[size - 1, 0] >= levels[level, SIZE]:
            size -= 1
            symbols[start] = levels[level, FIRST_SYMBOL] + nodes[size, 2] - levels[level, NODES]
            counts[start] = nodes[size, 1] - nodes[size, 0]
            start += 1
        if size == 0:
            return start
        first_block, zeros, first_one = levels[level, FIRST_BLOCK], levels[level, ZEROS], levels[level, NODES]
        kept, right = 0, 0
        for index in range(size):
            if index + _AHEAD < size:
                fetch(blocks, first_block, nodes[index + _AHEAD, 0])
                fetch(blocks, first_block, nodes[index + _AHEAD, 1])
            low, high, node = nodes[index, 0], nodes[index, 1], nodes[index, 2]
            low_ones, _ = rank_and_bit(blocks, first_block, low)
            high_ones, _ = rank_and_bit(blocks, first_block, high)
            nodes[kept, 0], nodes[kept, 1], nodes[kept, 2] = low - low_ones, high - high_ones, node
            kept += high - low > high_ones - low_ones
            ones[right, 0], ones[right, 1], ones[right, 2] = zeros + low_ones, zeros + high_ones, first_one + node
            right += high_ones > low_ones
        for index in range(right):
            nodes[kept + index, 0] = ones[index, 0]
            nodes[kept + index, 1] = ones[index, 1]
            nodes[kept + index, 2] = ones[index, 2]
        size = kept + right
        level += 1
