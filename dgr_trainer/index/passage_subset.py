"""The index of some passages of an index, without indexing the corpus again.

Few passages are read from the index and indexed anew: nothing is searched but their text. Of many, the suffix-array
rows of all others are hidden, as those of removed passages are. Both answer as an index that was built from these
passages.
"""

from __future__ import annotations

import numpy as np

from dgr_trainer.index import query_dispatch
from dgr_trainer.index.fm_index import FMIndex
from dgr_trainer.index.passage_ids import pack_ids
from dgr_trainer.index.segment_changes import add_segments, without_passages
from dgr_trainer.index.token_texts import TokenText

# Share of the tokens up to which passages are indexed anew: that takes no longer than to hide the others, and not much
# more memory.
_INDEXED_SHARE = 0.125


def index_of_passages(index: FMIndex, positions: np.ndarray, indexed_share: float | None = None) -> FMIndex:
    """The index of some passages, in the order in which the index has them.

    Args:
        index ([`FMIndex`]): The index; it has segments of its own.
        positions (`np.ndarray` of int64): The positions of the passages, ascending, at least one.
        indexed_share (`float`, *optional*): Share of the index's tokens up to which passages are indexed anew.

    Returns:
        [`FMIndex`]: the index, in memory; for searching only.
    """
    if len(positions) == index.num_passages:
        return index
    indexed_share = _INDEXED_SHARE if indexed_share is None else indexed_share
    if int(index.passage_lengths[positions].sum()) + len(positions) > indexed_share * index.num_tokens:
        others = np.ones(index.num_passages, np.bool_)
        others[positions] = False
        return index.with_segments(without_passages(index.segments, np.flatnonzero(others)))
    indptr, tokens = query_dispatch.extract(index.segments, positions)
    width = np.uint16 if index.vocab_size <= 1 << 16 else np.uint32
    starts = indptr + np.arange(len(indptr))
    text = np.full(starts[-1], index.separator, width)
    text[np.arange(len(tokens)) + np.repeat(np.arange(len(positions)), np.diff(indptr))] = tokens
    parts = TokenText(text, starts, pack_ids(index.passage_ids.take(positions)))
    return index.with_segments(add_segments([], [parts], index.vocab_size, index.separator))
