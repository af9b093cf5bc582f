"""Retrievers for other libraries: LangChain, LlamaIndex, PyTerrier and mteb.

Each is a function that takes a [`GenerativeRetriever`] and returns what that library calls a retriever. Its package is
imported when the function is called.
"""

import importlib
from typing import TYPE_CHECKING, Any

_HOME_OF = {
    "langchain_retriever": "langchain",
    "llama_index_retriever": "llama_index",
    "mteb_model": "mteb",
    "pyterrier_transformer": "pyterrier",
}

if TYPE_CHECKING:  # The same names for type checkers and editors; a test compares the two.
    from dgr_trainer.integrations.langchain import langchain_retriever as langchain_retriever
    from dgr_trainer.integrations.llama_index import llama_index_retriever as llama_index_retriever
    from dgr_trainer.integrations.mteb import mteb_model as mteb_model
    from dgr_trainer.integrations.pyterrier import pyterrier_transformer as pyterrier_transformer

__all__ = sorted(_HOME_OF)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'dgr_trainer.integrations' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dgr_trainer.integrations.{_HOME_OF[name]}"), name)
