"""Adding segments to an index, removing passages from its segments, and merging segments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from dgr_trainer.errors import DGRValueError
from dgr_trainer.index import query_dispatch
from dgr_trainer.index.array_construction import build_arrays
from dgr_trainer.index.remaining_ids import RemainingIds
from dgr_trainer.index.segment import Segment
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


def compacted(
    segments: Sequence[Segment], vocab_size: int, separator: int, segment_tokens: int | None, progress: bool
) -> list[Segment]:
    """Index the passages that remain again, in the same order, as few segments."""
    sizes = np.concatenate([segment.passage_lengths for segment in segments])

    def sequences() -> Iterator[np.ndarray]:
        bounds = np.searchsorted(np.cumsum(sizes), np.arange(0, sizes.sum() + _TOKENS_AT_ONCE, _TOKENS_AT_ONCE))
        bounds = np.unique(np.concatenate([[0], bounds, [len(sizes)]]))
        for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            indptr, tokens = query_dispatch.extract(segments, np.arange(start, stop))
            for left, right in zip(indptr[:-1].tolist(), indptr[1:].tolist(), strict=True):
                yield tokens[left:right]

    texts = read_texts(
        sequences(), RemainingIds(segments), vocab_size, separator, segment_tokens, len(sizes), progress
    )
    return add_segments([], texts, vocab_size, separator)
