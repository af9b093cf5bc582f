import pytest
from sample_corpus import QRELS, QUERIES
from tiny_models import make_bart

from dgr_trainer import FMIndex, GenerativeRetriever, Identifiers, SearchSettings


@pytest.fixture(scope="session")
def retriever(bpe_tokenizer, corpus):
    identifiers = Identifiers(bpe_tokenizer)
    index = FMIndex.from_corpus(corpus, identifiers)
    settings = SearchSettings(beam_size=3)
    return GenerativeRetriever(make_bart(bpe_tokenizer), identifiers, index, corpus=corpus, settings=settings)


@pytest.fixture(scope="session")
def bare(retriever):
    """Without a corpus."""
    return GenerativeRetriever(retriever.model, retriever.identifiers, retriever.index, settings=retriever.settings)


@pytest.fixture(scope="session")
def judged():
    return {query: {id: int(grade) for id, grade in QRELS[query].items()} for query in list(QUERIES)[:4]}
