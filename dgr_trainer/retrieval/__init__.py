"""Retrieval: constrained decoding, weights of identifiers, scores of passages."""

import importlib
from typing import TYPE_CHECKING, Any

_HOME_OF = {
    "GenerativeRetriever": "retriever",
    "Hit": "hits",
    "Hits": "hit_lists",
    "SearchResults": "hit_lists",
    "IndexConstraint": "constraint",
    "SearchSettings": "settings",
    "read_settings": "settings",
}

if TYPE_CHECKING:  # The same names for type checkers and editors; a test compares the two.
    from dgr_trainer.retrieval.constraint import IndexConstraint as IndexConstraint
    from dgr_trainer.retrieval.hit_lists import Hits as Hits
    from dgr_trainer.retrieval.hit_lists import SearchResults as SearchResults
    from dgr_trainer.retrieval.hits import Hit as Hit
    from dgr_trainer.retrieval.retriever import GenerativeRetriever as GenerativeRetriever
    from dgr_trainer.retrieval.settings import SearchSettings as SearchSettings
    from dgr_trainer.retrieval.settings import read_settings as read_settings

__all__ = sorted(_HOME_OF)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'dgr_trainer.retrieval' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dgr_trainer.retrieval.{_HOME_OF[name]}"), name)
