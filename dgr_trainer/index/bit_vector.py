"""Bit vectors that count the ones before a position, with one cache line and two population counts.

A block is eight 64-bit words, one cache line: a header and 448 bits. The header holds the number of ones before the
block (37 bits) and, relative to it, the number before the block's third, fifth and seventh word of bits (9 bits each).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dgr_trainer.compilation import compiled, popcount, prefetch

BLOCK_BITS = 448
BLOCK_WORDS = 8
COUNT_BITS = 37
MAX_BITS = 1 << COUNT_BITS


def num_blocks(num_bits: int) -> int:
    """Number of blocks of a bit vector, with room for one more bit so that the rank of the end is defined."""
    return num_bits // BLOCK_BITS + 1


@compiled
def set_bit(blocks: np.ndarray, first_block: int, position: int) -> None:
    """Set a bit to one; call `finish_ranks` after the last."""
    block = position // BLOCK_BITS
    offset = position - block * BLOCK_BITS
    word = (first_block + block) * BLOCK_WORDS + 1 + (offset >> 6)
    blocks[word] |= np.uint64(1) << np.uint64(offset & 63)


@compiled
def finish_ranks(blocks: np.ndarray, first_block: int, num_bits: int) -> int:
    """Write the headers of a bit vector whose bits are set; return its number of ones."""
    before = 0
    for block in range(first_block, first_block + num_bits // BLOCK_BITS + 1):
        start = block * BLOCK_WORDS
        header = np.uint64(before)
        inside = 0
        for word in range(7):
            if word == 2 or word == 4 or word == 6:
                header |= np.uint64(inside) << np.uint64(COUNT_BITS + 9 * (word // 2 - 1))
            inside += popcount(blocks[start + 1 + word])
        blocks[start] = header
        before += inside
    return before


@compiled
def fetch(blocks: np.ndarray, first_block: int, position: int) -> None:
    """Prefetch what `rank_and_bit` will read."""
    prefetch(blocks, (np.int64(first_block) + np.int64(position) // BLOCK_BITS) * BLOCK_WORDS)


@compiled
def rank_and_bit(blocks: np.ndarray, first_block: int, position: int) -> tuple[int, int]:
    """Number of ones before `position`, and the bit at `position` (0 when it is the end)."""
    block = np.uint64(position) // np.uint64(BLOCK_BITS)
    offset = np.uint64(position) - block * np.uint64(BLOCK_BITS)
    start = (np.uint64(first_block) + block) * np.uint64(BLOCK_WORDS)
    word = offset >> np.uint64(6)
    header = blocks[start]
    ones: Any = np.int64(header & np.uint64(MAX_BITS - 1))
    # The extra shift by 9 puts a zero before the three relative counts: there are no ones before the first word.
    relative = (header >> np.uint64(COUNT_BITS)) << np.uint64(9)
    ones += np.int64((relative >> (np.uint64(9) * (word >> np.uint64(1)))) & np.uint64(511))
    ones += np.int64(word & np.uint64(1)) * popcount(blocks[start + word])
    bits = blocks[start + word + np.uint64(1)]
    shift = offset & np.uint64(63)
    ones += popcount(bits & ((np.uint64(1) << shift) - np.uint64(1)))
    bit: Any = np.int64((bits >> shift) & np.uint64(1))
    return ones, bit


def inverted(blocks: np.ndarray, num_bits: int) -> np.ndarray:
    """The bits with zeros and ones exchanged; call `finish_ranks` after."""
    words = ~blocks.reshape(-1, BLOCK_WORDS)[:, 1:]
    in_last = num_bits % BLOCK_BITS
    words[-1, in_last // 64] &= np.uint64((1 << in_last % 64) - 1)
    words[-1, in_last // 64 + 1 :] = 0
    result = np.zeros_like(blocks).reshape(-1, BLOCK_WORDS)
    result[:, 1:] = words
    return result.reshape(-1)
