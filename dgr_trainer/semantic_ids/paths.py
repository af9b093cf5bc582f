"""Which passages have paths of codes that begin alike."""

from collections.abc import Iterator

import numpy as np

NO_CODE = -1
"""Fills paths that are shorter than others."""


def prefix_groups(paths: np.ndarray) -> Iterator[np.ndarray]:
    """For each level, the number of the group of passages whose paths are the same up to there.

    Args:
        paths (`np.ndarray` of shape `(n, levels)`, int32): The codes, [`NO_CODE`] after the end of a shorter path.

    Yields:
        `np.ndarray` of shape `(n,)`, int64: numbers from 0, in the order of the prefixes.
    """
    groups = np.zeros(len(paths), np.int64)
    for level in range(paths.shape[1]):
        codes = paths[:, level].astype(np.int64) + 1
        # A group and a code in one number, which sorts many times faster than rows do.
        _, groups = np.unique(groups * (codes.max(initial=0) + 1) + codes, return_inverse=True)
        yield groups
