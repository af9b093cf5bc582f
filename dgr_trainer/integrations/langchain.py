"""A LangChain retriever."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from dgr_trainer.integrations.passages import check_retriever, hit_facts, needed_corpus, needed_package
from dgr_trainer.retrieval.retriever import GenerativeRetriever

if TYPE_CHECKING:
    from dgr_trainer.data.corpus import Corpus


def langchain_retriever(retriever: GenerativeRetriever, *, k: int = 5, corpus: Corpus | None = None) -> Any:
    """Make a LangChain retriever, for chains and tools; `invoke`, `ainvoke`, `batch` and `abatch` work.

    Args:
        retriever ([`GenerativeRetriever`]): The retriever. Several threads may use it at a time.
        k (`int`, *optional*, defaults to 5): Passages for a query.
        corpus ([`Corpus`], *optional*): The passages; by default the retriever's corpus.

    Returns:
        `langchain_core.retrievers.BaseRetriever`: the retriever. Its documents have the text of the passage, and in
        `metadata` the title, the score and the identifiers by which the passage was found.

    Raises:
        TypeError, ValueError: if this is no retriever, `k` is below 1, or there is no corpus.
        MissingPackageError: if langchain-core is not installed.
    """
    check_retriever(retriever, k)
    made = _retriever_class()
    passages = needed_corpus(retriever, corpus, "a document of LangChain")
    return made(retriever=retriever, passages=passages, k=k)


@cache
def _retriever_class() -> Any:
    what = "langchain_retriever"
    documents = needed_package("langchain_core.documents", "langchain-core", what)
    retrievers = needed_package("langchain_core.retrievers", "langchain-core", what)

    class DGRRetriever(retrievers.BaseRetriever):  # type: ignore[misc,name-defined]
        """Finds passages by letting a model generate their identifiers."""

        retriever: Any
        passages: Any
        k: int = 5

        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Any]:
            found = []
            for hit in self.retriever.search(query, k=self.k)[0]:
                passage = self.passages.get(hit.passage_id)
                metadata = {"title": passage.title, **hit_facts(self.retriever, hit)}
                found.append(documents.Document(page_content=passage.text, id=hit.passage_id, metadata=metadata))
            return found

    return DGRRetriever
