"""A tiny retriever, and a server around it."""

import pytest
from serving.running_server import EVIL, listening
from tiny_models import bpe_tokenizer, make_bart

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval import GenerativeRetriever, SearchSettings


@pytest.fixture(scope="session")
def served_corpus(passages):
    return Corpus.from_passages([*passages[:15], EVIL])


@pytest.fixture(scope="session")
def retriever(served_corpus):
    identifiers = Identifiers(bpe_tokenizer())
    return GenerativeRetriever(
        make_bart(bpe_tokenizer()),
        identifiers,
        FMIndex.from_corpus(served_corpus, identifiers, progress=False),
        corpus=served_corpus,
        settings=SearchSettings(beam_size=6, substring_length=4, title_length=6, pseudo_query_length=6, batch_size=8),
    )


@pytest.fixture(scope="session")
def address(retriever):
    """A server with one retriever."""
    from dgr_trainer.serving.systems import RetrieverSystem

    with listening({"tiny": RetrieverSystem(retriever)}, max_queries=4, max_query_length=100, max_k=20) as url:
        yield url


@pytest.fixture
def client(address):
    import httpx

    with httpx.Client(base_url=address, timeout=60) as made:
        yield made
