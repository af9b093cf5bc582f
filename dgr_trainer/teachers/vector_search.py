"""Exact search for the vectors of largest inner product, block by block, on any device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm.auto import tqdm


def nearest(
    queries: np.ndarray,
    vectors: np.ndarray,
    ids: Sequence[str],
    k: int,
    device: Any,
    block: int = 1 << 16,
    *,
    progress: bool = False,
) -> list[list[tuple[str, float]]]:
    """Find the vectors of largest inner product with each query.

    Ties at the cut are decided by id, larger first, as everywhere in `Rankings`.

    Args:
        queries (`np.ndarray` of shape `(n, d)`, float32): Vectors of the queries.
        vectors (`np.ndarray` of shape `(m, d)`, float32 or float16): Vectors of the passages; may be memory-mapped.
            Products are those of float32.
        ids (`Sequence[str]`): Ids of the passages.
        k (`int`): Number of passages to find for each query.
        device (`torch.device`): Where to compute.
        block (`int`, *optional*, defaults to 65,536): Number of passage vectors on the device at once.
        progress (`bool`, *optional*, defaults to `False`): Whether to show the progress of a long search.

    Returns:
        `list[list[tuple[str, float]]]`: For each query, ids and inner products, best first.
    """
    import torch

    # Copied into torch's memory: on a CPU, the rounding of products depends on how their operands are aligned.
    query_vectors = torch.tensor(queries, device=device)

    def products(start: int) -> Any:
        return query_vectors @ torch.tensor(vectors[start : start + block], device=device).float().T

    # One passage more than needed shows whether the cut goes through a tie.
    scores = torch.empty(len(queries), 0, device=device)
    positions = torch.empty(len(queries), 0, dtype=torch.long, device=device)
    starts = range(0, len(vectors), block)
    compared = f"Comparing {len(queries)} queries"
    for start in tqdm(starts, desc=compared, unit=" blocks", leave=False, delay=2, disable=not progress):
        block_scores = products(start)
        block_positions = torch.arange(start, start + block_scores.shape[1], device=device).expand_as(block_scores)
        all_scores = torch.cat([scores, block_scores], dim=1)
        scores, best = all_scores.topk(min(k + 1, all_scores.shape[1]), dim=1)
        positions = torch.cat([positions, block_positions], dim=1).gather(1, best)
    hits = [
        dict(zip(row_positions, row_scores, strict=True))
        for row_positions, row_scores in zip(positions.tolist(), scores.tolist(), strict=True)
    ]
    if scores.shape[1] > k:
        tied = (scores[:, k] == scores[:, k - 1]).nonzero().flatten()
        if len(tied):
            for start in range(0, len(vectors), block):
                block_scores = products(start)[tied]
                for row, column in (block_scores >= scores[tied, k - 1 : k]).nonzero().tolist():
                    hits[int(tied[row])][start + column] = float(block_scores[row, column])
    named = [[(ids[position], score) for position, score in row_hits.items()] for row_hits in hits]
    return [sorted(row_hits, key=lambda hit: (hit[1], hit[0]), reverse=True)[:k] for row_hits in named]
