"""Sorts the suffixes of a text of passages in threads, comparing each suffix only up to the end of its passage.

All suffixes are distributed into buckets by their first symbol. In a bucket they are sorted by a key of the next few
symbols, packed into 64 bits; those with equal keys are sorted again by the symbols that follow, until they differ or
their passage ends. Suffixes that are equal up to there stay in text order. So the time does not depend on how much
passages repeat each other, only on how much a passage repeats itself.

Keys are read from all over the text, which does not fit in the caches, so they are prefetched some rows ahead.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dgr_trainer.compilation import compiled, prefetch
from dgr_trainer.index.kernel_threads import run_in_threads

# How many keys per suffix may be read before the text counts as too repetitive for this algorithm.
_KEYS_PER_SUFFIX = 64
# Up to this size, keys are sorted by insertion.
_INSERTION_SIZE = 16
_MAX_SYMBOLS_PER_KEY = 8
_PARTS = 64
# How many rows, or groups of rows with equal keys, ahead of the current one a key is prefetched.
_ROWS_AHEAD = 24
_GROUPS_AHEAD = 12


def sorted_suffixes(text: np.ndarray, separator: int, first_rows: np.ndarray, dtype: Any) -> np.ndarray | None:
    """Sort the suffixes of a text, each up to the first separator after its first symbol.

    Args:
        text (`np.ndarray` of uint16 or uint32, shape `(size,)`): symbols from 0 on, in a ring; the first one is the
            separator.
        separator (`int`): the symbol between passages.
        first_rows (`np.ndarray` of int64, shape `(num_symbols + 1,)`): number of symbols in the text less than each.
        dtype (`np.dtype`): an unsigned integer type that holds a position.

    Returns:
        `np.ndarray` of `dtype`, shape `(size,)`: the starts of the suffixes in ascending order; `None` if passages
        repeat themselves so much that sorting rotations is faster.
    """
    bits = max(1, (len(first_rows) - 2).bit_length())
    width = min(64 // bits, _MAX_SYMBOLS_PER_KEY)
    suffixes = np.empty(len(text), dtype)
    _fill_buckets(text, first_rows, suffixes)
    largest = int(np.diff(first_rows).max())

    def part(start: int, stop: int) -> bool:
        keys = np.empty(min(largest, int(first_rows[stop] - first_rows[start])), np.uint64)
        return bool(_sort_buckets(text, separator, first_rows, suffixes, bits, width, keys, start, stop))

    bounds = np.searchsorted(first_rows, np.linspace(0, len(text), _PARTS + 1)[1:-1])
    bounds = np.unique(np.concatenate([[0], bounds, [len(first_rows) - 1]]))
    return suffixes if all(run_in_threads(part, bounds, len(text))) else None


@compiled
def _fill_buckets(text: np.ndarray, first_rows: np.ndarray, suffixes: np.ndarray) -> None:
    """Distribute suffixes into buckets by their first symbol, in text order."""
    next_rows = first_rows.copy()
    for position in range(len(text)):
        if position + _ROWS_AHEAD < len(text):
            prefetch(suffixes, next_rows[text[position + _ROWS_AHEAD]])
        symbol = text[position]
        suffixes[next_rows[symbol]] = position
        next_rows[symbol] += 1


@compiled
def _key(text: np.ndarray, separator: int, position: int, bits: int, width: int) -> np.uint64:
    """The next `width` symbols of a suffix in one number; those after a separator become zeros."""
    key = np.uint64(0)
    for index in range(width):
        if position >= len(text):
            position -= len(text)
        symbol = np.int64(text[position])
        key = (key << np.uint64(bits)) | np.uint64(symbol)
        if symbol == separator:
            return key << np.uint64(bits * (width - 1 - index))
        position += 1
    return key


@compiled
def _has_separator(key: np.uint64, separator: int, bits: int, width: int) -> bool:
    """Whether the passage ends within a key."""
    mask = (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
    for _ in range(width):
        if key & mask == np.uint64(separator):
            return True
        key >>= np.uint64(bits)
    return False


@compiled
def _prefetch_key(text: np.ndarray, suffixes: np.ndarray, row: int, offset: int) -> None:
    """Prefetch the text that a row's key will be read from."""
    prefetch(text, min(np.int64(suffixes[row]) + offset, len(text) - 1))


@compiled
def _sort_buckets(
    text: np.ndarray,
    separator: int,
    first_rows: np.ndarray,
    suffixes: np.ndarray,
    bits: int,
    width: int,
    keys: np.ndarray,
    start: int,
    stop: int,
) -> bool:
    """Sort the buckets [start, stop); return `False` if that was given up because too many keys were read."""
    budget = _KEYS_PER_SUFFIX * (first_rows[stop] - first_rows[start]) + 1_000_000
    stack = np.empty((64, 3), np.int64)
    waiting = np.empty((128, 2), np.int64)
    for bucket in range(start, stop):
        first, after = first_rows[bucket], first_rows[bucket + 1]
        stack[0, 0], stack[0, 1], stack[0, 2] = first, after, 1
        depth = 1 if after - first > 1 else 0
        while depth > 0:
            depth -= 1
            low, high, offset = stack[depth, 0], stack[depth, 1], stack[depth, 2]
            budget -= high - low
            if budget < 0:
                return False
            if depth >= _GROUPS_AHEAD:
                soon = depth - _GROUPS_AHEAD
                for row in range(stack[soon, 0], min(stack[soon, 0] + _ROWS_AHEAD, stack[soon, 1])):
                    _prefetch_key(text, suffixes, row, stack[soon, 2])
            for row in range(low, high):
                if row + _ROWS_AHEAD < high:
                    _prefetch_key(text, suffixes, row + _ROWS_AHEAD, offset)
                keys[row - first] = _key(text, separator, np.int64(suffixes[row]) + offset, bits, width)
            _sort_by_key(keys, suffixes, low - first, high - first, first, waiting)
            row = low
            while row < high:
                end = row + 1
                key = keys[row - first]
                while end < high and keys[end - first] == key:
                    end += 1
                if end - row > 1:
                    if _has_separator(key, separator, bits, width):
                        suffixes[row:end].sort()
                    else:
                        if depth == len(stack):
                            larger = np.empty((2 * depth, 3), np.int64)
                            larger[:depth] = stack
                            stack = larger
                        stack[depth, 0], stack[depth, 1], stack[depth, 2] = row, end, offset + width
                        depth += 1
                row = end
    return True


@compiled
def _sort_by_key(keys: np.ndarray, suffixes: np.ndarray, low: int, high: int, first: int, stack: np.ndarray) -> None:
    """Sort keys[low:high], and the suffixes from `first` on along with them: quicksort without branches on the keys.

    `stack` (`np.ndarray` of int64, shape `(128, 2)`) is working memory.
    """
    stack[0, 0], stack[0, 1] = low, high
    depth = 1
    while depth > 0:
        depth -= 1
        low, high = stack[depth, 0], stack[depth, 1]
        while high - low > _INSERTION_SIZE:
            size = high - low
            a, b, c = keys[low + size // 4], keys[low + size // 2], keys[high - 1 - size // 4]
            if a > b:
                a, b = b, a
            pivot = min(b, c) if c > a else a
            middle = low
            for index in range(low, high):
                key, suffix = keys[index], suffixes[first + index]
                keys[index], suffixes[first + index] = keys[middle], suffixes[first + middle]
                keys[middle], suffixes[first + middle] = key, suffix
                middle += key < pivot
            # Keys equal to the pivot need no sorting: they are moved aside if the halves would be too uneven.
            upper = middle
            if middle - low < size // 8:
                for index in range(middle, high):
                    key, suffix = keys[index], suffixes[first + index]
                    keys[index], suffixes[first + index] = keys[upper], suffixes[first + upper]
                    keys[upper], suffixes[first + upper] = key, suffix
                    upper += key == pivot
            # The larger half goes on the stack, which so stays small.
            if middle - low < high - upper:
                stack[depth, 0], stack[depth, 1] = upper, high
                high = middle
            else:
                stack[depth, 0], stack[depth, 1] = low, middle
                low = upper
            depth += 1
        for index in range(low + 1, high):
            key, suffix = keys[index], suffixes[first + index]
            hole = index
            while hole > low and keys[hole - 1] > key:
                keys[hole], suffixes[first + hole] = keys[hole - 1], suffixes[first + hole - 1]
                hole -= 1
            keys[hole], suffixes[first + hole] = key, suffix
