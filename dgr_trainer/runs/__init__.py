"""Runs: for each query an ordered list of passages with their scores, given by a teacher or a search.

The names in `__all__` are public and are imported on first use.
"""

import importlib
from typing import Any

_HOME_OF = {
    "RankList": "rank_list",
    "RankListStatistics": "statistics",
    "Rankings": "rankings",
    "Triples": "published_candidates",
    "from_rerankers": "reading",
    "rank_list_statistics": "statistics",
    "read_hard_negatives": "published_candidates",
    "read_run": "reading",
    "read_top1000": "published_candidates",
    "read_triples": "published_candidates",
    "reciprocal_rank_fusion": "fusion",
    "score_fusion": "fusion",
    "write_run": "reading",
}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'dgr_trainer.runs' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dgr_trainer.runs.{_HOME_OF[name]}"), name)
