"""The FM-index over a tokenised corpus: which token sequences occur, what follows them, and where."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import numba
import numpy as np

from dgr_trainer.index import search
from dgr_trainer.index.build import MAX_VOCAB_SIZE, SAMPLE_RATE, IndexArrays, build_text_arrays, collect_text
from dgr_trainer.index.passage_ids import PassageIds, pack_ids
from dgr_trainer.index.storage import load_index, save_index

if TYPE_CHECKING:
    from dgr_trainer.corpus import Corpus
    from dgr_trainer.identifiers import Identifiers

T = TypeVar("T")

# Ranges, patterns or rows for which a second thread is worth its start.
_WORTH_A_THREAD = 8192


class FMIndex:
    """Full-text index over a corpus of token sequences, in about four bytes a token.

    It answers, for any sequence of tokens (a pattern): how often does it occur in the corpus, which tokens follow it,
    and in which passages does it occur. Appending a token to a pattern costs the same however long the pattern and
    large the corpus. A pattern is known by its range of rows `[low, high)`, with one row an occurrence; a range with
    `low >= high` is empty.

    Each passage is followed by a separator, and the last is followed by the first: so every passage, the first too,
    stands between separators. A pattern may hold the separator; `(separator, *title)` occurs where a passage
    starts with that title.

    Ferragina and Manzini, "Opportunistic data structures with applications" (FOCS 2000), on the reversed text, so that
    backward search appends; the Burrows-Wheeler transform is kept in a Huffman-shaped wavelet matrix (Claude,
    Navarro and Ordonez, Information Systems 47, 2015). Beside it the text itself is kept, for extraction.

    All queries have a form for one and a form for many (`extend`, `find_batch`, ...), which runs in compiled code without
    the interpreter's lock, for large batches in `numba.config.NUMBA_NUM_THREADS` threads. The results do not depend
    on the number of threads.

    Make one with [`FMIndex.build`], [`FMIndex.from_corpus`] or [`FMIndex.load`].

    Example:

    ```python
    >>> index = FMIndex.build([[5, 6, 7], [5, 6]], passage_ids=["a", "b"], vocab_size=8, separator=2)
    >>> index.count([5, 6])
    2
    >>> low, high = index.find([5, 6])
    >>> tokens, counts = index.continuations(low, high)
    >>> dict(zip(tokens.tolist(), counts.tolist()))
    {2: 1, 7: 1}
    ```
    """

    def __init__(self, arrays: IndexArrays, settings: dict[str, Any]) -> None:
        self._arrays = arrays
        self._settings = settings
        self.num_tokens: int = settings["num_tokens"]
        self.num_passages: int = settings["num_passages"]
        self.vocab_size: int = settings["vocab_size"]
        self.separator: int = settings["separator"]
        self.tokenizer_fingerprint: str = settings["tokenizer_fingerprint"]
        self.corpus_fingerprint: str = settings["corpus_fingerprint"]
        self.passage_ids = PassageIds(arrays.id_bytes, arrays.id_offsets, arrays.id_order)
        self._symbol_of = np.full(self.vocab_size, -1, np.int32)
        self._symbol_of[arrays.symbols] = np.arange(len(arrays.symbols), dtype=np.int32)

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
            sequences (`Iterable[Sequence[int]]`): the token ids of each passage, without separators; read once. A sequence
                may be empty.
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
            ValueError: if there is no sequence, a token is outside the vocabulary or is the separator, an id occurs twice, or
                there are not as many ids as sequences.
        """
        if not 1 <= vocab_size <= MAX_VOCAB_SIZE:
            raise ValueError(
                f"vocab_size is {vocab_size}, but an index has 1 to {MAX_VOCAB_SIZE} token ids. Give len(tokenizer)."
            )
        if not 0 <= separator < vocab_size:
            raise ValueError(
                f"separator is {separator}, which is outside the vocabulary (0 to {vocab_size - 1}). "
                "Give the tokenizer's end-of-sequence token id."
            )
        for sized in (sequences, passage_ids):
            total = len(sized) if total is None and hasattr(sized, "__len__") else total
        id_bytes, id_offsets, id_order = pack_ids(passage_ids)
        text, passage_starts = collect_text(sequences, vocab_size, separator, total, progress)
        if len(passage_starts) != len(id_offsets):
            raise ValueError(
                f"There are {len(passage_starts) - 1} sequences but {len(id_offsets) - 1} passage ids. "
                "Give one id for each sequence, in the same order."
            )
        made = build_text_arrays(text, vocab_size)
        settings = {
            "num_tokens": len(text),
            "num_passages": len(id_order),
            "vocab_size": int(vocab_size),
            "separator": int(separator),
            "period": made.pop("period"),
            "sample_rate": SAMPLE_RATE,
            "tokenizer_fingerprint": tokenizer_fingerprint,
            "corpus_fingerprint": corpus_fingerprint,
        }
        arrays = IndexArrays(
            **made, passage_starts=passage_starts, id_bytes=id_bytes, id_offsets=id_offsets, id_order=id_order
        )
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

        def sequences() -> Iterator[list[int]]:
            batch = []
            for passage in corpus:
                batch.append(passage)
                if len(batch) == batch_size:
                    yield from identifiers.encode_passages(batch)
                    batch = []
            if batch:
                yield from identifiers.encode_passages(batch)

        return cls.build(
            sequences(),
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
                f"{identifiers.vocab_size} and end-of-sequence id {identifiers.eos_token_id}: the index was made with another "
                "tokenizer. Build it again with FMIndex.from_corpus(corpus, identifiers)."
            )

    def _check_fingerprint(self, fingerprint: str) -> None:
        if self.tokenizer_fingerprint and fingerprint and fingerprint != self.tokenizer_fingerprint:
            raise ValueError(
                f"The index was made with another tokenizer (fingerprint {self.tokenizer_fingerprint[:12]}..., yours is "
                f"{fingerprint[:12]}...), so its token ids mean other words. Load the tokenizer that the index was made "
                "with, or build the index again with FMIndex.from_corpus(corpus, identifiers)."
            )

    # What is in it

    @property
    def whole(self) -> tuple[int, int]:
        """The range of the empty pattern: all rows."""
        return 0, self.num_tokens

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

    def find(self, ids: Sequence[int]) -> tuple[int, int]:
        """The range of a pattern.

        Args:
            ids (`Sequence[int]`): token ids; may hold the separator. The empty pattern has all rows.

        Returns:
            `tuple[int, int]`: `(low, high)`; `(0, 0)` if the pattern does not occur.

        Raises:
            ValueError: if a token is outside the vocabulary.
        """
        low, high = self.find_batch([ids])
        return int(low[0]), int(high[0])

    def count(self, ids: Sequence[int]) -> int:
        """How often a pattern occurs; see [`FMIndex.find`]."""
        low, high = self.find(ids)
        return high - low

    def continuations(self, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
        """The tokens that follow the occurrences of a pattern; see [`FMIndex.continuations_batch`].

        Returns:
            `tuple[np.ndarray, np.ndarray]`: distinct token ids in no particular order, and how often each follows (int64).
        """
        _, tokens, counts = self.continuations_batch([low], [high])
        return tokens, counts

    def locate(self, row: int, length: int) -> tuple[int, int]:
        """Where the occurrence of a row starts; see [`FMIndex.locate_batch`].

        Args:
            row (`int`): a row of the pattern's range.
            length (`int`): number of tokens of the pattern.

        Returns:
            `tuple[int, int]`: the passage, and the offset of the occurrence's first token in it.
        """
        passages, offsets = self.locate_batch([row], length)
        return int(passages[0]), int(offsets[0])

    def extract(self, passage: int) -> np.ndarray:
        """The tokens of a passage, without the separator (int64); see [`FMIndex.extract_batch`]."""
        return self.extract_batch([passage])[1]

    # Queries, many at a time

    def extend(
        self, low: np.ndarray | Sequence[int], high: np.ndarray | Sequence[int], tokens: np.ndarray | Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Append one token to each of many patterns.

        Args:
            low, high (`np.ndarray` of int64, shape `(n,)`): the patterns' ranges; empty ones stay empty.
            tokens (`np.ndarray` of int64, shape `(n,)`): the token to append to each.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: the new ranges' `low` and `high` (int64, shape `(n,)`); 0 and 0 where the new
            pattern does not occur.

        Raises:
            ValueError: if a range is outside the index or a token outside the vocabulary.
        """
        low, high = self._ranges(low, high)
        tokens = _integers(tokens, "tokens", len(low))
        arrays = self._arrays
        out_low, out_high = np.empty_like(low), np.empty_like(high)

        def part(start: int, stop: int) -> int:
            return search.extend_rows(
                arrays.blocks, arrays.levels, arrays.codes, self._symbol_of, low, high, tokens, out_low, out_high, start, stop
            )

        self._check_tokens(_in_threads(part, len(low), len(low)), tokens)
        return out_low, out_high

    def find_batch(self, patterns: Iterable[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        """The ranges of many patterns.

        Args:
            patterns (`Iterable[Sequence[int]]`): token ids of each pattern.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: the ranges' `low` and `high` (int64); 0 and 0 where a pattern does not occur.

        Raises:
            ValueError: if a token is outside the vocabulary.
        """
        patterns = list(patterns)
        indptr = np.zeros(len(patterns) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, patterns), np.int64, len(patterns)), out=indptr[1:])
        tokens = _integers(list(chain.from_iterable(patterns)), "patterns")
        arrays = self._arrays
        out_low, out_high = np.empty(len(patterns), np.int64), np.empty(len(patterns), np.int64)

        def part(start: int, stop: int) -> int:
            return search.find_patterns(
                arrays.blocks, arrays.levels, arrays.codes, self._symbol_of, arrays.symbol_rows, indptr, tokens,
                out_low, out_high, start, stop,
            )  # fmt: skip

        self._check_tokens(_in_threads(part, len(patterns), len(tokens)), tokens)
        return out_low, out_high

    def continuations_batch(
        self, low: np.ndarray | Sequence[int], high: np.ndarray | Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The tokens that follow the occurrences of each of many patterns.

        Where a passage ends, what follows is the separator.

        Args:
            low, high (`np.ndarray` of int64, shape `(n,)`): the patterns' ranges; nothing follows empty ones.

        Returns:
            `tuple[np.ndarray, np.ndarray, np.ndarray]`: `offsets` (int64, shape `(n + 1,)`), `tokens` and `counts` (int64): the
            distinct tokens that follow pattern `i`, in no particular order, are `tokens[offsets[i]:offsets[i + 1]]`, and
            `counts` in the same places says how often each does.

        Raises:
            ValueError: if a range is outside the index.
        """
        low, high = self._ranges(low, high)
        arrays = self._arrays

        def part(start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            return search.continue_ranges(
                arrays.blocks, arrays.levels, arrays.symbols, arrays.symbol_rows, low, high, start, stop
            )

        work = np.minimum(np.maximum(high - low, 0), len(arrays.symbols))
        parts = _in_threads(part, len(low), int(work.sum()), work)
        if len(parts) == 1:
            return parts[0]
        before = np.cumsum([0, *(len(tokens) for _, tokens, _ in parts)])
        offsets = [part_offsets[1:] + start for (part_offsets, _, _), start in zip(parts, before, strict=False)]
        return (
            np.concatenate([np.zeros(1, np.int64), *offsets]),
            np.concatenate([tokens for _, tokens, _ in parts]),
            np.concatenate([counts for _, _, counts in parts]),
        )

    def locate_batch(
        self, rows: np.ndarray | Sequence[int], lengths: int | np.ndarray | Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where occurrences of patterns start.

        A row stands for an occurrence of every pattern that ends in the same place, so the patterns' lengths are needed.

        Args:
            rows (`np.ndarray` of int64, shape `(n,)`): rows of the patterns' ranges.
            lengths (`int` or `np.ndarray` of int64, shape `(n,)`): number of tokens of the pattern of each row.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: the passage of each occurrence's first token, and its offset in the passage
            (int64, shape `(n,)`). An occurrence that starts with the separator starts at offset -1 of the passage that
            follows it.

        Raises:
            IndexError: if a row is outside the index.
            ValueError: if a length is below 1.
        """
        rows = _integers(rows, "rows")
        if np.ndim(lengths):
            lengths = _integers(lengths, "lengths", len(rows))
        else:
            lengths = np.full(len(rows), _integers([lengths], "lengths")[0])
        arrays = self._arrays
        passages, offsets = np.empty_like(rows), np.empty_like(rows)

        def part(start: int, stop: int) -> int:
            return search.locate_rows(
                arrays.blocks, arrays.levels, arrays.marks, arrays.samples, arrays.passage_starts, self._settings["period"],
                rows, lengths, passages, offsets, start, stop,
            )  # fmt: skip

        for bad in _in_threads(part, len(rows), len(rows) * SAMPLE_RATE // 2):
            if bad >= 0 and lengths[bad] < 1:
                raise ValueError(
                    f"Length {bad} is {lengths[bad]}, but a pattern whose occurrence is located has at least 1 token."
                )
            if bad >= 0:
                raise IndexError(
                    f"Row {rows[bad]} (number {bad}) is outside the index, which has rows 0 to {self.num_tokens - 1}. "
                    "Give rows of ranges that this index returned."
                )
        return passages, offsets

    def extract_batch(self, passages: np.ndarray | Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of many passages.

        Args:
            passages (`np.ndarray` of int64, shape `(n,)`): passages, from 0.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: `indptr` (int64, shape `(n + 1,)`) and `tokens` (int64): the tokens of the `i`-th
            are `tokens[indptr[i]:indptr[i + 1]]`, without the separator.

        Raises:
            IndexError: if there is no such passage.
        """
        passages = _integers(passages, "passages")
        bad = np.flatnonzero((passages < 0) | (passages >= self.num_passages))
        if len(bad):
            raise IndexError(
                f"There is no passage {passages[bad[0]]} (number {bad[0]}): the index holds passages 0 to "
                f"{self.num_passages - 1}. Use FMIndex.passage_position to find a passage by its id."
            )
        arrays = self._arrays
        indptr = np.zeros(len(passages) + 1, np.int64)
        starts = arrays.passage_starts
        np.cumsum(starts[passages + 1] - starts[passages] - 1, out=indptr[1:])
        tokens = np.empty(indptr[-1], np.int64)
        search.copy_passages(arrays.text, starts, passages, indptr, tokens, 0, len(passages))
        return indptr, tokens

    def _ranges(
        self, low: np.ndarray | Sequence[int], high: np.ndarray | Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        low = _integers(low, "low")
        high = _integers(high, "high", len(low))
        bad = np.flatnonzero((low < 0) | (high < 0) | (low > self.num_tokens) | (high > self.num_tokens))
        if len(bad):
            raise ValueError(
                f"Range {bad[0]} is [{low[bad[0]]}, {high[bad[0]]}), but the index has rows 0 to {self.num_tokens - 1}. "
                "Give ranges that this index returned."
            )
        return low, high

    def _check_tokens(self, bad: list[int], tokens: np.ndarray) -> None:
        for place in bad:
            if place >= 0:
                raise ValueError(
                    f"Token id {tokens[place]} is outside the vocabulary of the index (0 to {self.vocab_size - 1}). "
                    "Encode patterns with the tokenizer that the index was made with."
                )


def _integers(values: Any, name: str, size: int | None = None) -> np.ndarray:
    """`values` as one row of int64."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} has {array.ndim} dimensions, but one is needed: give one flat sequence of integers.")
    if array.dtype.kind not in "iu" and len(array):
        raise TypeError(f"{name} holds values of type {array.dtype}, but integers are needed.")
    if size is not None and len(array) != size:
        raise ValueError(f"{name} has {len(array)} values where {size} are needed: give one for each.")
    return np.ascontiguousarray(array, np.int64)


def _in_threads(run: Callable[[int, int], T], size: int, work: int, weights: np.ndarray | None = None) -> list[T]:
    """Call `run(start, stop)` on the whole of a batch, or on its parts in threads where there is much to do."""
    threads = min(int(numba.config.NUMBA_NUM_THREADS), size, work // _WORTH_A_THREAD)
    if threads <= 1:
        return [run(0, size)]
    if weights is None:
        bounds = np.linspace(0, size, threads + 1).astype(np.int64)
    else:
        bounds = np.searchsorted(np.cumsum(weights), np.linspace(0, work, threads + 1))
        bounds[-1] = size
    # A pool of its own for each call: threads kept between calls would be missing in a forked process.
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, bounds[:-1].tolist(), bounds[1:].tolist()))
