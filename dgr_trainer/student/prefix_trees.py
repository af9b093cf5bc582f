"""Prefix trees: a prefix that several identifiers of one prompt share is decoded once.

A decoder reads all tokens of an identifier but the last. What it has read is a prefix, and from each prefix it
predicts the tokens that follow it in any identifier. The prefixes of a row are in preorder, the empty one first, so
that those that begin with a given prefix are consecutive and start with it.
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

EMPTY = -1  # The last token of the empty prefix, of which the decoder has only read the start token.


class PrefixTree(NamedTuple):
    """The N prefixes of some identifiers in preorder, and the prefix before each of the identifiers' T tokens.

    Args:
        tokens (`np.ndarray` of shape `(N,)`, int64): Last token of each prefix; -1 for the empty one.
        depths (`np.ndarray` of shape `(N,)`, int64): Length of each prefix.
        ends (`np.ndarray` of shape `(N,)`, int64): The position after the last prefix that begins with this one.
        prefixes (`np.ndarray` of shape `(T,)`, int64):
            Position of the prefix that each token follows, for all tokens of the first identifier, then the next.
    """

    tokens: np.ndarray
    depths: np.ndarray
    ends: np.ndarray
    prefixes: np.ndarray


def shared_lengths(identifiers: Sequence[Sequence[int]]) -> np.ndarray:
    """How many prefixes, besides the empty one, each identifier shares with the identifier before it.

    Args:
        identifiers (`Sequence[Sequence[int]]`): Sorted, so that identifiers with a common prefix are neighbours.

    Returns:
        `np.ndarray` of shape `(len(identifiers),)`, int64; the first entry is 0.
    """
    ids, lengths = _padded(identifiers)
    common = np.logical_and.accumulate(ids[1:] == ids[:-1], axis=1).sum(1)
    # Padding is equal to padding, and the last token of an identifier is not part of a prefix.
    shared = np.minimum(common, np.minimum(lengths[1:], lengths[:-1]) - 1)
    return np.concatenate([[0], shared])


def prefix_tree(identifiers: Sequence[Sequence[int]]) -> PrefixTree:
    """Build the [`PrefixTree`] of sorted identifiers: at least one, none of them empty."""
    ids, lengths = _padded(identifiers)
    shared = shared_lengths(identifiers)
    depth = np.arange(ids.shape[1])
    # Prefixes that no earlier identifier has; the first identifier adds the empty one.
    new = (depth > shared[:, None]) & (depth < lengths[:, None])
    new[0, 0] = True
    numbers = np.where(new.ravel(), np.cumsum(new) - 1, 0).reshape(new.shape)
    positions = np.maximum.accumulate(numbers, axis=0)
    depths = np.broadcast_to(depth, new.shape)[new]
    tokens = np.concatenate([np.full((len(ids), 1), EMPTY), ids[:, :-1]], axis=1)[new]
    ends = np.empty(len(depths), np.int64)
    for depth_value in range(int(depths.max()) + 1):
        same_depth = np.flatnonzero(depths == depth_value)
        closing = np.append(np.flatnonzero(depths <= depth_value), len(depths))
        ends[same_depth] = closing[np.searchsorted(closing, same_depth, side="right")]
    return PrefixTree(tokens, depths, ends, positions[depth < lengths[:, None]])


def _padded(identifiers: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.fromiter(map(len, identifiers), np.int64, len(identifiers))
    ids = np.full((len(lengths), lengths.max()), -1, np.int64)
    ids[np.arange(ids.shape[1]) < lengths[:, None]] = joined_tokens(identifiers)
    return ids, lengths


def joined_tokens(identifiers: Sequence[Sequence[int]]) -> np.ndarray:
    """The tokens of all identifiers in one array, int64."""
    return np.fromiter(chain.from_iterable(identifiers), np.int64, sum(map(len, identifiers)))
