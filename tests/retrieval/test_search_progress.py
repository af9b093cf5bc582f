"""The bar of a search says what it does inside a batch of queries."""

from tiny_models import make_bart
from tqdm import tqdm

from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval import GenerativeRetriever, SearchSettings


def test_a_batch_shows_its_tokens_and_queries(bpe_tokenizer, corpus, monkeypatch):
    said, counted = [], []

    class Recorded(tqdm):
        def set_postfix_str(self, s="", refresh=True):
            said.append(s)
            super().set_postfix_str(s, refresh)

        def update(self, n=1):
            counted.append(n)
            return super().update(n)

    monkeypatch.setattr("dgr_trainer.retrieval.search_engine.tqdm", Recorded)
    identifiers = Identifiers(bpe_tokenizer)
    index = FMIndex.from_corpus(corpus, identifiers, progress=False)
    settings = SearchSettings(beam_size=2, batch_size=2)
    GenerativeRetriever(make_bart(bpe_tokenizer), identifiers, index, settings=settings).search(["sea", "ice", "war"])
    assert sum(counted) == 3
    assert said.index("generating identifiers, token 1") < said.index("generating identifiers, token 2")
    assert "scoring passages, query 2 of 2" in said and "scoring passages, query 1 of 1" in said
