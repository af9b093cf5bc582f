"""Adding segments to an index, removing passages from its segments, and merging segments."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import pairwise

import numpy as np

from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.progress import elapsed_time
from dgr_trainer.index.array_construction import build_arrays
from dgr_trainer.index.index_arrays import IndexArrays
from dgr_trainer.index.passage_ids import pack_ids
from dgr_trainer.index.remaining_ids import RemainingIds
from dgr_trainer.index.segment import Removed, Segment
from dgr_trainer.index.token_texts import TokenPiece, TokenText, join_pieces
from dgr_trainer.index.whole_text import whole_text

# Passages that are copied at a time when segments are merged.
_PASSAGES_AT_ONCE = 1 << 14


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
    separator: int,
    max_tokens: int | None,
    progress: bool,
) -> Iterator[TokenText]:
    """The passages that remain in some segments, in the same order, as texts of new segments.

    Args:
        segments (`Sequence[Segment]`): the segments.
        start (`int`): the passage to start at, among those that remain.
        separator (`int`): the token id after each passage.
        max_tokens (`int`, *optional*): most tokens of a text.
        progress (`bool`): whether to show a progress bar.

    Yields:
        `TokenText`: the texts in order.
    """
    total = sum(segment.num_passages for segment in segments) - start
    yield from join_pieces(_remaining_pieces(segments, start, separator, progress), max_tokens, total, progress)


def _remaining_pieces(segments: Sequence[Segment], start: int, separator: int, progress: bool) -> Iterator[TokenPiece]:
    """The passages that remain, from one on, segment by segment; the text of one is in memory."""
    for segment in segments:
        first, start = start, max(0, start - segment.num_passages)
        if first >= segment.num_passages:
            continue
        with elapsed_time(f"Reading a segment of {segment.arrays.num_rows:,} tokens", shown=progress):
            text = whole_text(segment.arrays, separator)
        starts, ids = segment.arrays.passage_starts, RemainingIds([segment])
        for begin in range(first, segment.num_passages, _PASSAGES_AT_ONCE):
            numbers = np.arange(begin, min(begin + _PASSAGES_AT_ONCE, segment.num_passages))
            packed = pack_ids(ids.take(numbers))
            numbers = segment.original_numbers(numbers)
            # Runs of passages between which none was removed.
            bounds = np.concatenate([[0], np.flatnonzero(np.diff(numbers) != 1) + 1, [len(numbers)]])
            runs = [text[starts[numbers[a]] : starts[numbers[b - 1] + 1]] for a, b in pairwise(bounds.tolist())]
            yield TokenPiece(np.concatenate(runs), starts[numbers + 1] - starts[numbers], packed)
        del text, runs  # Before the next one is read.


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
