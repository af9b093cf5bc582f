"""How well codes are used, and whether neighbours have codes in common."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dgr_trainer.semantic_ids.clustering import squared_distances
from dgr_trainer.semantic_ids.paths import NO_CODE, prefix_groups
from dgr_trainer.semantic_ids.vectors import BLOCK, rows_of

_DISTANCES_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class SemanticIdStatistics:
    """Statistics of semantic ids. Its text is a table; sequences have an entry for each level.

    Args:
        kind (`str`): `"residual"`, `"hierarchical"` or `"atomic"`.
        passages (`int`): Number of passages.
        sizes (`tuple[int, ...]`): Codes that there are.
        used (`tuple[int, ...]`): Codes that a passage has.
        entropy (`tuple[float, ...]`): Entropy of the codes in bits; `log2(size)` if all are equally frequent.
        largest (`tuple[int, ...]`): Members of the largest cluster: passages with one code (residual), or one path up
            to there (hierarchical).
        prefixes (`tuple[int, ...]`): Distinct paths up to that level.
        collisions (`int`): Passages whose path an earlier passage has; they have a number after it. In a tree most
            have: leaves hold several passages.
        longest (`int`): Tokens of the longest docid.
        neighbours (`tuple[float, ...]`, *optional*): Share of the nearest neighbours of a passage whose path begins
            with the same codes, up to that level.
        chance (`tuple[float, ...]`, *optional*): The same share of all pairs of passages.
    """

    kind: str
    passages: int
    sizes: tuple[int, ...]
    used: tuple[int, ...]
    entropy: tuple[float, ...]
    largest: tuple[int, ...]
    prefixes: tuple[int, ...]
    collisions: int
    longest: int
    neighbours: tuple[float, ...] | None = None
    chance: tuple[float, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def __repr__(self) -> str:
        share = f"{self.collisions / max(self.passages, 1):.2%}"
        shared = "numbered in a leaf" if self.kind == "hierarchical" else "collisions"
        heading = (
            f"{self.kind} ids of {self.passages:,} passages: {self.collisions:,} {shared} ({share}), up to "
            f"{self.longest} tokens"
        )
        columns = ["level", "codes", "used", "entropy", "of", "largest", "prefixes"]
        rows = [
            [
                str(level + 1),
                f"{size:,}",
                f"{self.used[level]:,}",
                f"{self.entropy[level]:.2f}",
                f"{np.log2(size):.2f}",
                f"{self.largest[level]:,}",
                f"{self.prefixes[level]:,}",
            ]
            for level, size in enumerate(self.sizes)
        ]
        if self.neighbours is not None and self.chance is not None:
            columns += ["neighbours", "chance"]
            for row, *shares in zip(rows, self.neighbours, self.chance, strict=True):
                row += [f"{one:.1%}" for one in shares]
        table = [columns, *rows]
        widths = [max(len(row[number]) for row in table) for number in range(len(columns))]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
        return "\n".join([heading, *lines])


def path_statistics(paths: np.ndarray, hierarchical: bool) -> dict[str, Any]:
    """The fields of [`SemanticIdStatistics`] that need no vectors."""
    used, entropy, largest, prefixes = [], [], [], []
    for level, groups in enumerate(prefix_groups(paths)):
        codes = paths[:, level]
        counts = np.bincount(codes[codes != NO_CODE])
        counts = counts[counts > 0]
        shares = counts / max(counts.sum(), 1)
        used.append(len(counts))
        entropy.append(float(-(shares * np.log2(shares)).sum()) + 0.0)
        members = np.bincount(groups)
        prefixes.append(len(members))
        clusters = np.bincount(groups[codes != NO_CODE]) if hierarchical else counts
        largest.append(int(max([0, *clusters])))
    return {
        "used": tuple(used),
        "entropy": tuple(entropy),
        "largest": tuple(largest),
        "prefixes": tuple(prefixes),
    }


def neighbour_agreement(
    vectors: np.ndarray, paths: np.ndarray, neighbours: int, sample: int, seed: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The share of nearest neighbours with a common prefix of each length, and that of all pairs.

    Args:
        vectors (`np.ndarray` of shape `(n, d)`): The vectors.
        paths (`np.ndarray` of shape `(n, levels)`, int32): Their paths.
        neighbours (`int`): Neighbours of a passage; by the Euclidean distance, as in k-means, and exact.
        sample (`int`): Passages whose neighbours are looked up.
        seed (`int`): Seed of the sample.
    """
    count = len(vectors)
    chosen = np.sort(np.random.default_rng(seed).choice(count, min(sample, count), replace=False))
    kept = min(neighbours, count - 1)
    if kept < 1:
        empty = (0.0,) * paths.shape[1]
        return empty, empty
    queries = rows_of(vectors, chosen)
    best = np.empty((len(chosen), 0), np.float32)
    found = np.empty((len(chosen), 0), np.int64)
    block = min(BLOCK, max(1, _DISTANCES_AT_ONCE // len(chosen)))
    for start in range(0, count, block):
        stop = min(start + block, count)
        distances = squared_distances(queries, rows_of(vectors, slice(start, stop)))
        itself = (chosen >= start) & (chosen < stop)
        distances[np.flatnonzero(itself), chosen[itself] - start] = np.inf
        of_block = np.argpartition(distances, min(kept, stop - start) - 1, axis=1)[:, :kept]
        best = np.concatenate([best, np.take_along_axis(distances, of_block, 1)], axis=1)
        found = np.concatenate([found, of_block + start], axis=1)
        nearest = np.argpartition(best, min(kept, best.shape[1]) - 1, axis=1)[:, :kept]
        best, found = np.take_along_axis(best, nearest, 1), np.take_along_axis(found, nearest, 1)
    shares = np.logical_and.accumulate(paths[chosen][:, None] == paths[found], axis=-1).mean((0, 1))
    chance = []
    for groups in prefix_groups(paths):
        members = np.bincount(groups).astype(np.float64)
        chance.append(float((members * (members - 1)).sum() / (count * (count - 1))))
    return tuple(map(float, shares)), tuple(chance)
