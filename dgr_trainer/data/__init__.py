"""Corpora, queries, qrels and pseudo-queries: read from files, folders and data set libraries, and checked.

The names in `__all__` are public and are imported on first use.
"""

import importlib
from typing import Any

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
    "write_qrels": "queries",
}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'dgr_trainer.data' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dgr_trainer.data.{_HOME_OF[name]}"), name)
