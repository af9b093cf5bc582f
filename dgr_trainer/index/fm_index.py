"""The FM-index over a tokenised corpus: which token sequences occur, what follows them, and where."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence, Sized
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dgr_trainer.errors import DGRKeyError, DGRValueError
from dgr_trainer.index.passage_ids import encoded_ids
from dgr_trainer.index.query_methods import IndexQueries
from dgr_trainer.index.remaining_ids import RemainingIds
from dgr_trainer.index.resumable_build import build_in_folder
from dgr_trainer.index.segment import Segment
from dgr_trainer.index.segment_changes import add_segments, remaining_texts, segment_fingerprints, without_passages
from dgr_trainer.index.storage import IndexParts, IndexSettings, load_index, save_index
from dgr_trainer.index.token_texts import read_texts
from dgr_trainer.processes.worker_processes import check_num_proc

if TYPE_CHECKING:
    from dgr_trainer.data.corpus import Corpus
    from dgr_trainer.identifiers import Identifiers


class FMIndex(IndexQueries):
    """Full-text index over a corpus of token sequences, in about three bytes a token.

    It answers, for any sequence of tokens (a pattern): how often does it occur in the corpus, which tokens follow it,
    and in which passages does it occur. The cost of appending a token to a pattern depends neither on the length of
    the pattern nor on the size of the corpus. A pattern is represented by its range: the suffix-array rows of its
    occurrences in each segment, an int64 array of shape `(num_segments, 2)`. The ranges of n patterns have the shape
    `(n, num_segments, 2)`; they can be stacked, selected and reordered along the first axis like any array. Only the
    index that made a range can interpret it.

    The index puts a separator before and after each passage. A pattern may start or end with the separator:
    `(separator, *title)` occurs where a passage starts with that title. Patterns do not cross passages: one with a
    separator inside does not occur, and the result of [`FMIndex.continuations`] for one that ends with the separator
    is undefined, except for the separator alone, which is followed by the first tokens of the passages.

    An index consists of segments, which never change. [`FMIndex.add`], [`FMIndex.remove`] and [`FMIndex.compact`]
    return a new index that shares unchanged segments with this one. All answers are exact for the passages that
    remain, however many segments there are. Saving an index to the folder it was loaded from writes only what is new;
    processes that have the older index open keep it.

    Method: Ferragina and Manzini, "Opportunistic data structures with applications" (FOCS 2000), on the reversed text,
    so that backward search appends tokens. The Burrows-Wheeler transform is stored in a Huffman-shaped wavelet matrix
    (Claude, Navarro and Ordonez, Information Systems 47, 2015), from which the text itself is read.

    Each query has a form for one pattern and a form for many. Compiled code runs them without the interpreter's lock,
    large batches in `numba.config.NUMBA_NUM_THREADS` threads. Results do not depend on the number of threads.

    Create an index with [`FMIndex.build`], [`FMIndex.from_corpus`] or [`FMIndex.load`].

    Example:

    ```python
    >>> index = FMIndex.build([[5, 6, 7], [5, 6]], passage_ids=["a", "b"], vocab_size=8, separator=2)
    >>> index.count([5, 6])
    2
    >>> tokens, counts = index.continuations(index.find([5, 6]))
    >>> sorted(zip(tokens.tolist(), counts.tolist()))
    [(2, 1), (7, 1)]
    >>> index.add([[5, 6, 3]], passage_ids=["c"]).remove(["a"]).count([5, 6])
    2

    ```
    """

    def __init__(self, segments: Sequence[Segment], settings: IndexSettings) -> None:
        self._segments = tuple(segments)
        self._settings = settings
        # The folder, and the checksum of the index in it when it was loaded or saved.
        self.loaded_from: tuple[Path, str | None] | None = None
        self.num_passages: int = sum(segment.num_passages for segment in segments)
        self.vocab_size: int = settings.vocab_size
        self.separator: int = settings.separator
        self.tokenizer_fingerprint: str = settings.tokenizer_fingerprint
        self.corpus_fingerprint: str = settings.corpus_fingerprint
        self.passage_ids = RemainingIds(self._segments)

    # Building, changing, saving, loading

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
        segment_tokens: int | None = None,
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
            tokenizer_fingerprint (`str`, *optional*, defaults to `""`): identifies the tokenizer that made the
                sequences, see [`FMIndex.load`].
            corpus_fingerprint (`str`, *optional*, defaults to `""`): identifies their corpus.
            segment_tokens (`int`, *optional*): most tokens of a segment. By default there is one segment, which is
                fastest to search. Building takes memory in proportion to the largest segment.
            progress (`bool`, *optional*, defaults to `True`): show a progress bar.
            total (`int`, *optional*): number of sequences, for the progress bar; not needed if `sequences` or
                `passage_ids` has a length.

        Returns:
            [`FMIndex`]: the index, in memory.

        Raises:
            TypeError: if a sequence holds anything but integers, or an id is not a string.
            ValueError: if there is no sequence, a token is outside the vocabulary or is the separator, an id occurs
                twice, or the numbers of ids and sequences differ.
        """
        settings = IndexSettings(
            vocab_size,
            separator,
            segment_tokens=segment_tokens,
            tokenizer_fingerprint=tokenizer_fingerprint,
            corpus_fingerprint=corpus_fingerprint,
        )
        for sized in (sequences, passage_ids):
            if total is None and isinstance(sized, Sized):
                total = len(sized)
        texts = read_texts(sequences, passage_ids, vocab_size, separator, segment_tokens, total, progress)
        return cls(add_segments([], texts, vocab_size, separator), settings)

    @classmethod
    def from_corpus(
        cls,
        corpus: Corpus,
        identifiers: Identifiers,
        *,
        batch_size: int = 4096,
        folder: str | os.PathLike[str] | None = None,
        segment_tokens: int | None = None,
        num_proc: int | None = None,
        progress: bool = True,
    ) -> FMIndex:
        """Index the passages of a corpus, with their titles, pseudo-queries and docids.

        Args:
            corpus ([`Corpus`]): the passages.
            identifiers ([`Identifiers`]): turns a passage into tokens; its end-of-sequence token is the separator.
            batch_size (`int`, *optional*, defaults to 4096): number of passages that are tokenised together.
            folder (`str` or `os.PathLike`, *optional*): where to write the index, segment by segment, so that only
                one segment has to fit in memory. It appears there when it is complete. If building is interrupted,
                the same call resumes after the last finished segment.
            segment_tokens (`int`, *optional*): most tokens of a segment, see [`FMIndex.build`].
            num_proc (`int`, *optional*): number of processes that tokenise, which makes the same index. By default
                only this one does. (The index itself is built in `numba.config.NUMBA_NUM_THREADS` threads.)
            progress (`bool`, *optional*, defaults to `True`): show a progress bar.

        Returns:
            [`FMIndex`]: the index; in memory, or loaded from `folder`.

        Raises:
            ValueError: as in [`FMIndex.build`]; also if the tokenizer does not know most of the text, a passage has a
                docid that holds a marker or has no tokens, or `num_proc` is below 1 or this platform cannot fork.
            RuntimeError: if one of several processes ends before its work is done.
            FileExistsError: if `folder` is a file, or a folder with anything but an index in it.
        """
        settings = IndexSettings(
            identifiers.vocab_size,
            identifiers.eos_token_id,
            segment_tokens=segment_tokens,
            tokenizer_fingerprint=identifiers.fingerprint,
            corpus_fingerprint=corpus.fingerprint,
        )
        from dgr_trainer.identifiers.unknown_text import check_script
        from dgr_trainer.index.corpus_texts import corpus_texts

        check_num_proc(num_proc)
        check_script(corpus, identifiers)
        texts = partial(
            corpus_texts, corpus, identifiers,
            max_tokens=segment_tokens, batch_size=batch_size, num_proc=num_proc, progress=progress,
        )  # fmt: skip
        if folder is None:
            return cls(add_segments([], texts(), identifiers.vocab_size, identifiers.eos_token_id), settings)
        build_in_folder(folder, texts, len(corpus), settings, identifiers.settings.to_dict())
        return cls.load(folder)

    def add(
        self, sequences: Iterable[Sequence[int]], *, passage_ids: Iterable[str], progress: bool = False
    ) -> FMIndex:
        """Return the index with more passages, which come after the others.

        Args:
            sequences (`Iterable[Sequence[int]]`): the token ids of each passage, as for [`FMIndex.build`].
            passage_ids (`Iterable[str]`): the id of each passage, in the same order.
            progress (`bool`, *optional*, defaults to `False`): show a progress bar.

        Returns:
            [`FMIndex`]: an index with one more segment.

        Raises:
            TypeError: as in [`FMIndex.build`].
            ValueError: as in [`FMIndex.build`]; also if an id is in the index already.
        """
        texts = read_texts(
            sequences, passage_ids, self.vocab_size, self.separator, self._settings.segment_tokens, None, progress
        )
        return self.with_segments(add_segments(self._segments, texts, self.vocab_size, self.separator))

    def add_corpus(
        self, corpus: Corpus, identifiers: Identifiers, *, num_proc: int | None = None, progress: bool = True
    ) -> FMIndex:
        """Return the index with the passages of a corpus added; see [`FMIndex.add`] and [`FMIndex.from_corpus`].

        Args:
            corpus ([`Corpus`]): the passages to add.
            identifiers ([`Identifiers`]): turns a passage into tokens.
            num_proc (`int`, *optional*): number of processes that tokenise, see [`FMIndex.from_corpus`].
            progress (`bool`, *optional*, defaults to `True`): show a progress bar.

        Returns:
            [`FMIndex`]: an index with one more segment.

        Raises:
            ValueError: as in [`FMIndex.from_corpus`]; also if the index was made with another tokenizer.
            RuntimeError: as in [`FMIndex.from_corpus`].
        """
        self.check_tokenizer(identifiers)
        from dgr_trainer.identifiers.unknown_text import check_script
        from dgr_trainer.index.corpus_texts import corpus_texts

        check_num_proc(num_proc)
        check_script(corpus, identifiers)
        texts = corpus_texts(
            corpus, identifiers, max_tokens=self._settings.segment_tokens, num_proc=num_proc, progress=progress
        )
        return self.with_segments(add_segments(self._segments, texts, self.vocab_size, self.separator))

    def remove(self, passage_ids: Iterable[str]) -> FMIndex:
        """Return the index without some passages; the numbers of the passages after them become smaller.

        Their tokens stay in their segment, which makes it a little slower, until [`FMIndex.compact`] is called.

        Args:
            passage_ids (`Iterable[str]`): the ids of the passages to remove.

        Returns:
            [`FMIndex`]: the index without them.

        Raises:
            KeyError: if no passage has one of the ids.
            TypeError: if an id is not a string, or one is given instead of several.
            ValueError: if no passage would remain.
        """
        passages = np.unique(self.passage_positions(passage_ids))
        if len(passages) == self.num_passages:
            raise DGRValueError(
                f"All {self.num_passages} passages of the index would be removed, but an index has at least one. "
                "Delete its folder instead, or add the new passages before you remove the old ones."
            )
        return self.with_segments(without_passages(self._segments, passages) if len(passages) else self._segments)

    def compact(self, *, folder: str | os.PathLike[str] | None = None, progress: bool = True) -> FMIndex:
        """Index the same passages again, in the same order, in as few segments as possible.

        Args:
            folder (`str` or `os.PathLike`, *optional*): where to write the index, segment by segment, so that only
                one new segment has to fit in memory; the folder that this index was loaded from, or another one. It
                appears there when it is complete. If compacting is interrupted, the same call resumes after the last
                finished segment.
            progress (`bool`, *optional*, defaults to `True`): show a progress bar.

        Returns:
            [`FMIndex`]: the index; in memory, or loaded from `folder`. Its answers are the same, but ranges of this
            index do not apply to it.

        Raises:
            FileExistsError: if `folder` is a file, or a folder with anything but an index in it.
            RuntimeError: if this index was loaded from `folder`, and the one there has been changed since.
        """
        settings = replace(self._settings, corpus_fingerprint="")
        texts = partial(
            remaining_texts, self._segments, separator=self.separator,
            max_tokens=settings.segment_tokens, progress=progress,
        )  # fmt: skip
        if folder is None:
            return self.with_segments(add_segments([], texts(), self.vocab_size, self.separator))
        path = Path(folder).absolute()
        source = {"compacted": segment_fingerprints(self._segments)}
        replaced = self.loaded_from[1] if self.loaded_from and self.loaded_from[0] == path else None
        build_in_folder(path, texts, self.num_passages, settings, source, replaced)
        return type(self).load(path)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments."""
        return self._segments

    def with_segments(self, segments: Sequence[Segment]) -> FMIndex:
        """An index like this one, of other segments."""
        changed = FMIndex(segments, replace(self._settings, corpus_fingerprint=""))
        changed.loaded_from = self.loaded_from
        return changed

    def save(self, path: str | os.PathLike[str], *, link: bool = False) -> None:
        """Write the index to a folder, where it appears only when it is complete on the disk.

        Until then an older index at `path` stays usable. Segments that the folder already has are not written again.

        Args:
            path (`str` or `os.PathLike`): the folder.
            link (`bool`, *optional*, defaults to `False`): hard-link the files of segments that another folder on the
                same disk has.

        Raises:
            FileExistsError: if `path` is a file, or a folder with anything but an index in it.
            RuntimeError: if this index was made from the one at `path`, which has been changed since.
        """
        folder = Path(path).absolute()
        checksum = self.loaded_from[1] if self.loaded_from and self.loaded_from[0] == folder else None
        self._is_saved(folder, save_index(path, IndexParts(self._segments, self._settings, checksum), link))

    def _save_in_new(self, folder: Path, final: Path, *, link: bool = False) -> IndexParts:
        """Write the index to a new folder that will be moved to `final`; when it is there, call `_is_saved`."""
        return save_index(folder, IndexParts(self._segments, self._settings), link, final)

    def _is_saved(self, folder: Path, saved: IndexParts) -> None:
        """From now on, this is the index in a folder."""
        self._segments, self.loaded_from = saved.segments, (folder.absolute(), saved.checksum)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, tokenizer_fingerprint: str | None = None, verify: bool | None = None
    ) -> FMIndex:
        """Open an index. Its files are mapped into memory, so opening is fast and processes share the memory.

        All files must be complete. The SHA-256 of small files, and of all files of an index up to 16 MiB, is always
        verified; that of a large file, if it was changed or copied since it was last verified. Finding out whether the
        disk has damaged a large file takes `verify=True`.

        Args:
            path (`str` or `os.PathLike`): the folder.
            tokenizer_fingerprint (`str`, *optional*): fingerprint of the tokenizer that patterns will be made with; an
                index made with another tokenizer is refused.
            verify (`bool`, *optional*): always verify the SHA-256 of large files, or (`False`) never.

        Returns:
            [`FMIndex`]: the index.

        Raises:
            FileNotFoundError: if there is no such folder, or a file of the index is missing.
            ValueError: if the folder is not an index, has an unknown version, is damaged, or was made with another
                tokenizer.
        """
        parts = load_index(path, verify)
        index = cls(parts.segments, parts.settings)
        index.loaded_from = Path(path).absolute(), parts.checksum
        if tokenizer_fingerprint is not None:
            index._check_fingerprint(tokenizer_fingerprint)
        return index

    def check_tokenizer(self, identifiers: Identifiers) -> None:
        """Check that the index was made with the tokenizer, the views and the markers of these identifiers.

        Args:
            identifiers ([`Identifiers`]): the tokenizer and its settings.

        Raises:
            ValueError: if the index was made with another tokenizer, or has no titles or no docids in the form that
                these identifiers give them.
        """
        self._check_fingerprint(identifiers.fingerprint)
        if (self.vocab_size, self.separator) != (identifiers.vocab_size, identifiers.eos_token_id):
            raise DGRValueError(
                f"The index has {self.vocab_size} token ids and separator {self.separator}, but the tokenizer has "
                f"{identifiers.vocab_size} and end-of-sequence id {identifiers.eos_token_id}: the index was made with "
                "another tokenizer. Build it again with FMIndex.from_corpus(corpus, identifiers)."
            )
        self._check_views(identifiers)

    def _check_views(self, identifiers: Identifiers) -> None:
        """Refuse an index without the markers of titles and docids, which stand in every passage that has these."""
        for view in identifiers.views:
            name = {"title": "title_end", "docid": "docid_start"}.get(view)
            marker = identifiers.end(view) if view == "title" else identifiers.prefix(view)
            if name is not None and not self.count(marker):
                raise DGRValueError(
                    f"The index holds no {name}={getattr(identifiers.settings, name)!r}, so it was made without the "
                    f"view {view!r} or with another marker. Use the IdentifierSettings that the index was made with, "
                    "or build it again with FMIndex.from_corpus(corpus, identifiers)."
                )
        if identifiers.views == ("docid",) and not identifiers.settings.docid_start:
            # Older versions put a marker before docids also where they are the only view.
            older = identifiers.encode("##")
            if older and self.count((self.separator, *older)) == self.num_passages:
                raise DGRValueError(
                    "Every docid of the index begins with '##', the marker that older versions put there. Use "
                    "IdentifierSettings(views=('docid',), docid_start='##'), or build the index again."
                )

    def _check_fingerprint(self, fingerprint: str) -> None:
        if self.tokenizer_fingerprint and fingerprint and fingerprint != self.tokenizer_fingerprint:
            raise DGRValueError(
                f"The index was made with another tokenizer (fingerprint {self.tokenizer_fingerprint[:12]}..., yours "
                f"is {fingerprint[:12]}...), so its token ids mean other words. Load the tokenizer that the index was "
                "made with, or build the index again with FMIndex.from_corpus(corpus, identifiers)."
            )

    # Contents

    @cached_property
    def num_tokens(self) -> int:
        """Number of tokens of the passages, with one separator per passage."""
        return int(self.token_counts.sum())

    @cached_property
    def token_counts(self) -> np.ndarray:
        """How often each token id occurs; the separator once per passage (int64, shape `(vocab_size,)`)."""
        counts: np.ndarray = np.sum([segment.token_counts for segment in self._segments], axis=0)
        counts.setflags(write=False)
        return counts

    @cached_property
    def passage_lengths(self) -> np.ndarray:
        """Number of tokens of each passage, without its separator (int64, shape `(num_passages,)`)."""
        lengths = np.concatenate([segment.passage_lengths for segment in self._segments])
        lengths.setflags(write=False)
        return lengths

    @property
    def num_bytes(self) -> int:
        """Size of the index in memory or on the disk, in bytes, removed passages included."""
        return sum(segment.num_bytes for segment in self._segments)

    def passage_position(self, passage_id: str) -> int:
        """The position of a passage, given its id.

        Args:
            passage_id (`str`): the id.

        Returns:
            `int`: the passage's position in the corpus, from 0.

        Raises:
            KeyError: if no passage has this id.
        """
        return int(self.passage_positions([passage_id])[0])

    def passage_positions(self, passage_ids: Iterable[str]) -> np.ndarray:
        """The positions of passages, given their ids.

        Args:
            passage_ids (`Iterable[str]`): the ids.

        Returns:
            `np.ndarray` of int64, shape `(num_ids,)`: the passages' positions in the corpus, from 0.

        Raises:
            KeyError: if no passage has one of the ids.
            TypeError: if an id is not a string, or one is given instead of several.
        """
        ids = encoded_ids(passage_ids)
        positions = self.passage_ids.positions(ids)
        unknown = np.flatnonzero(positions < 0)
        if len(unknown):
            raise DGRKeyError(
                f"No passage of the index has the id {ids[unknown[0]]!r} ({len(unknown)} of {len(ids)} ids are "
                "unknown). Use the ids of the corpus that was indexed."
            )
        return positions

    def __repr__(self) -> str:
        return f"FMIndex({self.num_passages} passages, {self.num_tokens} tokens, {self.vocab_size} token ids)"
