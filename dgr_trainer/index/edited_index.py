"""An index as several readers see it: to each of them, some passages have another text.

A pattern occurs as often as in the index, less its occurrences in the passages that have another text, plus those in
their other texts. Both of these texts are small, so they are indexed in milliseconds ([`SmallTexts`]), for all readers
together, and every answer is that of an index that was built with the other texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from dgr_trainer.index.fm_index import FMIndex
from dgr_trainer.index.query_dispatch import Integers
from dgr_trainer.index.small_texts import SmallTexts, corrected_continuations

# Parts of a range after those in the segments of the index.
_REMOVED = -3  # rows of the texts that the reader does not see
_ADDED = -2  # rows of the texts that are there for the reader only
_READER = -1  # the number of the reader, and 0
_PARTS = 3


class Edits:
    """Other texts of some passages of an index, for each of several readers.

    Args:
        index ([`FMIndex`]): The index.
        texts (`Sequence[Mapping[int, np.ndarray]]`): For each reader, other tokens of passages, by their positions.
    """

    def __init__(self, index: FMIndex, texts: Sequence[Mapping[int, np.ndarray]]) -> None:
        self.index = index
        self.texts = [dict(sorted(text.items())) for text in texts]
        positions = sorted({position for text in texts for position in text})
        indptr, tokens = index.extract_batch(positions)
        parts = np.split(tokens, indptr[1:-1])
        originals = dict(zip(positions, parts, strict=True)) if positions else {}
        self.removed = SmallTexts([{one: originals[one] for one in text} for text in self.texts], index.separator)
        self.added = SmallTexts(self.texts, index.separator)


class EditedIndex(FMIndex):
    """Answers questions about an index for one reader, or for several in turn.

    The ranges of an index with several readers know whose they are. They come from `roots`; what needs no range is
    asked of an index for one reader (`for_readers`). It is for searching only.

    Args:
        edits ([`Edits`]): The index, and what each reader sees otherwise.
        readers (`Sequence[int]`): The numbers of the readers.
    """

    def __init__(self, edits: Edits, readers: Sequence[int]) -> None:
        # FMIndex.__init__ is not called: this class has no segments, and replaces all that a search reads of them.
        index = edits.index
        self._edits, self._index, self._readers = edits, index, [int(reader) for reader in readers]
        self.num_passages, self.vocab_size, self.separator = index.num_passages, index.vocab_size, index.separator
        self.tokenizer_fingerprint, self.corpus_fingerprint = index.tokenizer_fingerprint, ""
        self.passage_ids = index.passage_ids

    def for_readers(self, readers: Sequence[int]) -> EditedIndex:
        """The index for some of its readers, given by their numbers among them."""
        return EditedIndex(self._edits, [self._readers[reader] for reader in readers])

    @property
    def _reader(self) -> int:
        (reader,) = self._readers
        return reader

    # Contents

    @property
    def num_segments(self) -> int:
        """Number of parts of a range."""
        return self._index.num_segments + _PARTS

    @cached_property
    def token_counts(self) -> np.ndarray:
        """See [`FMIndex.token_counts`]."""
        counts = self._index.token_counts.copy()
        for texts, sign in ((self._edits.removed, -1), (self._edits.added, 1)):
            tokens, of_tokens = texts.token_counts(self._reader)
            counts[tokens] += sign * of_tokens
        return counts

    @cached_property
    def passage_lengths(self) -> np.ndarray:
        """See [`FMIndex.passage_lengths`]."""
        lengths = self._index.passage_lengths.copy()
        for position, tokens in self._edits.texts[self._reader].items():
            lengths[position] = len(tokens)
        return lengths

    # Queries

    @cached_property
    def whole(self) -> np.ndarray:
        """See [`FMIndex.whole`]."""
        return self.find([])

    def roots(self, ids: Sequence[int], number: int) -> np.ndarray:
        """See [`FMIndex.roots`]."""
        base = np.repeat(self._index.find(ids)[None], len(self._readers), axis=0)
        return self._ranges(base, [list(ids)] * len(self._readers), np.array(self._readers, np.int64))

    def first_tokens(self, ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        """See [`FMIndex.first_tokens`]."""
        tokens, counts = self._index.continuations(self._index.find(ids))
        roots = self.roots(ids, len(self._readers))
        following = [
            [texts.next_tokens[low:high] for low, high in roots[:, part].tolist()]
            for texts, part in ((self._edits.removed, _REMOVED), (self._edits.added, _ADDED))
        ]
        more = np.setdiff1d(np.concatenate(following[1]), tokens)
        tokens = np.concatenate([tokens, more]).astype(np.int64)
        counts = np.concatenate([counts, np.zeros(len(more), np.int64)])
        columns = np.full(self.vocab_size, -1, np.int64)
        columns[tokens] = np.arange(len(tokens))
        occurs = np.repeat((counts > 0)[None], len(self._readers), axis=0)
        for row, (removed, added) in enumerate(zip(*following, strict=True)):
            changed = columns[np.concatenate([removed, added])]
            signs = np.repeat([-1, 1], [len(removed), len(added)])
            own = np.bincount(changed, weights=signs, minlength=len(tokens)) if len(changed) else np.zeros(len(tokens))
            occurs[row, changed] = counts[changed] + own[changed] > 0
        occurs[self.counts(roots) == 0] = False
        return tokens, occurs

    def find_batch(self, patterns: Iterable[Sequence[int]] | np.ndarray) -> np.ndarray:
        """See [`FMIndex.find_batch`]; for an index with one reader."""
        patterns = [list(map(int, pattern)) for pattern in patterns]
        readers = np.full(len(patterns), self._reader, np.int64)
        return self._ranges(self._index.find_batch(patterns), patterns, readers)

    def _ranges(self, base: np.ndarray, patterns: Sequence[Sequence[int]], readers: np.ndarray) -> np.ndarray:
        indptr = np.zeros(len(patterns) + 1, np.int64)
        np.cumsum([len(pattern) for pattern in patterns], out=indptr[1:])
        tokens = np.fromiter(chain.from_iterable(patterns), np.int64, int(indptr[-1]))
        ranges = self.empty(len(patterns))
        ranges[:, :-_PARTS] = base
        ranges[:, _REMOVED] = self._edits.removed.find(indptr, tokens, readers)
        ranges[:, _ADDED] = self._edits.added.find(indptr, tokens, readers)
        ranges[:, _READER, 0] = readers
        return self._without_empty(ranges)

    def _without_empty(self, ranges: np.ndarray) -> np.ndarray:
        """Put zeros where a pattern does not occur."""
        ranges[self.counts(ranges) == 0] = 0
        return ranges

    def counts(self, ranges: np.ndarray) -> np.ndarray:
        """See [`FMIndex.counts`]."""
        ranges = np.asarray(ranges)
        sizes = ranges[..., _REMOVED:_READER, 1] - ranges[..., _REMOVED:_READER, 0]
        counts: np.ndarray = self._index.counts(ranges[..., :-_PARTS, :]) - sizes[..., 0] + sizes[..., 1]
        return counts

    def extend(self, ranges: np.ndarray, tokens: Integers, enough: int | None = None) -> np.ndarray:
        """See [`FMIndex.extend`]."""
        ranges, tokens = np.asarray(ranges), np.asarray(tokens, dtype=np.int64)
        sizes = ranges[:, _REMOVED:_READER, 1] - ranges[:, _REMOVED:_READER, 0]
        own = (sizes > 0).any(axis=1)
        extended = np.zeros((*tokens.shape, self.num_segments, 2), np.int64)
        base = ranges[:, :-_PARTS]
        extended[~own, ..., :-_PARTS, :] = self._index.extend(base[~own], tokens[~own], enough)
        extended[..., _READER, 0] = ranges[:, _READER, 0].reshape(-1, *[1] * (tokens.ndim - 1))
        if own.any():
            # All of their tokens: which of them are enough is not known before the counts are corrected.
            extended[own, ..., :-_PARTS, :] = self._index.extend(base[own], tokens[own])
            readers = ranges[own, _READER, 0]
            table = tokens[own].reshape(len(readers), -1)
            for texts, part in ((self._edits.removed, _REMOVED), (self._edits.added, _ADDED)):
                small = texts.extend(np.ascontiguousarray(ranges[own, part]), table, readers)
                extended[own, ..., part, :] = small.reshape(*tokens[own].shape, 2)
        return self._without_empty(extended)

    def continuations_batch(self, ranges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See [`FMIndex.continuations_batch`]."""
        ranges = np.asarray(ranges)
        corrected: tuple[np.ndarray, np.ndarray, np.ndarray] = corrected_continuations(
            *self._index.continuations_batch(ranges[:, :-_PARTS]),
            np.ascontiguousarray(ranges[:, _REMOVED]),
            self._edits.removed.next_tokens,
            np.ascontiguousarray(ranges[:, _ADDED]),
            self._edits.added.next_tokens,
            self.vocab_size,
        )
        return corrected

    def locate_batch(
        self, ranges: np.ndarray, lengths: int | Integers, limit: int | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See [`FMIndex.locate_batch`]; for an index with one reader."""
        ranges = np.asarray(ranges)
        all_lengths = np.broadcast_to(np.asarray(lengths, np.int64), len(ranges))
        edited = np.array(sorted(self._edits.texts[self._reader]), np.int64)
        # So many more that enough remain without those in the texts that the reader does not see.
        sizes = ranges[:, _REMOVED, 1] - ranges[:, _REMOVED, 0]
        more = None if limit is None else limit + int(sizes.max(initial=0))
        found = self._index.locate_batch(ranges[:, :-_PARTS], all_lengths, more)
        kept = ~np.isin(found[1], edited)
        added = self._edits.added.locate(ranges[:, _ADDED], all_lengths)
        numbers, passages, offsets = (
            np.concatenate([column[kept], more_of_it]) for column, more_of_it in zip(found, added, strict=True)
        )
        order = np.argsort(numbers, kind="stable")
        if limit is not None:
            ordered = numbers[order]
            order = order[np.arange(len(order)) - np.searchsorted(ordered, ordered) < limit]
        return numbers[order], passages[order], offsets[order]

    def extract_batch(self, passages: Integers) -> tuple[np.ndarray, np.ndarray]:
        """See [`FMIndex.extract_batch`]; for an index with one reader."""
        texts = self._edits.texts[self._reader]
        indptr, tokens = self._index.extract_batch(passages)
        numbers = [number for number, passage in enumerate(np.asarray(passages).tolist()) if passage in texts]
        if not numbers:
            return indptr, tokens
        parts: list[Any] = np.split(tokens, indptr[1:-1])
        for number in numbers:
            parts[number] = texts[int(passages[number])]
        sizes = [len(part) for part in parts]
        return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), np.concatenate(parts).astype(np.int64)

    def __repr__(self) -> str:
        return f"EditedIndex({self._index!r}, {len(self._readers)} readers)"
