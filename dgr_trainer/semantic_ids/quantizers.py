"""From a vector to its path of codes: residual k-means, a tree of k-means, or a number of its own.

A quantizer is fitted on the vectors of a corpus and then encodes further vectors. Fitting reads a sample to train, and
all vectors in blocks to assign them, so that vectors may be memory-mapped and larger than the memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from tqdm.auto import tqdm

from dgr_trainer.files.progress import kept_moving
from dgr_trainer.semantic_ids.clustering import balanced_clusters, kmeans, nearest
from dgr_trainer.semantic_ids.paths import NO_CODE
from dgr_trainer.semantic_ids.vectors import BLOCK, blocks, rows_of


@dataclass(frozen=True)
class Training:
    """How clusters are found.

    Args:
        iterations (`int`): Iterations of k-means.
        sample (`int`): Most vectors that k-means is trained on.
        balanced (`bool`): Whether no cluster gets more than its share of the vectors.
        seed (`int`): Seed of the sample and of the initial centroids.
        progress (`bool`): Whether to show progress bars.
    """

    iterations: int
    sample: int
    balanced: bool
    seed: int
    progress: bool

    def sampled(self, positions: np.ndarray) -> np.ndarray:
        """The positions that k-means is trained on, ascending."""
        if len(positions) <= self.sample:
            return positions
        chosen = np.random.default_rng(self.seed).choice(len(positions), self.sample, replace=False)
        return positions[np.sort(chosen)]

    @contextmanager
    def bar(self, doing: str, total: int | None = None, unit: str = " vectors") -> Iterator[tqdm[Any]]:
        """A progress bar that keeps moving."""
        with (
            tqdm(total=total, desc=doing, unit=unit, disable=not self.progress, delay=2) as bar,
            kept_moving(bar),
        ):
            yield bar


class Quantizer(Protocol):
    """Turns vectors into paths of codes."""

    def encode(self, vectors: np.ndarray, progress: bool = False) -> np.ndarray:
        """The path of each vector: `(n, levels)` int32, [`NO_CODE`] after the end of a shorter path."""
        ...

    def arrays(self) -> dict[str, np.ndarray]:
        """What has to be saved, by name."""
        ...

    @property
    def dimensions(self) -> int:
        """Length of the vectors that it was fitted on."""
        ...


class ResidualQuantizer:
    """Residual k-means: each level clusters what the centroids of the levels before leave of the vectors.

    Args:
        codebooks (`Sequence[np.ndarray]`): The centroids of each level, `(size, d)` float32.
    """

    def __init__(self, codebooks: Sequence[np.ndarray]) -> None:
        self.codebooks = list(codebooks)

    @property
    def dimensions(self) -> int:
        """Length of the vectors that it was fitted on."""
        return int(self.codebooks[0].shape[1])

    @classmethod
    def fit(
        cls, vectors: np.ndarray, sizes: Sequence[int], training: Training
    ) -> tuple[ResidualQuantizer, np.ndarray]:
        """Fit one codebook a level; returns the quantizer and the paths of the vectors."""
        everything = np.arange(len(vectors))
        sample = training.sampled(everything)
        quantizer = cls([])
        paths = np.empty((len(vectors), len(sizes)), np.int32)
        residuals = rows_of(vectors, sample)
        for level, size in enumerate(sizes):
            with training.bar(f"Level {level + 1} of {len(sizes)}: clustering") as bar:
                centroids = kmeans(residuals, size, training.iterations, training.seed + level)
                if training.balanced:
                    # The limit holds for all vectors, so all are assigned before the next level is trained.
                    paths[:, level], centroids = balanced_clusters(
                        lambda positions: quantizer._residuals(vectors, positions, paths),
                        everything,
                        centroids,
                        bar,
                    )
                    codes = paths[sample, level]
                else:
                    codes = nearest(residuals, centroids)
            quantizer.codebooks.append(centroids)
            residuals -= centroids[codes]
        if not training.balanced:
            paths = quantizer.encode(vectors, training.progress)
        return quantizer, paths

    def _residuals(self, vectors: np.ndarray, positions: np.ndarray, paths: np.ndarray) -> np.ndarray:
        rows = rows_of(vectors, positions).copy()
        for level, centroids in enumerate(self.codebooks):
            rows -= centroids[paths[positions, level]]
        return rows

    def encode(self, vectors: np.ndarray, progress: bool = False) -> np.ndarray:
        """See [`Quantizer`]."""
        paths = np.empty((len(vectors), len(self.codebooks)), np.int32)
        with tqdm(
            total=len(vectors), desc="Assigning codes", unit=" vectors", disable=not progress, delay=2, leave=False
        ) as bar:
            for start in range(0, len(vectors), BLOCK):
                rows = rows_of(vectors, slice(start, start + BLOCK)).copy()
                for level, centroids in enumerate(self.codebooks):
                    codes = nearest(rows, centroids)
                    paths[start : start + BLOCK, level] = codes
                    rows -= centroids[codes]
                bar.update(len(rows))
        return paths

    def arrays(self) -> dict[str, np.ndarray]:
        """See [`Quantizer`]."""
        return {f"codebook_{level + 1}": centroids for level, centroids in enumerate(self.codebooks)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ResidualQuantizer:
        """What `arrays` returned."""
        levels = sum(name.startswith("codebook_") for name in arrays)
        return cls([arrays[f"codebook_{level + 1}"] for level in range(levels)])


class HierarchicalQuantizer:
    """A tree of k-means: a cluster is divided again as long as it has more members than a level has codes.

    Args:
        centroids (`np.ndarray` of shape `(nodes, d)`, float32): Centroid of each node; the first one is the root.
        children (`np.ndarray` of shape `(nodes, 2)`, int64): First child of each node, and how many it has. A code is
            the number of a child among those of its parent.
    """

    def __init__(self, centroids: np.ndarray, children: np.ndarray) -> None:
        self.centroids = centroids
        self.children = children

    @property
    def dimensions(self) -> int:
        """Length of the vectors that it was fitted on."""
        return int(self.centroids.shape[1])

    @classmethod
    def fit(
        cls, vectors: np.ndarray, sizes: Sequence[int], training: Training
    ) -> tuple[HierarchicalQuantizer, np.ndarray]:
        """Fit the tree; returns the quantizer and the paths of the vectors, as long as the tree is deep."""
        paths = np.full((len(vectors), len(sizes)), NO_CODE, np.int32)
        centroids = [np.zeros((1, vectors.shape[1]), np.float32)]
        children = [(0, 0)]
        level_nodes = [(0, np.arange(len(vectors)))]
        for level, size in enumerate(sizes):
            next_nodes: list[tuple[int, np.ndarray]] = []
            total = sum(len(members) for _, members in level_nodes)
            with training.bar(f"Level {level + 1} of {len(sizes)}: clustering", total) as bar:
                for node, members in level_nodes:
                    bar.update(len(members))
                    if level and len(members) <= size:
                        continue
                    codes, found = _divided(vectors, members, size, training, training.seed + node, bar)
                    used, codes = np.unique(codes, return_inverse=True)
                    if level and len(used) == 1:
                        continue  # All members have the same vector.
                    paths[members, level] = codes
                    first = len(children)
                    children[node] = (first, len(used))
                    children += [(0, 0)] * len(used)
                    centroids.append(found[used])
                    order = np.argsort(codes, kind="stable")
                    bounds = np.searchsorted(codes[order], np.arange(1, len(used)))
                    for number, positions in enumerate(np.split(members[order], bounds)):
                        next_nodes.append((first + number, positions))
            level_nodes = next_nodes
        used = paths[:, (paths != NO_CODE).any(0)]
        return cls(np.concatenate(centroids), np.array(children, np.int64)), used

    def encode(self, vectors: np.ndarray, progress: bool = False) -> np.ndarray:
        """See [`Quantizer`]."""
        columns: list[np.ndarray] = []
        nodes = np.zeros(len(vectors), np.int64)
        active = np.arange(len(vectors))
        while len(active := active[self.children[nodes[active], 1] > 0]):
            column = np.full(len(vectors), NO_CODE, np.int32)
            order = active[np.argsort(nodes[active], kind="stable")]
            parents, starts = np.unique(nodes[order], return_index=True)
            for parent, positions in zip(parents, np.split(order, starts[1:]), strict=True):
                first, count = self.children[parent]
                for block in blocks(positions):
                    column[block] = nearest(rows_of(vectors, block), self.centroids[first : first + count])
                nodes[positions] = first + column[positions]
            columns.append(column)
        return np.stack(columns, axis=1)

    def arrays(self) -> dict[str, np.ndarray]:
        """See [`Quantizer`]."""
        return {"centroids": self.centroids, "children": self.children}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> HierarchicalQuantizer:
        """What `arrays` returned."""
        return cls(arrays["centroids"], arrays["children"])


def _divided(
    vectors: np.ndarray, members: np.ndarray, size: int, training: Training, seed: int, bar: tqdm[Any]
) -> tuple[np.ndarray, np.ndarray]:
    """The cluster of each member of a node, and the centroids."""
    centroids = kmeans(rows_of(vectors, training.sampled(members)), size, training.iterations, seed)
    if training.balanced:
        return balanced_clusters(lambda positions: rows_of(vectors, positions), members, centroids, bar)
    parts = [nearest(rows_of(vectors, block), centroids) for block in blocks(members)]
    return np.concatenate(parts), centroids


QUANTIZERS: dict[str, type[ResidualQuantizer] | type[HierarchicalQuantizer]] = {
    "residual": ResidualQuantizer,
    "hierarchical": HierarchicalQuantizer,
}
