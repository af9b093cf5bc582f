"""The score that training teaches is the score that a search ranks by."""

import pytest
import torch
from tiny_models import make_bart, make_t5

from dgr_trainer import (
    DistillationCollator,
    FMIndex,
    GenerativeRetriever,
    Identifiers,
    ScoringSettings,
    SearchSettings,
)
from dgr_trainer.student.token_scores import sum_by_identifier
from dgr_trainer.training.batches import score_batch
from dgr_trainer.training.objective import passage_scores

SCORING = {
    "as published": ScoringSettings(smoothing=0.1, identifiers_per_passage=10_000),
    "other weights": ScoringSettings(
        smoothing=0.1, exponent=1.5, repetition=0.3, query_weight=2.5, identifiers_per_passage=10_000
    ),
    "no words of the query": ScoringSettings(smoothing=0.1, query_weight=0.0, identifiers_per_passage=10_000),
}


@pytest.mark.parametrize("make_student", [make_bart, make_t5])
@pytest.mark.parametrize("name", SCORING)
def test_training_and_search_score_alike(name, make_student, bpe_tokenizer, corpus, queries, qrels):
    identifiers, scoring = Identifiers(bpe_tokenizer), SCORING[name]
    index = FMIndex.from_corpus(corpus, identifiers, progress=False)
    settings = SearchSettings(beam_size=3, pseudo_query_length=12, unigrams=60)
    student = make_student(bpe_tokenizer).eval()
    retriever = GenerativeRetriever(student, identifiers, index, settings=settings, scoring=scoring)
    asked = queries.select(range(4))
    candidates = retriever.candidates(asked, 5, qrels)
    origins = {identifier.origin for found in candidates.values() for one in found for identifier in one.identifiers}
    assert origins == {"generated", "unigram"} | ({"query"} if scoring.query_weight else set())
    collator = DistillationCollator(
        identifiers, candidates, candidates.to_rankings(), list_length=5, sampling="top", relevant_first=False,
        scoring=scoring,
    )  # fmt: skip
    for row in asked:
        batch = collator([row])
        with torch.no_grad():
            tokens = score_batch(student, batch)
        shape = batch["identifier_counts"].shape[1]
        likelihoods = sum_by_identifier(tokens.log_probabilities, batch["segments"], shape)
        scores = passage_scores(likelihoods, batch, collator.corpus_tokens, scoring)
        # The lists have the search's order, whose scores are those of the "teacher".
        torch.testing.assert_close(scores, batch["teacher_scores"], rtol=1e-3, atol=1e-2)
