"""The sorted rotations of a ring of symbols, by a library that sorts the suffixes of byte strings.

A ring has no end that would need a symbol of its own. Its rotations are sorted by cutting it where its least rotation
starts: from there, the order of the suffixes is that of the rotations. Symbols become one to three bytes each, by a
code that keeps their order and spends one byte on the first ones; the suffixes that start inside a symbol are dropped.
"""

from __future__ import annotations

import numpy as np
from pydivsufsort import divsufsort

from dgr_trainer.index.bit_vector import BLOCK_WORDS, compiled, finish_ranks, num_blocks, rank_and_bit, set_bit


@compiled
def least_rotation(ring: np.ndarray) -> tuple[int, int]:
    """Where the least rotation of a ring starts, and the ring's period (its length, unless it repeats itself).

    Two candidates are compared symbol by symbol; the one that loses takes all positions it matched with it.
    """
    size = len(ring)
    first, second, matched = 0, 1, 0
    while second < size and first < size and matched < size:
        left, right = first + matched, second + matched
        a = ring[left if left < size else left - size]
        b = ring[right if right < size else right - size]
        if a == b:
            matched += 1
            continue
        if a > b:
            first += matched + 1
        else:
            second += matched + 1
        if first == second:
            second += 1
        matched = 0
    if matched == size:
        return min(first, second), abs(second - first)
    return min(first, second), size


def byte_code(counts: np.ndarray) -> tuple[int, int]:
    """Choose how many symbols take one byte and how many first bytes open two, so that the byte string is short.

    Args:
        counts (`np.ndarray` of int64, shape `(num_symbols,)`): how often each symbol occurs.

    Returns:
        `tuple[int, int]`: the number of symbols of one byte, and the number of first bytes of two-byte symbols; the
        remaining first bytes open three.
    """
    size = len(counts)
    ones, twos = np.meshgrid(np.arange(257), np.arange(257), indexing="ij")
    threes = 256 - ones - twos
    fits = (threes >= 0) & (ones + 256 * twos + 65536 * threes >= size)
    before = np.concatenate([[0], np.cumsum(counts)])
    total = before[-1]
    length = (total - before[np.minimum(ones, size)]) + (total - before[np.minimum(ones + 256 * twos, size)])
    best = int(np.argmin(np.where(fits, length, np.iinfo(np.int64).max)))
    return int(ones.flat[best]), int(twos.flat[best])


@compiled
def _encode(ring: np.ndarray, start: int, ones: int, twos: int, out: np.ndarray, starts: np.ndarray) -> None:
    """Write the rotation of the ring that starts at `start` as bytes, and mark where symbols start."""
    size = len(ring)
    position = 0
    for step in range(size):
        index = start + step
        symbol = ring[index if index < size else index - size]
        set_bit(starts, 0, position)
        if symbol < ones:
            out[position] = symbol
            position += 1
            continue
        symbol -= ones
        if symbol < 256 * twos:
            out[position] = ones + (symbol >> 8)
            out[position + 1] = symbol & 255
            position += 2
            continue
        symbol -= 256 * twos
        out[position] = ones + twos + (symbol >> 16)
        out[position + 1] = (symbol >> 8) & 255
        out[position + 2] = symbol & 255
        position += 3


@compiled
def _keep_symbol_starts(suffixes: np.ndarray, starts: np.ndarray) -> int:
    """Drop, in place, the suffixes that start inside a symbol; turn byte positions into symbol positions."""
    kept = 0
    for index in range(len(suffixes)):
        before, is_start = rank_and_bit(starts, 0, suffixes[index])
        if is_start:
            suffixes[kept] = before
            kept += 1
    return kept


def sorted_rotations(ring: np.ndarray, counts: np.ndarray, force64: bool = False) -> tuple[np.ndarray, int, int]:
    """Sort the rotations of a ring.

    Args:
        ring (`np.ndarray` of int32, shape `(size,)`): symbols from 0 on; fewest bytes are used when the frequent come
            first.
        counts (`np.ndarray` of int64, shape `(num_symbols,)`): how often each symbol occurs.
        force64 (`bool`, *optional*, defaults to `False`): use 64-bit positions even where 32 bits hold them.

    Returns:
        `tuple[np.ndarray, int, int]`: the starts of the rotations in ascending order, counted from `start` (equal
        rotations stand together, in no useful order); `start`, where the least rotation starts; and the ring's period.
    """
    start, period = least_rotation(ring)
    ones, twos = byte_code(counts)
    two_bytes = int(counts[ones:].sum())
    three_bytes = int(counts[ones + 256 * twos :].sum())
    encoded = np.empty(len(ring) + two_bytes + three_bytes, np.uint8)
    starts = np.zeros(num_blocks(len(encoded)) * BLOCK_WORDS, np.uint64)
    _encode(ring, start, ones, twos, encoded, starts)
    finish_ranks(starts, 0, len(encoded))
    suffixes = divsufsort(encoded, force64=force64)
    kept = _keep_symbol_starts(suffixes, starts)
    return suffixes[:kept], int(start), int(period)
