"""Runs: for each query an ordered list of passages with their scores, given by a teacher or a search.

The names in `__all__` are public and are imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:  # The same names for type checkers and editors; a test compares the two.
    from dgr_trainer.runs.fusion import reciprocal_rank_fusion as reciprocal_rank_fusion
    from dgr_trainer.runs.fusion import score_fusion as score_fusion
    from dgr_trainer.runs.published_candidates import Triples as Triples
    from dgr_trainer.runs.published_candidates import read_hard_negatives as read_hard_negatives
    from dgr_trainer.runs.published_candidates import read_top1000 as read_top1000
    from dgr_trainer.runs.published_candidates import read_triples as read_triples
    from dgr_trainer.runs.rank_list import RankList as RankList
    from dgr_trainer.runs.rankings import Rankings as Rankings
    from dgr_trainer.runs.reading import from_rerankers as from_rerankers
    from dgr_trainer.runs.reading import read_run as read_run
    from dgr_trainer.runs.reading import write_run as write_run
    from dgr_trainer.runs.statistics import RankListStatistics as RankListStatistics
    from dgr_trainer.runs.statistics import rank_list_statistics as rank_list_statistics

__all__ = sorted(_HOME_OF)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'dgr_trainer.runs' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dgr_trainer.runs.{_HOME_OF[name]}"), name)
