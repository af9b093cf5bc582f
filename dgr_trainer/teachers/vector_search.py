"""The nearest vectors, exactly: by inner product, block by block, on any device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def nearest(
    queries: np.ndarray, vectors: np.ndarray, ids: Sequence[str], k: int, device: Any, block: int = 1 << 16
) -> list[list[tuple[str, float]]]:
    """Find the vectors of largest inner product with each query.

    Of equal ones at the cut, those of the larger id are found, as everywhere in `Rankings`.

    Args:
        queries (`np.ndarray` of shape `(n, d)`, float32): the queries.
        vectors (`np.ndarray` of shape `(m, d)`, float32): the passages; may be memory-mapped.
        ids (`Sequence[str]`): ids of the passages.
        k (`int`): how many to find.
        device (`torch.device`): where to compute.
        block (`int`, *optional*, defaults to 65,536): how many vectors to hold there at once.

    Returns:
        `list[list[tuple[str, float]]]`: for each query, ids and inner products, best first.
    """
    import torch

    # Copied into memory of torch's own: the CPU's products round by how their operands lie in memory.
    asked = torch.tensor(queries, device=device)

    def products(start: int) -> Any:
        return asked @ torch.tensor(vectors[start : start + block], device=device).T

    # One more than asked for shows whether the cut goes through equal ones.
    scores = torch.empty(len(queries), 0, device=device)
    places = torch.empty(len(queries), 0, dtype=torch.long, device=device)
    for start in range(0, len(vectors), block):
        new = products(start)
        both = torch.cat([scores, new], dim=1)
        where = torch.cat([places, torch.arange(start, start + new.shape[1], device=device).expand_as(new)], dim=1)
        scores, chosen = both.topk(min(k + 1, both.shape[1]), dim=1)
        places = where.gather(1, chosen)
    hits = [dict(zip(row, of, strict=True)) for row, of in zip(places.tolist(), scores.tolist(), strict=True)]
    if scores.shape[1] > k:
        tied = (scores[:, k] == scores[:, k - 1]).nonzero().flatten()
        if len(tied):
            for start in range(0, len(vectors), block):
                new = products(start)[tied]
                for row, place in (new >= scores[tied, k - 1 : k]).nonzero().tolist():
                    hits[int(tied[row])][start + place] = float(new[row, place])
    named = [[(ids[place], score) for place, score in of.items()] for of in hits]
    return [sorted(of, key=lambda hit: (hit[1], hit[0]), reverse=True)[:k] for of in named]
