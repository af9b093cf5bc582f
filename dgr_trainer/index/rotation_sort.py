"""Sorts the rotations of a ring of symbols with a library that sorts the suffixes of byte strings.

A ring needs no special symbol for its end. It is cut where its least rotation starts: from there, its suffixes have
the same order as its rotations. Symbols are encoded as one to three bytes each, with one byte for the first symbols,
so that their order is kept; the suffixes that start inside a symbol are dropped.
"""

from __future__ import annotations

import numpy as np
from pydivsufsort import divsufsort

from dgr_trainer.compilation import compiled
from dgr_trainer.index.bit_vector import BLOCK_WORDS, finish_ranks, num_blocks, rank_and_bit, set_bit


@compiled
def least_rotation(ring: np.ndarray) -> tuple[int, int]:
    """Where the least rotation of a ring starts, and the ring's period (its length, unless it repeats itself).

    Two candidates are compared symbol by symbol; the loser rules out all positions that it matched.
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
    """Choose how many symbols take one byte, and how many first bytes start two-byte symbols, for a short string.

    Args:
        counts (`np.ndarray` of int64, shape `(num_symbols,)`): how often each symbol occurs.

    Returns:
        `tuple[int, int]`: the number of symbols of one byte, and the number of first bytes of two-byte symbols; the
        remaining first bytes start three-byte symbols.
    """
    size = len(counts)
    one_byte, two_byte = np.meshgrid(np.arange(257), np.arange(257), indexing="ij")
    three_byte = 256 - one_byte - two_byte
    fits = (three_byte >= 0) & (one_byte + 256 * two_byte + 65536 * three_byte >= size)
    before = np.concatenate([[0], np.cumsum(counts)])
    total = before[-1]
    length = (total - before[np.minimum(one_byte, size)]) + (
        total - before[np.minimum(one_byte + 256 * two_byte, size)]
    )
    best = int(np.argmin(np.where(fits, length, np.iinfo(np.int64).max)))
    return int(one_byte.flat[best]), int(two_byte.flat[best])


@compiled
def _encode(ring: np.ndarray, start: int, one_byte: int, two_byte: int, out: np.ndarray, starts: np.ndarray) -> None:
    """Write the rotation of the ring that starts at `start` as bytes, and mark where symbols start."""
    size = len(ring)
    position = 0
    for step in range(size):
        index = start + step
        symbol = ring[index if index < size else index - size]
        set_bit(starts, 0, position)
        if symbol < one_byte:
            out[position] = symbol
            position += 1
            continue
        symbol -= one_byte
        if symbol < 256 * two_byte:
            out[position] = one_byte + (symbol >> 8)
            out[position + 1] = symbol & 255
            position += 2
            continue
        symbol -= 256 * two_byte
        out[position] = one_byte + two_byte + (symbol >> 16)
        out[position + 1] = (symbol >> 8) & 255
        out[position + 2] = symbol & 255
        position += 3


@compiled
def _keep_symbol_starts(suffixes: np.ndarray, starts: np.ndarray) -> int:
    """Drop, in place, the suffixes that start inside a symbol; convert byte positions to symbol positions."""
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
        ring (`np.ndarray` of int32, shape `(size,)`): symbols from 0 on; the byte string is shortest if the most
            frequent symbols come first.
        counts (`np.ndarray` of int64, shape `(num_symbols,)`): how often each symbol occurs.
        force64 (`bool`, *optional*, defaults to `False`): use 64-bit positions even if 32 bits are enough.

    Returns:
        `tuple[np.ndarray, int, int]`: the starts of the rotations in ascending order, relative to `start` (equal
        rotations in arbitrary order); `start`, where the least rotation starts; and the ring's period.
    """
    start, period = least_rotation(ring)
    one_byte, two_byte = byte_code(counts)
    num_two_byte = int(counts[one_byte:].sum())
    num_three_byte = int(counts[one_byte + 256 * two_byte :].sum())
    encoded = np.empty(len(ring) + num_two_byte + num_three_byte, np.uint8)
    starts = np.zeros(num_blocks(len(encoded)) * BLOCK_WORDS, np.uint64)
    _encode(ring, start, one_byte, two_byte, encoded, starts)
    finish_ranks(starts, 0, len(encoded))
    suffixes = divsufsort(encoded, force64=force64)
    kept = _keep_symbol_starts(suffixes, starts)
    return suffixes[:kept], int(start), int(period)
