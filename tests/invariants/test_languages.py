"""The whole way in languages with and without spaces: pairs, generation training, index, search."""

import pytest
import torch
from languages import LANGUAGES, passages_in, tokenizer_for
from tiny_models import make_bart

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.identifier_weights import ScoringSettings
from dgr_trainer.identifiers import Identifiers, IdentifierSettings
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval import GenerativeRetriever, SearchSettings
from dgr_trainer.training.pairs import generation_pairs


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["byte_bpe", "unigram"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_student_learns_to_find_passages(language, kind):
    """Substrings alone: what the student learned to generate is what the search generates."""
    torch.manual_seed(0)
    tokenizer = tokenizer_for(language, kind)
    identifiers = Identifiers(tokenizer, IdentifierSettings(views=("substring",)))
    corpus = Corpus.from_passages(passages_in(language))
    index = FMIndex.from_corpus(corpus, identifiers, progress=False)
    queries = {passage.id: passage.title for passage in corpus}
    qrels = {passage.id: {passage.id: 1} for passage in corpus}
    pairs = generation_pairs(corpus, identifiers, queries, qrels, samples_per_passage=0, progress=False)
    model = make_bart(tokenizer, dropout=0.0).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    pad, generator = tokenizer.pad_token_id, torch.Generator().manual_seed(0)
    for _ in range(150):
        rows = [pairs[number] for number in torch.randint(len(pairs), (24,), generator=generator).tolist()]
        inputs, labels = (
            torch.nn.utils.rnn.pad_sequence([torch.tensor(row[name]) for row in rows], True, filler)
            for name, filler in (("input_ids", pad), ("labels", -100))
        )
        loss = model(input_ids=inputs, attention_mask=(inputs != pad).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    retriever = GenerativeRetriever(
        model.eval(), identifiers, index, settings=SearchSettings(beam_size=5), scoring=ScoringSettings(smoothing=0.1)
    )
    hits = retriever.search(list(queries.values()), k=1)
    found = sum(bool(one) and one[0].passage_id == id for id, one in zip(queries, hits, strict=True))
    assert found >= 8
