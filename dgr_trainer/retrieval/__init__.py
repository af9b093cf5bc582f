"""Retrieval: constrained decoding, weights of identifiers, scores of passages."""

import importlib
from typing import Any

_HOME_OF = {
    "DistributedIndex": "distributed_index",
    "GenerativeRetriever": "retriever",
    "Hit": "hits",
    "IndexConstraint": "constraint",
    "SearchSettings": "settings",
}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'dgr_trainer.retrieval' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dgr_trainer.retrieval.{_HOME_OF[name]}"), name)
