"""The FM-index over a tokenised corpus: which token sequences occur, what follows them, and where."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dgr_trainer.index import batches
from dgr_trainer.index.batches import Integers
from dgr_trainer.index.build import IndexArrays, build_index, encoded_passages
from dgr_trainer.index.passage_ids import PassageIds
from dgr_trainer.index.storage import load_index, save_index

if TYPE_CHECKING:
    from dgr_trainer.corpus import Corpus
    from dgr_trainer.identifiers import Identifiers


class FMIndex:
    """Full-text index over a corpus of token sequences, in four to five bytes a token.

    It answers, for any sequence of tokens (a pattern): how often does it occur in the corpus, which tokens follow it,
    and in which passages does it occur. Appending a token to a pattern costs the same however long the pattern and
    large the corpus. A pattern is known by its range, which is what the index knows of its occurrences: an array of
    int64 of shape `(num_segments, 2)`, many of them an array of shape `(n, num_segments, 2)`. Ranges can be stacked,
    selected and reordered along their first axis as any array; what stands in them is for this index alone to read.

    Each passage is followed by a separator, and the last is followed by the first: so every passage, the first too,
    stands between separators. A pattern may hold the separator; `(separator, *title)` occurs where a passage
    starts with that title.

    Ferragina and Manzini, "Opportunistic data structures with applications" (FOCS 2000), on the reversed text, so that
    backward search appends; the Burrows-Wheeler transform is kept in a Huffman-shaped wavelet matrix (Claude,
    Navarro and Ordonez, Information Systems 47, 2015). Beside it the text itself is kept, for extraction.

    Queries have a form for one pattern and a form for many, which runs in compiled code without the interpreter's
    lock, and for large batches in `numba.config.NUMBA_NUM_THREADS` threads. Results do not depend on their number.

    Make one with [`FMIndex.build`], [`FMIndex.from_corpus`] or [`FMIndex.load`].

    Example:

    ```python
    >>> index = FMIndex.build([[5, 6, 7], [5, 6]], passage_ids=["a", "b"], vocab_size=8, separator=2)
    >>> index.count([5, 6])
    2
    >>> found = index.find([5, 6])
    >>> tokens, counts = index.continuations(found)
    >>> dict(zip(tokens.tolist(), counts.tolist()))
    {2: 1, 7: 1}
    ```
    """

    def __init__(self, arrays: IndexArrays, settings: dict[str, Any]) -> None:
        self._arrays = arrays
        self._segments = (arrays,)
        self._settings = settings
        self.num_tokens: int = settings["num_tokens"]
        self.num_passages: int = settings["num_passages"]
        self.vocab_size: int = settings["vocab_size"]
        self.separator: int = settings["separator"]
        self.tokenizer_fingerprint: str = settings["tokenizer_fingerprint"]
        self.corpus_fingerprint: str = settings["corpus_fingerprint"]
        self.passage_ids = PassageIds(arrays.id_bytes, arrays.id_offsets, arrays.id_order)

    # Making, saving, loading

    @classmethod
    def build(
        cls,
        sequences: Iterable[Sequence[int]],
        *,
        passage_ids: Iterable[str],
        vocab_size: int,
        separator: int,
        tokenizer_fingerprint: str = "",
        corpus_fingerprint: str = "",
        progress: bool = True,
        total: int | None = None,
    ) -> FMIndex:
        """Index token sequences.

        Args:
            sequences (`Iterable[Sequence[int]]`): the token ids of each passage, without separators; read once. A
                sequence may be empty.
            passage_ids (`Iterable[str]`): the id of each passage, in the same order.
            vocab_size (`int`): number of token ids: every token is in `[0, vocab_size)`.
            separator (`int`): the token id put after each passage; no sequence may hold it.
            tokenizer_fingerprint (`str`, *optional*, defaults to `""`): says which tokenizer made the sequences, see
                [`FMIndex.load`].
            corpus_fingerprint (`str`, *optional*, defaults to `""`): says which corpus they are of.
            progress (`bool`, *optional*, defaults to `True`): show a progress bar.
            total (`int`, *optional*): number of sequences, for the progress bar; not needed if `sequences` or
                `passage_ids` has a length.

        Returns:
            [`FMIndex`]: the index, in memory.

        Raises:
            TypeError: if a sequence holds anything but integers, or an id is not a string.
            ValueError: if there is no sequence, a token is outside the vocabulary or is the separator, an id occurs
                twice, or there are not as many ids as sequences.
        """
        arrays, settings = build_index(sequences, passage_ids, int(vocab_size), int(separator), progress, total)
        settings |= {"tokenizer_fingerprint": tokenizer_fingerprint, "corpus_fingerprint": corpus_fingerprint}
        return cls(arrays, settings)

    @classmethod
    def from_corpus(
        cls, corpus: Corpus, identifiers: Identifiers, *, batch_size: int = 1024, progress: bool = True
    ) -> FMIndex:
        """Index the passages of a corpus, with their titles, pseudo-queries and docids.

        Args:
            corpus ([`Corpus`]): the passages.
            identifiers ([`Identifiers`]): turns a passage into tokens; its end-of-sequence token is the separator.
            batch_size (`int`, *optional*, defaults to 1024): passages that are tokenised together.
            progress (`bool`, *optional*, defaults to `True`): show a progress bar.

        Returns:
            [`FMIndex`]: the index, in memory.

        Raises:
            ValueError: as [`FMIndex.build`].
        """

        return cls.build(
            encoded_passages(corpus, identifiers, batch_size),
            passage_ids=corpus.ids,
            vocab_size=identifiers.vocab_size,
            separator=identifiers.eos_token_id,
            tokenizer_fingerprint=identifiers.fingerprint,
            corpus_fingerprint=corpus.fingerprint,
            progress=progress,
            total=len(corpus),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a folder, which appears only when all of it is on the disk.

        An older index at `path` stays usable until then.

        Args:
            path (`str` or `os.PathLike`): the folder.

        Raises:
            FileExistsError: if `path` is a file, or a folder with anything but an index in it.
        """
        save_index(path, self._arrays, self._settings)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, tokenizer_fingerprint: str | None = None, verify: bool = False
    ) -> FMIndex:
        """Open an index. Its files are mapped into memory: opening takes no time, and processes share the memory.

        Args:
            path (`str` or `os.PathLike`): the folder.
            tokenizer_fingerprint (`str`, *optional*): fingerprint of the tokenizer that patterns will be made with; an
                index made with another is refused.
            verify (`bool`, *optional*, defaults to `False`): read all files and compare their SHA-256 first.

        Returns:
            [`FMIndex`]: the index.

        Raises:
            FileNotFoundError: if there is no such folder, or a file of the index is missing.
            ValueError: if the folder is no index, of an unknown version or damaged, or made with another tokenizer.
        """
        index = cls(*load_index(path, verify))
        if tokenizer_fingerprint is not None:
            index._check_fingerprint(tokenizer_fingerprint)
        return index

    def check_tokenizer(self, identifiers: Identifiers) -> None:
        """Make sure that patterns of these identifiers mean in this index what they mean to their tokenizer.

        Args:
            identifiers ([`Identifiers`]): the tokenizer and its settings.

        Raises:
            ValueError: if the index was made with another tokenizer.
        """
        self._check_fingerprint(identifiers.fingerprint)
        if (self.vocab_size, self.separator) != (identifiers.vocab_size, identifiers.eos_token_id):
            raise ValueError(
                f"The index has {self.vocab_size} token ids and separator {self.separator}, but the tokenizer has "
                f"{identifiers.vocab_size} and end-of-sequence id {identifiers.eos_token_id}: the index was made with "
                "another tokenizer. Build it again with FMIndex.from_corpus(corpus, identifiers)."
            )

    def _check_fingerprint(self, fingerprint: str) -> None:
        if self.tokenizer_fingerprint and fingerprint and fingerprint != self.tokenizer_fingerprint:
            raise ValueError(
                f"The index was made with another tokenizer (fingerprint {self.tokenizer_fingerprint[:12]}..., yours "
                f"is {fingerprint[:12]}...), so its token ids mean other words. Load the tokenizer that the index was "
                "made with, or build the index again with FMIndex.from_corpus(corpus, identifiers)."
            )

    # What is in it

    @property
    def num_segments(self) -> int:
        """Number of parts that the index consists of, and so of parts of a range."""
        return len(self._segments)

    @cached_property
    def whole(self) -> np.ndarray:
        """The range of the empty pattern: all occurrences (int64, shape `(num_segments, 2)`)."""
        whole = batches.find(self._segments, [[]])[0]
        whole.setflags(write=False)
        return whole

    def empty(self, size: int) -> np.ndarray:
        """Ranges of patterns that do not occur (int64, shape `(size, num_segments, 2)`)."""
        return np.zeros((size, self.num_segments, 2), np.int64)

    @cached_property
    def token_counts(self) -> np.ndarray:
        """How often each token id occurs; the separator once a passage (int64, shape `(vocab_size,)`)."""
        counts = np.zeros(self.vocab_size, np.int64)
        counts[self._arrays.symbols] = np.diff(self._arrays.symbol_rows)
        counts.setflags(write=False)
        return counts

    @cached_property
    def passage_lengths(self) -> np.ndarray:
        """Number of tokens of each passage, without its separator (int64, shape `(num_passages,)`)."""
        lengths = np.diff(self._arrays.passage_starts) - 1
        lengths.setflags(write=False)
        return lengths

    @property
    def num_bytes(self) -> int:
        """Size of the index in memory or on the disk, in bytes."""
        return sum(array.nbytes for array in vars(self._arrays).values())

    def passage_position(self, passage_id: str) -> int:
        """Number of a passage, given its id.

        Args:
            passage_id (`str`): the id.

        Returns:
            `int`: the passage's position in the corpus, from 0.

        Raises:
            KeyError: if no passage has this id.
        """
        return int(self.passage_positions([passage_id])[0])

    def passage_positions(self, passage_ids: Iterable[str]) -> np.ndarray:
        """Numbers of passages, given their ids.

        Args:
            passage_ids (`Iterable[str]`): the ids.

        Returns:
            `np.ndarray` of int64, one for each id: the passages' positions in the corpus, from 0.

        Raises:
            KeyError: if no passage has one of the ids.
        """
        wanted = list(passage_ids)
        positions = self.passage_ids.positions(wanted)
        unknown = np.flatnonzero(positions < 0)
        if len(unknown):
            raise KeyError(
                f"No passage of the index has the id {wanted[unknown[0]]!r} ({len(unknown)} of {len(wanted)} ids are "
                "unknown). Use the ids of the corpus that was indexed."
            )
        return positions

    def __repr__(self) -> str:
        return f"FMIndex({self.num_passages} passages, {self.num_tokens} tokens, {self.vocab_size} token ids)"

    # Queries, one at a time

    def find(self, ids: Sequence[int]) -> np.ndarray:
        """The range of a pattern.

        Args:
            ids (`Sequence[int]`): token ids; may hold the separator. The empty pattern has all occurrences.

        Returns:
            `np.ndarray` of int64, shape `(num_segments, 2)`: the range; zeros if the pattern does not occur.

        Raises:
            ValueError: if a token is outside the vocabulary.
        """
        return self.find_batch([ids])[0]

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
            limit (`int`, *optional*): occurrences to give at most.

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
            ValueError: if a range is not of this index.
        """
        return batches.counts(self._segments, ranges)

    def extend(self, ranges: np.ndarray, tokens: Integers, enough: int | None = None) -> np.ndarray:
        """Append a token to each of many patterns, or try several for each.

        Args:
            ranges (`np.ndarray` of int64, shape `(n, num_segments, 2)`): the patterns' ranges; empty ones stay empty.
            tokens (`np.ndarray` of int64, shape `(n,)` or `(n, m)`): the token to append to each, or `m` tokens of
                which each makes a pattern of its own. Those of one range share what they can: `(n, m)` takes less time
                than the range `m` times over.
            enough (`int`, *optional*): tokens of a range, in the order given, that are looked for: once so many were
                found to occur, those that come after are not tried and get empty ranges.

        Returns:
            `np.ndarray` of int64, shape `(n, num_segments, 2)` or `(n, m, num_segments, 2)`: the new ranges; zeros
            where the new pattern does not occur.

        Raises:
            ValueError: if a range is not of this index, a token is outside the vocabulary, or `enough` is below 1.
        """
        return batches.extend(self._segments, ranges, tokens, enough)

    def find_batch(self, patterns: Iterable[Sequence[int]] | np.ndarray) -> np.ndarray:
        """The ranges of many patterns.

        Args:
            patterns (`Iterable[Sequence[int]]`): token ids of each pattern. Fastest is an array of shape
                `(n, length)`.

        Returns:
            `np.ndarray` of int64, shape `(n, num_segments, 2)`: the ranges; zeros where a pattern does not occur.

        Raises:
            ValueError: if a token is outside the vocabulary.
        """
        return batches.find(self._segments, patterns)

    def continuations_batch(self, ranges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The tokens that follow the occurrences of each of many patterns.

        Where a passage ends, what follows is the separator.

        Args:
            ranges (`np.ndarray` of int64, shape `(n, num_segments, 2)`): the patterns' ranges; nothing follows empty
                ones.

        Returns:
            `tuple[np.ndarray, np.ndarray, np.ndarray]`: `offsets` (int64, shape `(n + 1,)`), `tokens` and `counts`
            (int64). The distinct tokens that follow pattern `i` are `tokens[offsets[i]:offsets[i + 1]]`, in an order
            that is always the same but means nothing; `counts` in the same places says how often each follows.

        Raises:
            ValueError: if a range is not of this index.
        """
        return batches.continuations(self._segments, ranges)

    def locate_batch(
        self, ranges: np.ndarray, lengths: int | Integers, limit: int | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where many patterns occur.

        Args:
            ranges (`np.ndarray` of int64, shape `(n, num_segments, 2)`): the patterns' ranges.
            lengths (`int` or `np.ndarray` of int64, shape `(n,)`): number of tokens of each pattern, which its range
                does not say.
            limit (`int`, *optional*): occurrences to give of each pattern at most; always the same ones.

        Returns:
            `tuple[np.ndarray, np.ndarray, np.ndarray]`: for each occurrence (int64) the number of its pattern,
            ascending, the passage of its first token, and the token's offset in it. An occurrence that starts with
            the separator is at offset -1 of the passage that follows.

        Raises:
            ValueError: if a range is not of this index, or a length is below 1.
        """
        return batches.locate(self._segments, ranges, lengths, limit)

    def extract_batch(self, passages: Integers) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of many passages.

        Args:
            passages (`np.ndarray` of int64, shape `(n,)`): passages, from 0.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: `indptr` (int64, shape `(n + 1,)`) and `tokens` (int64); those of the
            `i`-th passage, without the separator, are `tokens[indptr[i]:indptr[i + 1]]`.

        Raises:
            IndexError: if there is no such passage.
        """
        return batches.extract(self._arrays, passages)
