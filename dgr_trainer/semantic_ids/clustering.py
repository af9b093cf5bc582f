"""k-means by faiss, and an assignment in which no cluster has more than its share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from dgr_trainer.errors import MissingPackageError
from dgr_trainer.semantic_ids.vectors import BLOCK, blocks

Rows = Callable[[np.ndarray], np.ndarray]
"""Returns the vectors at some positions, `(m, d)`, float32."""
_BALANCED_ROUNDS = 2


def load_faiss() -> Any:
    """The module `faiss`. Raises an `ImportError` that names the extra if it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise MissingPackageError(
            'Semantic ids are made with the k-means of faiss: pip install "dgr-trainer[faiss]".'
        ) from error
    return faiss


def kmeans(rows: np.ndarray, size: int, iterations: int, seed: int) -> np.ndarray:
    """Centroids of k-means.

    Args:
        rows (`np.ndarray` of shape `(n, d)`, float32): The vectors, at least `size`.
        size (`int`): Number of clusters.
        iterations (`int`): Iterations of Lloyd's algorithm.
        seed (`int`): Seed of the initial centroids.

    Returns:
        `np.ndarray` of shape `(size, d)`, float32.
    """
    if len(rows) == size:
        return rows.copy()  # faiss would do the same, and warn.
    # The sample is drawn before, so all of it counts, and few vectors to a cluster are no reason for a warning.
    training = load_faiss().Kmeans(
        rows.shape[1],
        size,
        niter=iterations,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(rows),
    )
    training.train(rows)
    centroids: np.ndarray = training.centroids
    return centroids


def squared_distances(rows: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Squared distances `(n, size)` of vectors to centroids, float32."""
    products = rows @ centroids.T
    lengths = np.einsum("ij,ij->i", rows, rows)[:, None] + np.einsum("ij,ij->i", centroids, centroids)
    distances: np.ndarray = np.maximum(lengths - 2 * products, 0, dtype=np.float32)
    return distances


def nearest(rows: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Number of the nearest centroid of each vector, int32; the first of equal ones."""
    numbers = np.empty(len(rows), np.int32)
    for start in range(0, len(rows), BLOCK):  # All distances at once may be more than the memory holds.
        numbers[start : start + BLOCK] = squared_distances(rows[start : start + BLOCK], centroids).argmin(axis=1)
    return numbers


def balanced_clusters(
    rows: Rows, positions: np.ndarray, centroids: np.ndarray, bar: tqdm[Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Clusters of at most `ceil(n / size)` members, and their centroids.

    Each round assigns all vectors within that limit; between rounds, centroids move to the means of their members.

    Args:
        rows (`Callable`): Returns the vectors at positions.
        positions (`np.ndarray` of shape `(n,)`, int64): The positions of the vectors to be assigned.
        centroids (`np.ndarray` of shape `(size, d)`): Where clusters start.
        bar (`tqdm.tqdm`): Shows how many vectors are waiting.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: the cluster of each vector, int32, and the centroids `(size, d)`.
    """
    for further in reversed(range(_BALANCED_ROUNDS)):
        assigned = _within_capacity(rows, positions, centroids, -(-len(positions) // len(centroids)), bar)
        if further:
            centroids = _means(rows, positions, assigned, centroids)
    return assigned, centroids


def _within_capacity(
    rows: Rows, positions: np.ndarray, centroids: np.ndarray, capacity: int, bar: tqdm[Any]
) -> np.ndarray:
    """The stable assignment: no vector is nearer to another cluster than one of its members is, if it is full.

    Vectors ask the nearest cluster that has room, or a member further away, which then has to look again. A cluster
    that is full takes only nearer and nearer vectors, so this ends.
    """
    count = len(positions)
    cluster = np.full(count, -1, np.int32)
    distance = np.full(count, np.inf, np.float32)
    limits = np.full(len(centroids), np.inf, np.float32)  # Distance of the furthest member of a full cluster.
    waiting = np.arange(count)
    while len(waiting):
        bar.set_postfix_str(f"{len(waiting):,} to place", refresh=False)
        for block in blocks(waiting):
            distances = squared_distances(rows(positions[block]), centroids)
            distances[distances >= limits] = np.inf
            cluster[block] = distances.argmin(1)
            distance[block] = distances[np.arange(len(block)), cluster[block]]
        changed = np.zeros(len(centroids), bool)
        changed[cluster[waiting]] = True
        members = np.flatnonzero(changed[cluster])
        members = members[np.lexsort((members, distance[members], cluster[members]))]
        of = cluster[members]
        starts = np.searchsorted(of, np.arange(len(centroids)))
        places = np.arange(len(members)) - starts[of]
        last = members[places == capacity - 1]
        limits[cluster[last]] = distance[last]
        waiting = np.sort(members[places >= capacity])
        bar.update(0)
    return cluster


def _means(rows: Rows, positions: np.ndarray, assigned: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The means of the members of clusters; a cluster without members stays where it is."""
    sums = np.zeros(centroids.shape, np.float64)
    counts = np.bincount(assigned, minlength=len(centroids))
    for block in blocks(np.arange(len(positions))):
        order = block[np.argsort(assigned[block], kind="stable")]
        present, starts = np.unique(assigned[order], return_index=True)
        sums[present] += np.add.reduceat(rows(positions[order]), starts, axis=0, dtype=np.float64)
    means = sums / np.maximum(counts, 1)[:, None]
    return np.where(counts[:, None] > 0, means, centroids).astype(np.float32)
