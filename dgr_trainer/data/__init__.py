"""Corpora, queries, qrels and pseudo-queries: read from files, folders and data set libraries, and checked.

The names in `__all__` are public and are imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

_HOME_OF = {
    "Corpus": "corpus",
    "Passage": "passages",
    "PseudoQueries": "pseudo_queries",
    "Qrels": "queries",
    "check_qrels": "queries",
    "qrels_from_dataset": "queries",
    "queries_from_dataset": "queries",
    "read_pseudo_queries": "pseudo_queries",
    "read_qrels": "queries",
    "read_queries": "queries",
    "split_queries": "query_splits",
    "write_qrels": "queries",
}

if TYPE_CHECKING:  # The same names for type checkers and editors; a test compares the two.
    from dgr_trainer.data.corpus import Corpus as Corpus
    from dgr_trainer.data.passages import Passage as Passage
    from dgr_trainer.data.pseudo_queries import PseudoQueries as PseudoQueries
    from dgr_trainer.data.pseudo_queries import read_pseudo_queries as read_pseudo_queries
    from dgr_trainer.data.queries import Qrels as Qrels
    from dgr_trainer.data.queries import check_qrels as check_qrels
    from dgr_trainer.data.queries import qrels_from_dataset as qrels_from_dataset
    from dgr_trainer.data.queries import queries_from_dataset as queries_from_dataset
    from dgr_trainer.data.queries import read_qrels as read_qrels
    from dgr_trainer.data.queries import read_queries as read_queries
    from dgr_trainer.data.queries import write_qrels as write_qrels
    from dgr_trainer.data.query_splits import split_queries as split_queries

__all__ = sorted(_HOME_OF)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'dgr_trainer.data' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dgr_trainer.data.{_HOME_OF[name]}"), name)
