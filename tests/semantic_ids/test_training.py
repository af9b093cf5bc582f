"""Semantic ids from the collator to a saved retriever, trained in full and with LoRA."""

import copy
import logging

import numpy as np
import peft
import pytest
import torch
from sample_corpus import PASSAGES, QRELS
from tiny_models import bpe_tokenizer, make_bart, make_causal, make_t5, unigram_tokenizer
from training_examples import make_rankings, make_trainer, query_dataset

from dgr_trainer import (
    Corpus,
    DistillationCollator,
    FMIndex,
    GenerativeRetriever,
    Identifiers,
    IdentifierSettings,
    ScoringSettings,
    SearchSettings,
    SemanticIds,
)
from dgr_trainer.errors import DGRValueError
from dgr_trainer.student.likelihoods import score_identifiers

NAMES = [passage.id for passage in PASSAGES]
VECTORS = np.random.default_rng(0).standard_normal((len(NAMES), 8)).astype(np.float32)
STUDENTS = {
    "bart": (make_bart, bpe_tokenizer, ["q_proj", "v_proj"]),
    "t5": (make_t5, unigram_tokenizer, ["q", "v"]),
    "qwen3": (make_causal, bpe_tokenizer, ["q_proj", "v_proj"]),
}


def make_ids(**chosen):
    return SemanticIds.fit(VECTORS, NAMES, **{"levels": 2, "size": 4, "progress": False, **chosen})


@pytest.mark.parametrize(
    ("name", "lora", "kind"),
    [
        ("t5", True, "residual"),
        pytest.param("t5", False, "hierarchical", marks=pytest.mark.slow),
        pytest.param("bart", True, "atomic", marks=pytest.mark.slow),
        pytest.param("bart", False, "residual", marks=pytest.mark.slow),
        pytest.param("qwen3", True, "hierarchical", marks=pytest.mark.slow),
        pytest.param("qwen3", False, "residual", marks=pytest.mark.slow),
    ],
)
def test_from_the_collator_to_a_saved_retriever(name, lora, kind, tmp_path, caplog):
    make, load_tokenizer, targets = STUDENTS[name]
    ids, tokenizer = make_ids(kind=kind), copy.deepcopy(load_tokenizer())
    model = make(tokenizer)
    with pytest.raises(DGRValueError, match="lacks .* tokens of the semantic ids"):
        DistillationCollator(tokenizer, ids, make_rankings())
    ids.add_to(tokenizer, model)
    model.save_pretrained(tmp_path / "base")
    model.name_or_path = str(tmp_path / "base")
    if lora:
        settings = ids.lora_settings(tokenizer, model)
        model = peft.get_peft_model(model, peft.LoraConfig(target_modules=targets, **settings))
    collator = DistillationCollator(tokenizer, ids, make_rankings(), QRELS)
    tokens = [token for segment in collator([*query_dataset()][:2])["labels"] for token in segment.tolist()]
    known = {*tokenizer.convert_tokens_to_ids(ids.tokens), tokenizer.eos_token_id, -100}
    assert set(tokens) <= known

    corpus = ids.with_docids(Corpus.from_passages(PASSAGES))
    identifiers = Identifiers(tokenizer, IdentifierSettings(views=("docid",)))
    retriever = GenerativeRetriever(
        model,
        identifiers,
        FMIndex.from_corpus(corpus, identifiers),
        corpus=corpus,
        scoring=ScoringSettings(kind="log_likelihood"),
        settings=SearchSettings(beam_size=len(NAMES)),
        semantic_ids=ids,
    )
    with caplog.at_level(logging.WARNING):
        trainer = make_trainer(tmp_path / "out", tokenizer, model=model, collator=collator, prefix_ranking=True)
        trainer.train()
    assert "were added to the tokenizer" not in caplog.text
    losses = [log["loss_ranking"] for log in trainer.state.log_history if "loss_ranking" in log]
    assert len(losses) == 3 and all(np.isfinite(losses))

    retriever.save_pretrained(tmp_path / "retriever")
    loaded = GenerativeRetriever.from_pretrained(tmp_path / "retriever")
    assert loaded.semantic_ids.docids() == ids.docids()
    query = next(iter(query_dataset()))["query"]
    (hits,), (again,) = retriever.search(query, k=5), loaded.search(query, k=5)
    assert len(hits) == 5 and [hit.passage_id for hit in hits] == [hit.passage_id for hit in again]
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in again], abs=1e-4)
    # Each passage by its own docid, with the likelihood that the student gives it.
    for hit in hits:
        (identifier,) = hit.identifiers
        assert tokenizer.convert_ids_to_tokens(identifier.ids[:-1]) == ids.docid_tokens(hit.passage_id)
        prompt = identifiers.encode_prompts([query], "docid")
        ((score,),) = score_identifiers(model, prompt, [[identifier.ids]])
        assert hit.score == pytest.approx(score, abs=1e-4)
    # Further passages get docids from the loaded retriever.
    assert list(loaded.semantic_ids.add(VECTORS[:1], ["new"])) == ["new"]


def test_lora_that_leaves_the_codes_untrained_is_told(tmp_path, caplog):
    ids, tokenizer = make_ids(), copy.deepcopy(bpe_tokenizer())
    model = make_bart(tokenizer)
    ids.add_to(tokenizer, model)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))
    with caplog.at_level(logging.WARNING):
        make_trainer(
            tmp_path, tokenizer, model=adapted, collator=DistillationCollator(tokenizer, ids, make_rankings())
        )
    assert "12 tokens were added to the tokenizer, such as '<c1_0>'" in caplog.text
    assert "trainable_token_indices" in caplog.text


def test_a_retriever_needs_the_tokens(tmp_path):
    tokenizer = bpe_tokenizer()
    identifiers = Identifiers(tokenizer, IdentifierSettings(views=("docid",)))
    index = FMIndex.from_corpus(Corpus.from_passages(PASSAGES), identifiers)
    with pytest.raises(DGRValueError, match="lacks 12 of 12 tokens of the semantic ids"):
        GenerativeRetriever(make_bart(tokenizer), identifiers, index, semantic_ids=make_ids())


def test_items_can_be_the_query(tmp_path):
    """A query of docids keeps their tokens, so that a sequence of items can ask for the next one."""
    ids, tokenizer = make_ids(), copy.deepcopy(unigram_tokenizer())
    ids.add_to(tokenizer)
    identifiers = Identifiers(tokenizer, IdentifierSettings(views=("docid",), prompts={"docid": "{query}"}))
    (prompt,) = identifiers.encode_prompts([ids["p01"] + ids["p02"]], "docid")
    assert tokenizer.convert_ids_to_tokens(prompt[:-1]) == ids.docid_tokens("p01") + ids.docid_tokens("p02")
    assert prompt[-1] == tokenizer.eos_token_id
    assert torch.tensor(prompt).max() < len(tokenizer)
