"""The query methods of an index, each for one pattern and for many."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Self

import numpy as np

from dgr_trainer.index import query_dispatch
from dgr_trainer.index.query_dispatch import Integers
from dgr_trainer.index.segment import Segment


class IndexQueries:
    """The query methods of [`FMIndex`]."""

    _segments: tuple[Segment, ...]

    @property
    def num_segments(self) -> int:
        """Number of segments of the index; a range has one part for each."""
        return len(self._segments)

    @cached_property
    def whole(self) -> np.ndarray:
        """The range of the empty pattern, which occurs everywhere (int64, shape `(num_segments, 2)`)."""
        whole: np.ndarray = query_dispatch.find(self._segments, [[]])[0]
        whole.setflags(write=False)
        return whole

    def empty(self, size: int) -> np.ndarray:
        """Ranges of patterns that do not occur (int64, shape `(size, num_segments, 2)`)."""
        return np.zeros((size, self.num_segments, 2), np.int64)

    # Several readers, who may see different texts of some passages (`EditedIndex`); by default all see the same.

    def for_readers(self, readers: Sequence[int]) -> Self:
        """The index as some of its readers see it, given by their numbers."""
        return self

    def roots(self, ids: Sequence[int], number: int) -> np.ndarray:
        """The range of a pattern for each of `number` readers (int64, shape `(number, num_segments, 2)`)."""
        return np.repeat((self.find(ids) if len(ids) else self.whole)[None], number, axis=0)

    def first_tokens(self, ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        """The tokens that follow a pattern for some reader (int64), and for which of them each does.

        Returns:
            `tuple`: the tokens; and `None` if they follow it for every reader, or a bool array of shape
            `(readers, tokens)`.
        """
        return self.continuations(self.find(ids))[0], None

    # Queries, one at a time

    def find(self, ids: Sequence[int]) -> np.ndarray:
        """The range of a pattern.

        Args:
            ids (`Sequence[int]`): token ids; may hold the separator. The empty pattern occurs everywhere.

        Returns:
            `np.ndarray` of int64, shape `(num_segments, 2)`: the range; zeros if the pattern does not occur.

        Raises:
            ValueError: if a token is outside the vocabulary.
        """
        ranges = self.find_batch([ids])
        return np.asarray(ranges[0])

    def count(self, ids: Sequence[int]) -> int:
        """How often a pattern occurs; see [`FMIndex.find`]."""
        return int(self.counts(self.find(ids)))

    def continuations(self, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The tokens that follow the occurrences of a pattern; see [`FMIndex.continuations_batch`].

        Args:
            found (`np.ndarray` of int64, shape `(num_segments, 2)`): the pattern's range.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: the distinct tokens, and how often each follows (int64).
        """
        _, tokens, counts = self.continuations_batch(np.asarray(found)[None])
        return tokens, counts

    def locate(self, found: np.ndarray, length: int, limit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Where a pattern occurs; see [`FMIndex.locate_batch`].

        Args:
            found (`np.ndarray` of int64, shape `(num_segments, 2)`): the pattern's range.
            length (`int`): number of tokens of the pattern.
            limit (`int`, *optional*): most occurrences to return.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: the passage of each occurrence, and the offset of its first token in it.
        """
        _, passages, offsets = self.locate_batch(np.asarray(found)[None], length, limit)
        return passages, offsets

    def extract(self, passage: int) -> np.ndarray:
        """The tokens of a passage, without the separator (int64); see [`FMIndex.extract_batch`]."""
        return self.extract_batch([passage])[1]

    # Queries, many at a time

    def counts(self, ranges: np.ndarray) -> np.ndarray:
        """How often each of many patterns occurs.

        Args:
            ranges (`np.ndarray` of int64, shape `(..., num_segments, 2)`): the patterns' ranges.

        Returns:
            `np.ndarray` of int64, shape `(...)`: the numbers of occurrences; 0 for empty ranges.

        Raises:
            ValueError: if a range does not belong to this index.
        """
        return query_dispatch.counts(self._segments, ranges)

    def extend(self, ranges: np.ndarray, tokens: Integers, enough: int | None = None) -> np.ndarray:
        """Append a token to each of many patterns, or try several tokens for each.

        Args:
            ranges (`np.ndarray` of int64, shape `(n, num_segments, 2)`): the patterns' ranges; empty ones stay empty.
            tokens (`np.ndarray` of int64, shape `(n,)` or `(n, m)`): the token to append to each pattern, or `m`
                tokens to try separately. The tokens of one range share work, so `(n, m)` takes less time than
                repeating each range `m` times.
            enough (`int`, *optional*): stop trying the tokens of a range, in the order given, once this many occur;
                the remaining tokens get empty ranges.

        Returns:
            `np.ndarray` of int64, shape `(n, num_segments, 2)` or `(n, m, num_segments, 2)`: the new ranges; zeros
            where the new pattern does not occur.

        Raises:
            ValueError: if a range does not belong to this index, a token is outside the vocabulary, or `enough` is
                below 1.
        """
        return query_dispatch.extend(self._segments, ranges, tokens, enough)

    def find_batch(self, patterns: Iterable[Sequence[int]] | np.ndarray) -> np.ndarray:
        """The ranges of many patterns.

        Args:
            patterns (`Iterable[Sequence[int]]`): token ids of each pattern; an array of shape `(n, length)` is
                fastest.

        Returns:
            `np.ndarray` of int64, shape `(n, num_segments, 2)`: the ranges; zeros where a pattern does not occur.

        Raises:
            ValueError: if a token is outside the vocabulary.
        """
        return query_dispatch.find(self._segments, patterns)

    def continuations_batch(self, ranges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The tokens that follow the occurrences of each of many patterns.

        At the end of a passage, the separator follows.

        Args:
            ranges (`np.ndarray` of int64, shape `(n, num_segments, 2)`): the patterns' ranges; nothing follows empty
                ones.

        Returns:
            `tuple[np.ndarray, np.ndarray, np.ndarray]`: `offsets` (int64, shape `(n + 1,)`), `tokens` and `counts`
            (int64). The distinct tokens that follow pattern `i` are `tokens[offsets[i]:offsets[i + 1]]`, in an
            arbitrary but fixed order; the same slice of `counts` says how often each follows.

        Raises:
            ValueError: if a range does not belong to this index.
        """
        return query_dispatch.continuations(self._segments, ranges)

    def locate_batch(
        self, ranges: np.ndarray, lengths: int | Integers, limit: int | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where many patterns occur.

        Args:
            ranges (`np.ndarray` of int64, shape `(n, num_segments, 2)`): the patterns' ranges.
            lengths (`int` or `np.ndarray` of int64, shape `(n,)`): number of tokens of each pattern, which cannot be
                read from its range.
            limit (`int`, *optional*): most occurrences to return of each pattern; always the same ones.

        Returns:
            `tuple[np.ndarray, np.ndarray, np.ndarray]`: for each occurrence (int64), the number of its pattern,
            ascending; its passage; and the offset of its first token in the passage, which is -1 if that token is the
            separator before the passage. The separator alone occurs at the end of each passage.

        Raises:
            ValueError: if a range does not belong to this index, or a length is below 1.
        """
        return query_dispatch.locate(self._segments, ranges, lengths, limit)

    def extract_batch(self, passages: Integers) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of many passages.

        Args:
            passages (`np.ndarray` of int64, shape `(n,)`): the passages' positions in the corpus, from 0.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: `indptr` (int64, shape `(n + 1,)`) and `tokens` (int64). The tokens of the
            `i`-th passage, without the separator, are `tokens[indptr[i]:indptr[i + 1]]`.

        Raises:
            IndexError: if there is no such passage.
        """
        return query_dispatch.extract(self._segments, passages)
