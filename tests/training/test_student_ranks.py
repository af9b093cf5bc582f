"""The student's ranks of relevant passages for training queries, compared with those of other queries."""

import logging

import datasets
import pytest
from sample_corpus import QRELS, QUERIES
from training_examples import make_collator, make_rankings, make_trainer

from dgr_trainer.candidates import Candidate, Candidates, MatchedIdentifier
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.training import student_ranks
from dgr_trainer.training.collator import DistillationCollator
from dgr_trainer.training.student_ranks import ShareFound, compare, compare_with_metrics, share_found


def collator_of(tokenizer, places, qrels):
    """Candidates in which the relevant passage of each query, "r", is at a place, from 1."""
    identifiers = Identifiers(tokenizer)
    matched = (MatchedIdentifier("substring", tuple(identifiers.encode("river")), 1, 1.0),)
    lists = {}
    for query_id, place in places.items():
        ids = [f"o{n}" for n in range(6)]
        ids.insert(place - 1, "r")
        lists[query_id] = [Candidate(id, 9.0 - n, matched) for n, id in enumerate(ids)]
    candidates = Candidates.from_lists(lists, corpus_tokens=100, tokenizer_fingerprint=identifiers.fingerprint)
    return DistillationCollator(identifiers, candidates, None, qrels)


def test_shares_by_counting(bpe_tokenizer, monkeypatch):
    places = {f"q{n}": n % 5 + 1 for n in range(20)}
    qrels = {query_id: {"r": 1, "o5": 0} for query_id in places} | {"q0": {"r": 0}, "elsewhere": {"r": 1}}
    collator = collator_of(bpe_tokenizer, places, qrels)
    ids = [*places, "elsewhere", "unjudged"]
    for k in (1, 2, 4):
        judged = [query_id for query_id in places if query_id != "q0"]
        expected = sum(places[query_id] <= k for query_id in judged) / len(judged)
        assert share_found(collator, ids, k) == (pytest.approx(expected), 19)
    assert share_found(collator, ["unjudged"], 1) is None
    with monkeypatch.context() as fewer:
        fewer.setattr(student_ranks, "_SAMPLED", 10)
        assert share_found(collator, ids, 5) == (1.0, 10)
    assert share_found(make_collator(bpe_tokenizer, "strings"), list(QUERIES), 1) is None


@pytest.mark.parametrize(
    ("training", "others", "warns"),
    [
        (ShareFound(0.85, 3000), ShareFound(0.248, 500), True),
        (ShareFound(0.246, 3000), ShareFound(0.248, 500), False),
        (ShareFound(0.2, 3000), ShareFound(0.9, 500), False),
        (ShareFound(0.45, 3000), ShareFound(0.27, 500), False),  # Small.
        (ShareFound(0.8, 6), ShareFound(0.5, 5), False),  # By chance.
        (ShareFound(1.0, 50), ShareFound(1.0, 50), False),
    ],
)
def test_what_is_worlds_apart(training, others, warns, caplog):
    with caplog.at_level(logging.INFO):
        compare(training, others, 1, "the queries of the evaluator")
    (record,) = caplog.records
    assert (record.levelno == logging.WARNING) == warns
    assert f"{training.share:.1%} of the training queries, and for {others.share:.1%} of" in record.getMessage()
    assert ("leave_out_own_text=True" in record.getMessage()) == warns


def test_the_least_cut_of_the_metrics_is_compared(bpe_tokenizer, caplog):
    places = {f"q{n}": 2 for n in range(60)}
    collator = collator_of(bpe_tokenizer, places, {query_id: {"r": 1} for query_id in places})
    assert compare_with_metrics(collator, list(places), {"eval_hits@5": 0.1, "eval_hits@20": 1.0, "x": 3.0}, 60)
    assert "among its first 5 for 100.0% of the training queries, and for 10.0%" in caplog.text
    assert not compare_with_metrics(collator, list(places), {"eval_mrr@10": 0.1}, 60)
    assert not compare_with_metrics(collator, ["other"], {"eval_hits@5": 0.1}, None)


def trained(tmp_path, tokenizer, caplog, evaluate=False, **settings):
    """Warnings of a trainer of which the training queries are found at once, and the others are not."""
    names = [f"t{n}" for n in range(40)] + [f"d{n}" for n in range(40)]
    places = {name: 1 if name[0] == "t" else 5 for name in names}
    collator = collator_of(tokenizer, places, {name: {"r": 1} for name in names})

    def rows(letter):
        ids = [name for name in names if name[0] == letter]
        return datasets.Dataset.from_dict({"query_id": ids, "query": ["a river"] * len(ids)})

    trainer = make_trainer(
        tmp_path, tokenizer, collator=collator, train_dataset=rows("t"), ranking_weight=0.0, max_steps=1,
        trainer_settings=settings.pop("trainer_settings", {}) | ({"eval_dataset": rows("d")} if evaluate else {}),
        **settings,
    )  # fmt: skip
    caplog.clear()
    trainer.train()
    return [message for message in caplog.messages if "of the training queries, and for" in message]


def test_the_trainer_compares_with_its_eval_dataset_before_it_starts(bpe_tokenizer, tmp_path, caplog):
    (told,) = trained(tmp_path, bpe_tokenizer, caplog, evaluate=True)
    assert "for 100.0% of the training queries, and for 0.0% of the queries of eval_dataset" in told


def test_the_trainer_compares_with_the_first_metrics(bpe_tokenizer, tmp_path, caplog):
    def evaluator(model, accelerator):
        return {"hits@1": 0.1}

    evaluator.queries = dict.fromkeys(map(str, range(200)), "a")
    told = trained(
        tmp_path, bpe_tokenizer, caplog, eval_strategy="steps", eval_steps=1, eval_on_start=True,
        trainer_settings={"retrieval_evaluator": evaluator},
    )  # fmt: skip
    assert (
        len(told) == 1 and "100.0% of the training queries, and for 10.0% of the queries of the evaluator" in told[0]
    )


def test_nothing_is_said_without_candidates_or_of_one_world(bpe_tokenizer, tmp_path, caplog):
    trainer = make_trainer(
        tmp_path, bpe_tokenizer, max_steps=1, eval_strategy="steps",
        collator=make_collator(bpe_tokenizer, qrels=QRELS, rankings=make_rankings()),
        trainer_settings={"retrieval_evaluator": lambda model, accelerator: {"hits@1": 0.9}},
    )  # fmt: skip
    trainer.train()
    assert "of the training queries, and for" not in caplog.text
