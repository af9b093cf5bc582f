"""Prefix trees: what identifiers of one prompt begin with alike is decoded once.

A decoder reads an identifier's tokens but the last; what it has read is a prefix, and from each prefix it predicts the
tokens that follow it in any identifier. In a row the prefixes stand in preorder, the empty one first, so that the
prefixes that begin with a given one are those from its own place up to an end.
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

EMPTY = -1  # Stands for the token with which the decoder begins.


class PrefixTree(NamedTuple):
    """The prefixes of some identifiers in preorder, N in number, and those that the T tokens of the identifiers
    follow.

    Args:
        tokens (`np.ndarray` of shape `(N,)`, int64): Last token of each prefix; -1 for the empty one.
        depths (`np.ndarray` of shape `(N,)`, int64): Its length.
        ends (`np.ndarray` of shape `(N,)`, int64): The place after the last prefix that begins with this one.
        prefixes (`np.ndarray` of shape `(T,)`, int64):
            Place of the prefix that each token follows, one identifier after another.
    """

    tokens: np.ndarray
    depths: np.ndarray
    ends: np.ndarray
    prefixes: np.ndarray


def shared_lengths(identifiers: Sequence[Sequence[int]]) -> np.ndarray:
    """How many prefixes each of some sorted identifiers shares with the one before it, the empty one not counted.

    Args:
        identifiers (`Sequence[Sequence[int]]`): Sorted, so that those with a common prefix are neighbours.

    Returns:
        `np.ndarray` of shape `(len(identifiers),)`, int64; the first entry is 0.
    """
    ids, lengths = _padded(identifiers)
    common = np.logical_and.accumulate(ids[1:] == ids[:-1], axis=1).sum(1)
    # Padding equals padding, and nothing follows the last token of an identifier.
    shared = np.minimum(common, np.minimum(lengths[1:], lengths[:-1]) - 1)
    return np.concatenate([[0], shared])


def prefix_tree(identifiers: Sequence[Sequence[int]]) -> PrefixTree:
    """The [`PrefixTree`] of sorted identifiers, at least one, none of them empty."""
    ids, lengths = _padded(identifiers)
    shared = shared_lengths(identifiers)
    depth = np.arange(ids.shape[1])
    # Prefixes that no identifier before had; the first identifier brings the empty one.
    new = (depth > shared[:, None]) & (depth < lengths[:, None])
    new[0, 0] = True
    numbers = np.where(new.ravel(), np.cumsum(new) - 1, 0).reshape(new.shape)
    places = np.maximum.accumulate(numbers, axis=0)
    depths = np.broadcast_to(depth, new.shape)[new]
    tokens = np.concatenate([np.full((len(ids), 1), EMPTY), ids[:, :-1]], axis=1)[new]
    ends = np.empty(len(depths), np.int64)
    for value in range(int(depths.max()) + 1):
        same = np.flatnonzero(depths == value)
        closing = np.append(np.flatnonzero(depths <= value), len(depths))
        ends[same] = closing[np.searchsorted(closing, same, side="right")]
    return PrefixTree(tokens, depths, ends, places[depth < lengths[:, None]])


def _padded(identifiers: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.fromiter(map(len, identifiers), np.int64, len(identifiers))
    ids = np.full((len(lengths), lengths.max()), -1, np.int64)
    ids[np.arange(ids.shape[1]) < lengths[:, None]] = joined(identifiers)
    return ids, lengths


def joined(identifiers: Sequence[Sequence[int]]) -> np.ndarray:
    """The tokens of identifiers, one after another, int64."""
    return np.fromiter(chain.from_iterable(identifiers), np.int64, sum(map(len, identifiers)))
