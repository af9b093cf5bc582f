"""A LlamaIndex retriever."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import TYPE_CHECKING, Any

from dgr_trainer.integrations.passages import check_retriever, hit_facts, needed_corpus, needed_package
from dgr_trainer.retrieval.retriever import GenerativeRetriever

if TYPE_CHECKING:
    from dgr_trainer.data.corpus import Corpus


def llama_index_retriever(retriever: GenerativeRetriever, *, k: int = 5, corpus: Corpus | None = None) -> Any:
    """Make a LlamaIndex retriever, for query engines; `retrieve` and `aretrieve` work.

    Args:
        retriever ([`GenerativeRetriever`]): The retriever. Several threads may use it at a time.
        k (`int`, *optional*, defaults to 5): Passages for a query.
        corpus ([`Corpus`], *optional*): The passages; by default the retriever's corpus.

    Returns:
        `llama_index.core.retrievers.BaseRetriever`: the retriever. Its nodes have the text of the passage and its
        score, and in `metadata` the title, which a language model is shown, and the identifiers by which the passage
        was found, which it is not.

    Raises:
        TypeError, ValueError: if this is no retriever, `k` is below 1, or there is no corpus.
        MissingPackageError: if llama-index-core is not installed.
    """
    check_retriever(retriever, k)
    made = _retriever_class()
    return made(retriever, needed_corpus(retriever, corpus, "a node of LlamaIndex"), k)


@cache
def _retriever_class() -> Any:
    what = "llama_index_retriever"
    retrievers = needed_package("llama_index.core.retrievers", "llama-index-core", what)
    schema = needed_package("llama_index.core.schema", "llama-index-core", what)

    class DGRRetriever(retrievers.BaseRetriever):  # type: ignore[misc,name-defined]
        """Finds passages by letting a model generate their identifiers."""

        def __init__(self, retriever: GenerativeRetriever, passages: Corpus, k: int) -> None:
            super().__init__()
            self.retriever, self.passages, self.k = retriever, passages, k

        def _retrieve(self, query_bundle: Any) -> list[Any]:
            found = []
            for hit in self.retriever.search(query_bundle.query_str, k=self.k)[0]:
                passage = self.passages.get(hit.passage_id)
                node = schema.TextNode(
                    id_=hit.passage_id,
                    text=passage.text,
                    metadata={"title": passage.title, **hit_facts(self.retriever, hit)},
                    excluded_llm_metadata_keys=["passage_id", "score", "identifiers"],
                    excluded_embed_metadata_keys=["passage_id", "score", "identifiers"],
                )
                found.append(schema.NodeWithScore(node=node, score=hit.score))
            return found

        async def _aretrieve(self, query_bundle: Any) -> list[Any]:
            return await asyncio.to_thread(self._retrieve, query_bundle)

    return DGRRetriever
