"""With LangChain itself."""

import asyncio

import pytest

pytest.importorskip("langchain_core", reason="needs langchain-core")

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda

from dgr_trainer.integrations import langchain_retriever

QUERIES = ["who discovered penicillin", "why is the sky blue", "sea"]


def found(documents):
    return [(document.id, document.metadata["score"]) for document in documents]


def test_documents_are_the_hits_with_their_text(retriever, bare, corpus):
    adapter = langchain_retriever(retriever, k=3)
    assert isinstance(adapter, BaseRetriever)
    documents = adapter.invoke(QUERIES[0])
    hits = retriever.search(QUERIES[0], k=3)[0]
    assert all(isinstance(document, Document) for document in documents)
    assert found(documents) == [(hit.passage_id, hit.score) for hit in hits]
    for document, hit in zip(documents, hits, strict=True):
        passage = corpus.get(hit.passage_id)
        assert (document.page_content, document.metadata["title"]) == (passage.text, passage.title)
        texts = [identifier["text"] for identifier in document.metadata["identifiers"]]
        assert texts == [retriever.identifier_text(identifier) for identifier in hit.identifiers]
        assert sum(of["score"] for of in document.metadata["identifiers"]) == pytest.approx(hit.score)
    assert found(langchain_retriever(bare, k=3, corpus=corpus).invoke(QUERIES[0])) == found(documents)
    with pytest.raises(ValueError, match="has no corpus, but a document of LangChain has the text"):
        langchain_retriever(bare)


def test_all_ways_to_ask_give_the_same(retriever):
    adapter = langchain_retriever(retriever, k=2)
    one_by_one = [found(adapter.invoke(query)) for query in QUERIES]
    assert [found(documents) for documents in adapter.batch(QUERIES)] == one_by_one

    async def together():
        return await asyncio.gather(*(adapter.ainvoke(query) for query in QUERIES))

    assert [found(documents) for documents in asyncio.run(together())] == one_by_one
    chain = adapter | RunnableLambda(lambda documents: documents[0].page_content)
    assert chain.invoke(QUERIES[0]) == adapter.invoke(QUERIES[0])[0].page_content
