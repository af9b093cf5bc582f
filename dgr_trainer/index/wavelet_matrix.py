"""A Huffman-shaped wavelet matrix: stores a sequence of symbols in about its entropy, for rank, access and distinct.

Claude, Navarro and Ordonez, "The wavelet matrix: an efficient wavelet tree for large alphabets", Information Systems
47 (2015). Each symbol has a prefix code. Level `l` holds, for every element whose code is longer than `l`, bit `l` of
its code, after a stable partition by the earlier bits. Codes are assigned so that on every level the codes that end
there come last. Symbols are numbered in the order in which their codes end. The kernels rely on three consequences:

* an element whose position on a level is past the level's bits has reached its symbol;
* its position past the bits, plus the number of elements that ended on the levels above, is its position in the
  sequence sorted by symbol: in the Burrows-Wheeler transform of a text, the suffix-array row that extends its row;
* a node of the tree is identified by its number on the level, and the nodes after the inner ones are the symbols.

`levels` has one row per level, the last without bits; its columns are the constants below.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from dgr_trainer.compilation import compiled
from dgr_trainer.errors import DGRValueError
from dgr_trainer.index.bit_vector import (
    BLOCK_BITS,
    BLOCK_WORDS,
    MAX_BITS,
    fetch,
    finish_ranks,
    num_blocks,
    rank_and_bit,
)
from dgr_trainer.index.kernel_threads import number_of_threads, run_in_threads

SIZE = 0  # number of elements with a bit on this level
ZEROS = 1  # number of these bits that are zero
FIRST_BLOCK = 2  # where the level's bits start
NODES = 3  # number of inner nodes of this level
FIRST_SYMBOL = 4  # number of symbols whose codes ended before this level
FIRST_ROW = 5  # number of elements whose codes ended before this level
COLUMNS = 8

# How many nodes ahead of the current one the bits are prefetched.
_NODES_AHEAD = 8


@compiled
def _code_lengths(weights: np.ndarray) -> None:
    """Compute the lengths of Huffman codes from two queues: the symbols, and the nodes so far.

    Args:
        weights (`np.ndarray` of int64, shape `(2 * num_symbols - 1,)`): the symbols' counts, ascending, then space
            for the nodes; the lengths overwrite the counts.
    """
    size = (len(weights) + 1) // 2
    parents = np.empty(2 * size - 1, np.int64)
    symbol, node = 0, size
    for parent in range(size, 2 * size - 1):
        total = 0
        for _ in range(2):
            if symbol < size and (node >= parent or weights[symbol] <= weights[node]):
                chosen = symbol
                symbol += 1
            else:
                chosen = node
                node += 1
            parents[chosen] = parent
            total += weights[chosen]
        weights[parent] = total
    weights[-1] = 0  # from here on, depths overwrite the weights
    for index in range(2 * size - 3, -1, -1):
        weights[index] = weights[parents[index]] + 1


def huffman_codes(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order symbols by the lengths of their codes, and assign the codes.

    Args:
        counts (`np.ndarray` of int64, shape `(num_symbols,)`): how often each symbol occurs, at least once.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: the symbols in the order in which they are to be numbered (int64), and their
        codes in the same order (uint64): the bit of level 0 is the lowest, and a one follows the last bit.
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
    num_coded = 0
    for level, ending in enumerate(np.bincount(lengths)):
        inner = len(nodes) - int(ending)
        codes[num_coded : num_coded + ending] = nodes[inner:] | (np.uint64(1) << np.uint64(level))
        num_coded += int(ending)
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
            "Split the corpus into several segments with segment_tokens."
        )
    lengths = np.array([int(code).bit_length() - 1 for code in codes], np.int64)
    table = np.zeros((int(lengths.max()) + 1, COLUMNS), np.int64)
    first_block = 0
    nodes = 1
    for level, entry in enumerate(table):
        inner = lengths > level
        bits = (codes >> np.uint64(level)) & np.uint64(1)
        entry[SIZE] = counts[inner].sum()
        entry[ZEROS] = counts[inner & (bits == 0)].sum()
        entry[FIRST_BLOCK] = first_block
        entry[NODES] = nodes - int((lengths == level).sum())
        entry[FIRST_SYMBOL] = (lengths < level).sum()
        entry[FIRST_ROW] = counts[lengths < level].sum()
        first_block += num_blocks(int(entry[SIZE])) if entry[SIZE] else 0
        nodes = 2 * int(entry[NODES])
    return table


def build_matrix(codes: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Build the bits of the matrix.

    Args:
        codes (`np.ndarray` of uint32 or uint64, shape `(size,)`): the code of every element; overwritten.
        levels (`np.ndarray` of int64): the table of the levels.

    Returns:
        `np.ndarray` of uint64: the blocks of all levels.
    """
    total = sum(num_blocks(int(entry[SIZE])) for entry in levels if entry[SIZE])
    blocks = np.zeros(total * BLOCK_WORDS, np.uint64)
    next_codes = np.empty_like(codes)
    for level in range(len(levels) - 1):
        entry, size = levels[level], int(levels[level, SIZE])
        parts = number_of_threads(size)
        bounds = np.append(np.arange(parts) * (size // parts // BLOCK_BITS * BLOCK_BITS), size)
        # Where each part writes its zeros and ones on the next level. If any zero ends here, all ones do.
        first_positions = np.zeros((len(bounds), 2), np.int64)
        counted = run_in_threads(partial(_count_level, codes), bounds[:-1], size)
        first_positions[1:-1] = np.cumsum(np.array(counted, np.int64).reshape(-1, 2), axis=0)
        first_positions[:, 1] += entry[ZEROS]

        def part(
            start: int,
            stop: int,
            codes: Any = codes,
            next_codes: Any = next_codes,
            context: Any = (entry, first_positions, bounds),
        ) -> None:
            entry, first_positions, bounds = context
            zero, one = first_positions[np.searchsorted(bounds, start)]
            _build_level(codes, next_codes, blocks, entry, int(zero), int(one), start, stop)

        run_in_threads(part, bounds, size)
        finish_ranks(blocks, int(entry[FIRST_BLOCK]), size)
        codes, next_codes = next_codes, codes
    return blocks


@compiled
def _count_level(codes: np.ndarray, start: int, stop: int) -> tuple[int, int]:
    """How many of the elements [start, stop) have more bits after a zero, and how many after a one."""
    zeros, ones = 0, 0
    for index in range(start, stop):
        code = codes[index]
        has_more_bits = (code >> 1) != 1
        ones += has_more_bits & (code & 1)
        zeros += has_more_bits & (1 - (code & 1))
    return zeros, ones


@compiled
def _build_level(
    codes: np.ndarray,
    next_codes: np.ndarray,
    blocks: np.ndarray,
    entry: np.ndarray,
    zero: int,
    one: int,
    start: int,
    stop: int,
) -> None:
    """Write the bits of the elements [start, stop) of one level; `start` is the start of a block.

    The codes that have more bits go to `next_codes` without the bit that was written: those with a zero from position
    `zero` on, those with a one from position `one` on.
    """
    word_index, offset = (entry[FIRST_BLOCK] + start // BLOCK_BITS) * BLOCK_WORDS + 1, 0
    word = np.uint64(0)
    for index in range(start, stop):
        code = codes[index]
        bit = code & 1
        rest = code >> 1
        word |= np.uint64(bit) << np.uint64(offset & 63)
        offset += 1
        if rest != 1:
            if bit:
                next_codes[one] = rest
                one += 1
            else:
                next_codes[zero] = rest
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
def child_range(
    blocks: np.ndarray, levels: np.ndarray, level: int, code: np.uint64, low: int, high: int
) -> tuple[int, int]:
    """The positions, on the next level, of the elements in [low, high) whose bit is the lowest bit of `code`."""
    low_ones, _ = rank_and_bit(blocks, levels[level, FIRST_BLOCK], low)
    high_ones, _ = rank_and_bit(blocks, levels[level, FIRST_BLOCK], high)
    if code & np.uint64(1):
        return levels[level, ZEROS] + low_ones, levels[level, ZEROS] + high_ones
    return low - low_ones, high - high_ones


@compiled
def extend_range(
    blocks: np.ndarray, levels: np.ndarray, code: np.uint64, level: int, low: int, high: int
) -> tuple[int, int]:
    """The positions, in the sequence sorted by symbol, of the elements in [low, high) with a code; (0, 0) if none.

    `code` holds the bits of the code from `level` on.
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
    one_children: np.ndarray,
    symbols: np.ndarray,
    counts: np.ndarray,
    start: int,
) -> int:
    """Write the distinct symbols in [low, high), in arbitrary order, and how often each occurs.

    All nodes of a level are visited before those of the next, so that the waits for the memory overlap. There are no
    branches on whether a child exists: an empty one is overwritten by the next.

    `nodes` and `one_children` (`np.ndarray` of int64, shape `(capacity, 3)`) are working memory; `capacity` has to be
    larger than the number of distinct symbols. `symbols` and `counts` (`np.ndarray` of int64) are written from `start`
    on. Returns the position after the last symbol.
    """
    nodes[0, 0], nodes[0, 1], nodes[0, 2] = low, high, 0
    size, level = 1, 0
    while True:
        # Nodes that are symbols come last.
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
            if index + _NODES_AHEAD < size:
                fetch(blocks, first_block, nodes[index + _NODES_AHEAD, 0])
                fetch(blocks, first_block, nodes[index + _NODES_AHEAD, 1])
            low, high, node = nodes[index, 0], nodes[index, 1], nodes[index, 2]
            low_ones, _ = rank_and_bit(blocks, first_block, low)
            high_ones, _ = rank_and_bit(blocks, first_block, high)
            nodes[kept, 0], nodes[kept, 1], nodes[kept, 2] = low - low_ones, high - high_ones, node
            kept += high - low > high_ones - low_ones
            one_children[right, 0], one_children[right, 1], one_children[right, 2] = (
                zeros + low_ones,
                zeros + high_ones,
                first_one + node,
            )
            right += high_ones > low_ones
        for index in range(right):
            nodes[kept + index, 0] = one_children[index, 0]
            nodes[kept + index, 1] = one_children[index, 1]
            nodes[kept + index, 2] = one_children[index, 2]
        size = kept + right
        level += 1
