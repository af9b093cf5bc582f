"""Adding segments to an index, removing passages from its segments, and merging segments."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import islice

import numpy as np

from dgr_trainer.errors import DGRValueError
from dgr_trainer.index import query_dispatch
from dgr_trainer.index.array_construction import build_arrays
from dgr_trainer.index.index_arrays import IndexArrays
from dgr_trainer.index.remaining_ids import RemainingIds
from dgr_trainer.index.segment import Removed, Segment
from dgr_trainer.index.token_texts import TokenText, read_texts

# Tokens that are read at a time when segments are merged.
_TOKENS_AT_ONCE = 1 << 20


def add_segments(
    segments: Sequence[Segment], texts: Iterable[TokenText], vocab_size: int, separator: int
) -> list[Segment]:
    """Index texts as new segments.

    Raises:
        ValueError: if an id is not valid, or occurs twice among the new passages and those that remain in the old.
    """
    all_segments = list(segments)
    for text in texts:
        known = RemainingIds(all_segments).positions(text.passage_ids)
        taken = np.flatnonzero(known >= 0)
        if len(taken):
            raise DGRValueError(
                f"The passage id {text.passage_ids[taken[0]]!r} is in the index already ({len(taken)} of these "
                "passages are), but an id must name one passage. Remove the older passages first, or give new ids."
            )
        all_segments.append(Segment(build_arrays(text, vocab_size), separator))
    return all_segments


def without_passages(segments: Sequence[Segment], passages: np.ndarray) -> list[Segment]:
    """The segments without some passages; a segment with no passage left is dropped."""
    bases = np.cumsum([0, *(segment.num_passages for segment in segments)])
    owners = np.searchsorted(bases, passages, side="right") - 1
    reduced = [segment.without(passages[owners == number] - bases[number]) for number, segment in enumerate(segments)]
    return [segment for segment in reduced if segment.num_passages]


def remaining_texts(
    segments: Sequence[Segment],
    start: int = 0,
    *,
    vocab_size: int,
    separator: int,
    max_tokens: int | None,
    progress: bool,
) -> Iterator[TokenText]:
    """The passages that remain in some segments, in the same order, as texts of new segments.

    Args:
        segments (`Sequence[Segment]`): the segments.
        start (`int`): the passage to start at, among those that remain.
        vocab_size (`int`): number of token ids.
        separator (`int`): the token id after each passage.
        max_tokens (`int`, *optional*): most tokens of a text.
        progress (`bool`): whether to show a progress bar.

    Yields:
        `TokenText`: the texts in order.
    """
    sizes = np.concatenate([segment.passage_lengths for segment in segments])[start:]

    def sequences() -> Iterator[np.ndarray]:
        bounds = np.searchsorted(np.cumsum(sizes), np.arange(0, sizes.sum() + _TOKENS_AT_ONCE, _TOKENS_AT_ONCE))
        bounds = start + np.unique(np.concatenate([[0], bounds, [len(sizes)]]))
        for first, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            indptr, tokens = query_dispatch.extract(segments, np.arange(first, stop))
            for left, right in zip(indptr[:-1].tolist(), indptr[1:].tolist(), strict=True):
                yield tokens[left:right]

    ids = islice(RemainingIds(segments), start, None)
    yield from read_texts(sequences(), ids, vocab_size, separator, max_tokens, len(sizes), progress)


def segment_fingerprints(segments: Sequence[Segment]) -> list[list[str]]:
    """Two digests for each segment: of its arrays, and of what was removed from it."""

    def digest(arrays: IndexArrays | Removed) -> str:
        content = hashlib.sha256()
        for field in fields(arrays):
            content.update(getattr(arrays, field.name).reshape(-1).view(np.uint8))
        return content.hexdigest()

    # The folder of a stored segment is named by a checksum of its arrays.
    return [
        [digest(each.arrays) if each.stored is None else each.stored.description["name"], digest(each.removed)]
        for each in segments
    ]
