"""What the adapters share: the passages of hits, and a package that may be missing."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dgr_trainer.errors import DGRTypeError, DGRValueError, MissingPackageError
from dgr_trainer.retrieval.hits import identifier_records
from dgr_trainer.retrieval.retriever import GenerativeRetriever

if TYPE_CHECKING:
    from dgr_trainer.data.corpus import Corpus
    from dgr_trainer.retrieval.hits import Hit


def needed_package(module: str, package: str, what: str) -> Any:
    """Import a module of another package.

    Raises:
        MissingPackageError: if it is not installed; the message has the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if (error.name or "").split(".")[0] != module.split(".")[0]:
            raise
        raise MissingPackageError(f"{what} needs {package}: pip install {package}.", name=error.name) from error


def check_retriever(retriever: Any, k: int) -> None:
    """Raise an error if this is no retriever, or `k` is below 1."""
    if not isinstance(retriever, GenerativeRetriever):
        raise DGRTypeError(f"retriever is a {type(retriever).__name__}. Give a GenerativeRetriever.")
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise DGRValueError(f"k is {k!r}, but it has to be an integer of 1 or more.")


def needed_corpus(retriever: GenerativeRetriever, corpus: Corpus | None, what: str) -> Corpus:
    """The corpus that was given, or the retriever's own. Raises a `ValueError` if there is none."""
    found = retriever.corpus if corpus is None else corpus
    if found is None:
        raise DGRValueError(
            f"The retriever has no corpus, but {what} has the text of each passage. Give corpus=Corpus.read(...)."
        )
    return found


def hit_facts(retriever: GenerativeRetriever, hit: Hit) -> dict[str, Any]:
    """The id, the score and the identifiers of a hit, as strings and numbers for JSON."""
    return {
        "passage_id": hit.passage_id,
        "score": hit.score,
        "identifiers": identifier_records(hit.identifiers, retriever.identifier_text),
    }
