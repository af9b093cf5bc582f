"""With LlamaIndex itself."""

import asyncio

import pytest

pytest.importorskip("llama_index.core", reason="needs llama-index-core")

from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import MetadataMode

from dgr_trainer.integrations import llama_index_retriever

QUERIES = ["who discovered penicillin", "why is the sky blue", "sea"]


def found(nodes):
    return [(node.node.node_id, node.score) for node in nodes]


def test_nodes_are_the_hits_with_their_text(retriever, bare, corpus):
    adapter = llama_index_retriever(retriever, k=3)
    assert isinstance(adapter, BaseRetriever)
    nodes = adapter.retrieve(QUERIES[0])
    hits = retriever.search(QUERIES[0], k=3)[0]
    assert found(nodes) == [(hit.passage_id, hit.score) for hit in hits]
    for node, hit in zip(nodes, hits, strict=True):
        passage = corpus.get(hit.passage_id)
        shown = node.node.get_content(metadata_mode=MetadataMode.LLM)
        assert node.node.get_content() == passage.text and passage.text in shown and passage.title in shown
        assert "identifiers" not in shown
        assert [of["view"] for of in node.node.metadata["identifiers"]] == [of.view for of in hit.identifiers]
    assert found(llama_index_retriever(bare, k=3, corpus=corpus).retrieve(QUERIES[0])) == found(nodes)
    with pytest.raises(ValueError, match="has no corpus, but a node of LlamaIndex has the text"):
        llama_index_retriever(bare)


def test_all_ways_to_ask_give_the_same(retriever):
    adapter = llama_index_retriever(retriever, k=2)
    one_by_one = [found(adapter.retrieve(query)) for query in QUERIES]

    async def together():
        return await asyncio.gather(*(adapter.aretrieve(query) for query in QUERIES))

    assert [found(nodes) for nodes in asyncio.run(together())] == one_by_one
    answer = RetrieverQueryEngine.from_args(adapter, llm=MockLLM()).query(QUERIES[0])
    assert found(answer.source_nodes) == one_by_one[0]
