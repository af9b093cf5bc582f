"""Indexes of a few passages each, made in milliseconds: what one reader sees otherwise than the others.

Each reader has a text of its own: some passages, each followed by the separator, the last of them by the first. As in
an FM-index, a row is a position of the text, rows are sorted by the tokens up to their position, read backwards, and a
pattern is a range of rows. The rows of all readers are in the same arrays, one reader after another. A range is
extended by binary search instead of a wavelet matrix, in the list of the rows that its token follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dgr_trainer.compilation import compiled


class SmallTexts:
    """Answers the questions of an index for the texts of several readers.

    Ranges are int64 arrays of shape `(n, 2)`; `readers` (int64, shape `(n,)`) says whose they are.

    Args:
        texts (`Sequence[Mapping[int, np.ndarray]]`): For each reader, the tokens of passages by their positions.
        separator (`int`): The token id after each passage.

    Attributes:
        next_tokens (`np.ndarray` of int64): The token that follows each row's position.
    """

    def __init__(self, texts: Sequence[Mapping[int, np.ndarray]], separator: int) -> None:
        self._separator = separator
        passages = [
            (reader, position, tokens) for reader, text in enumerate(texts) for position, tokens in text.items()
        ]
        lengths = np.array([len(tokens) + 1 for _, _, tokens in passages], np.int64)
        size = int(lengths.sum())
        tokens = np.full(size, separator, np.int64)
        starts = np.cumsum(lengths) - lengths
        for start, (_, _, of_passage) in zip(starts.tolist(), passages, strict=True):
            tokens[start : start + len(of_passage)] = of_passage
        readers = np.repeat(np.array([reader for reader, _, _ in passages], np.int64), lengths)
        self._starts = np.searchsorted(readers, np.arange(len(texts) + 1))
        before = np.arange(size) - 1
        occupied = np.flatnonzero(np.diff(self._starts))
        before[self._starts[occupied]] = self._starts[occupied + 1] - 1
        ranks = _cyclic_ranks(readers, tokens, before)
        places = np.argsort(ranks, kind="stable")  # The text position of each row.
        rows = np.empty(size, np.int64)
        rows[places] = np.arange(size)
        self._tokens = tokens[places]
        # The row before each row, ascending where reader and token are the same: rows of equal contexts may be
        # exchanged.
        sources = rows[before[places]]
        self._sources = sources[np.lexsort((sources, self._tokens, readers[places]))]
        following = np.empty(size, np.int64)
        following[before] = np.arange(size)
        self.next_tokens = tokens[following[places]]
        self._passages = np.repeat(np.array([position for _, position, _ in passages], np.int64), lengths)[places]
        self._offsets = (np.arange(size) - np.repeat(starts, lengths))[places]
        self._counts = [np.unique(tokens[self._starts[n] : self._starts[n + 1]], return_counts=True)
                        for n in range(len(texts))]  # fmt: skip

    def token_counts(self, reader: int) -> tuple[np.ndarray, np.ndarray]:
        """The distinct tokens of a reader's text, separators included, and how often each occurs."""
        return self._counts[reader]

    def find(self, indptr: np.ndarray, tokens: np.ndarray, readers: np.ndarray) -> np.ndarray:
        """The ranges of the patterns `tokens[indptr[i]:indptr[i + 1]]`; zeros where one does not occur."""
        ranges = np.zeros((len(readers), 2), np.int64)
        _find(self._starts, self._tokens, self._sources, self._separator, indptr, tokens, readers, ranges)
        return ranges

    def extend(self, ranges: np.ndarray, tokens: np.ndarray, readers: np.ndarray) -> np.ndarray:
        """The ranges after each of the tokens (int64, shape `(n, m)`) is appended: shape `(n, m, 2)`."""
        extended = np.zeros((*tokens.shape, 2), np.int64)
        _extend(self._starts, self._tokens, self._sources, ranges, tokens, readers, extended)
        return extended

    def locate(self, ranges: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Number of the pattern, passage and offset of each occurrence; see `FMIndex.locate_batch`."""
        sizes = ranges[:, 1] - ranges[:, 0]
        numbers = np.repeat(np.arange(len(ranges)), sizes)
        rows = np.arange(len(numbers)) + np.repeat(ranges[:, 0] - np.cumsum(sizes) + sizes, sizes)
        return numbers, self._passages[rows], self._offsets[rows] - lengths[numbers] + 1


def _cyclic_ranks(readers: np.ndarray, tokens: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Rank text positions by reader, then by their tokens read backwards; equal ones have the same rank.

    Prefix doubling: the ranks by twice as many tokens follow from those of a position and of the one that is as many
    tokens before it.
    """
    size = len(tokens)
    if not size:
        return np.zeros(0, np.int64)
    ranks = np.unique(readers * (int(tokens.max()) + 1) + tokens, return_inverse=True)[1].astype(np.int64)
    number = 0
    while number < int(ranks.max()) + 1 < size:
        number = int(ranks.max()) + 1
        ranks = np.unique(ranks * size + ranks[before], return_inverse=True)[1].astype(np.int64)
        before = before[before]
    return ranks


@compiled
def _lower_bound(values: np.ndarray, first: int, last: int, value: int) -> int:
    """The first position in the ascending `values[first:last]` that holds `value` or more."""
    while first < last:
        middle = (first + last) // 2
        if values[middle] < value:
            first = middle + 1
        else:
            last = middle
    return first


@compiled
def _extended(
    starts: np.ndarray, row_tokens: np.ndarray, sources: np.ndarray, reader: int, low: int, high: int, token: int
) -> tuple[int, int]:
    """A range extended by a token; (0, 0) if the longer pattern does not occur."""
    if low >= high:
        return 0, 0
    first = _lower_bound(row_tokens, starts[reader], starts[reader + 1], token)
    last = _lower_bound(row_tokens, first, starts[reader + 1], token + 1)
    new_low = _lower_bound(sources, first, last, low)
    new_high = _lower_bound(sources, new_low, last, high)
    if new_low >= new_high:
        return 0, 0
    return new_low, new_high


@compiled
def _find(
    starts: np.ndarray,
    row_tokens: np.ndarray,
    sources: np.ndarray,
    separator: int,
    indptr: np.ndarray,
    tokens: np.ndarray,
    readers: np.ndarray,
    ranges: np.ndarray,
) -> None:
    """Find patterns; one with a separator in its middle does not occur."""
    for item in range(len(readers)):
        reader = readers[item]
        low, high = starts[reader], starts[reader + 1]
        for position in range(indptr[item], indptr[item + 1]):
            if position == indptr[item]:
                low = _lower_bound(row_tokens, starts[reader], starts[reader + 1], tokens[position])
                high = _lower_bound(row_tokens, low, starts[reader + 1], tokens[position] + 1)
            elif position > indptr[item] + 1 and tokens[position - 1] == separator:
                low, high = 0, 0
            else:
                low, high = _extended(starts, row_tokens, sources, reader, low, high, tokens[position])
        if low < high:
            ranges[item, 0], ranges[item, 1] = low, high


@compiled
def _extend(
    starts: np.ndarray,
    row_tokens: np.ndarray,
    sources: np.ndarray,
    ranges: np.ndarray,
    tokens: np.ndarray,
    readers: np.ndarray,
    extended: np.ndarray,
) -> None:
    for item in range(len(ranges)):
        low, high = ranges[item, 0], ranges[item, 1]
        if low < high:
            for column in range(tokens.shape[1]):
                new_low, new_high = _extended(
                    starts, row_tokens, sources, readers[item], low, high, tokens[item, column]
                )
                extended[item, column, 0], extended[item, column, 1] = new_low, new_high


@compiled
def corrected_continuations(
    offsets: np.ndarray,
    tokens: np.ndarray,
    counts: np.ndarray,
    removed_ranges: np.ndarray,
    removed_tokens: np.ndarray,
    added_ranges: np.ndarray,
    added_tokens: np.ndarray,
    vocab_size: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correct the continuations of ranges: offsets, tokens and counts.

    `removed_tokens` and `added_tokens` are the tokens that follow each row of the texts that a reader does not see,
    and of those that are there for that reader only.
    """
    total = len(tokens)
    for index in range(len(offsets) - 1):
        total += added_ranges[index, 1] - added_ranges[index, 0]
    new_offsets = np.zeros(len(offsets), np.int64)
    new_tokens, new_counts = np.empty(total, np.int64), np.empty(total, np.int64)
    entries = np.full(vocab_size, -1, np.int64)
    used = 0
    for index in range(len(offsets) - 1):
        begin = used
        for entry in range(offsets[index], offsets[index + 1]):
            new_tokens[used], new_counts[used] = tokens[entry], counts[entry]
            used += 1
        removed_low, removed_high = removed_ranges[index, 0], removed_ranges[index, 1]
        added_low, added_high = added_ranges[index, 0], added_ranges[index, 1]
        if removed_low < removed_high or added_low < added_high:
            for entry in range(begin, used):
                entries[new_tokens[entry]] = entry
            for row in range(removed_low, removed_high):
                token = removed_tokens[row]
                if entries[token] >= 0:  # Always, except after a separator, where the result is undefined.
                    new_counts[entries[token]] -= 1
            for row in range(added_low, added_high):
                token = added_tokens[row]
                if entries[token] < 0:
                    entries[token] = used
                    new_tokens[used], new_counts[used] = token, 0
                    used += 1
                new_counts[entries[token]] += 1
            kept = begin
            for entry in range(begin, used):
                entries[new_tokens[entry]] = -1
            for entry in range(begin, used):
                if new_counts[entry] > 0:
                    new_tokens[kept], new_counts[kept] = new_tokens[entry], new_counts[entry]
                    kept += 1
            used = kept
        new_offsets[index + 1] = used
    return new_offsets, new_tokens[:used], new_counts[:used]
