"""Runs and qrels that come as mappings are what the same ones in files are, wherever they go in."""

import numpy as np
import pytest
from transformers import EvalPrediction

from dgr_trainer import (
    Corpus,
    FMIndex,
    Passage,
    Rankings,
    RetrievalEvaluator,
    answer_qrels,
    compare_runs,
    evaluate_run,
    rank_list_statistics,
)
from dgr_trainer.data.queries import read_qrels
from dgr_trainer.evaluation.agreement import agreement
from dgr_trainer.evaluation.generated import GeneratedIdentifierMetrics
from dgr_trainer.evaluation.significance import confidence_interval, paired_test
from dgr_trainer.runs import read_run, reciprocal_rank_fusion, score_fusion
from dgr_trainer.training.pairs import generation_pairs
from dgr_trainer.training.sampling import ListSampler

RUN = {1: {10: 3.0, 11: 2.0, 12: 1.0}, 2: {11: 2.0, 10: 1.0}}
OTHER = {1: {12: 3.0, 10: 2.5}, 2: {10: 2.0, 12: 1.0}}
QRELS = {1: {10: 1.0, 12: 0}, 2: {np.int64(10): np.float32(2.0)}}
METRICS = ["hits@1", "mrr", "ndcg@10", "recall@2"]


@pytest.fixture
def in_files(tmp_path):
    """The same runs and qrels, written as text by hand and read."""
    runs = []
    for name, run in (("a", RUN), ("b", OTHER)):
        lines = [f"{q} Q0 {p} 0 {score} t\n" for q, of in run.items() for p, score in of.items()]
        (tmp_path / f"{name}.trec").write_text("".join(lines))
        runs.append(read_run(tmp_path / f"{name}.trec"))
    (tmp_path / "a.qrels").write_text("".join(f"{q} 0 {p} {g}\n" for q, of in QRELS.items() for p, g in of.items()))
    return (*runs, read_qrels(tmp_path / "a.qrels"))


def test_every_function_gives_the_same(in_files):
    run, other, qrels = in_files
    assert evaluate_run(RUN, QRELS, METRICS) == evaluate_run(run, qrels, METRICS)
    tables = [compare_runs({"a": a, "b": b}, q, METRICS, baseline="a") for a, b, q in ((RUN, OTHER, QRELS), in_files)]
    assert tables[0] == tables[1] and tables[0].queries == 2
    assert agreement({"a": RUN, "b": OTHER}) == agreement({"a": run, "b": other})
    assert rank_list_statistics(RUN, QRELS, [1, 2]) == rank_list_statistics(run, qrels, ["1", "2"])
    for fuse in (reciprocal_rank_fusion, score_fusion):
        assert fuse([RUN, other]).to_run() == fuse([run, other]).to_run()


def test_answers_by_query_id():
    corpus = Corpus.from_passages([Passage(10, "", "Amundsen came first"), Passage(11, "", "Scott did not")])
    expected = {"1": {"10": 1}, "2": {"11": 1}}
    run = {1: {10: 2.0, 11: 1.0}, 2: {11: 2.0, 10: 1.0}}
    assert answer_qrels({1: ["Amundsen"], "2": ["Scott"]}, corpus, run, progress=False) == expected
    assert answer_qrels({1: ["Amundsen"], "2": ["Scott"]}, corpus, [Rankings(run)], progress=False) == expected
    with pytest.raises(ValueError, match="Two questions have the id '1'"):
        answer_qrels({1: ["a"], "1": ["b"]}, corpus, run)
    with pytest.raises(TypeError, match="question 0: the query id is None"):
        answer_qrels({None: ["a"]}, corpus, run)


def test_values_by_query_id():
    first, second = {1: 0.5, 2: 1.0, 3: 0.0}, {"3": 0.5, "2": 0.5, "1": 0.5}
    assert paired_test(first, second) == paired_test([0.5, 1.0, 0.0], [0.5] * 3)
    for missing in (None, float("nan")):
        with pytest.raises(ValueError, match=f"values: the value of query 'q7' is {missing}. Every query needs one"):
            confidence_interval({"q1": 1.0, "q7": missing})
        with pytest.raises(ValueError, match=f"b: the value of query '7' is {missing}"):
            paired_test({1: 1.0, 7: 0.0}, {1: 1.0, 7: missing})


def test_generated_identifiers(bpe_tokenizer):
    metrics = GeneratedIdentifierMetrics(bpe_tokenizer, {10: "K2", 11: "Everest"}, [1], {1: {10: 1.0}})
    ids = np.array([bpe_tokenizer("K2")["input_ids"]])
    assert metrics(EvalPrediction(predictions=ids, label_ids=ids)) == {"hits@1": 1.0}
    with pytest.raises(ValueError, match="the relevance of '10' is 0.5, not an integer"):
        GeneratedIdentifierMetrics(bpe_tokenizer, {10: "K2"}, [1], {1: {10: 0.5}})
    with pytest.raises(TypeError, match="row 1: the query id is None"):
        GeneratedIdentifierMetrics(bpe_tokenizer, {10: "K2"}, [1, None], {1: {10: 1}})
    with pytest.raises(TypeError, match="The identifier of passage '10' is 5"):
        GeneratedIdentifierMetrics(bpe_tokenizer, {10: 5}, [1], {1: {10: 1}})


@pytest.fixture
def index(corpus, bpe_identifiers):
    return FMIndex.from_corpus(corpus, bpe_identifiers)


WRONG = [({"q01": {"p01": 0.9}}, "is 0.9, not an integer"), ({"q01": {"p01": None}}, "'p01' is None, not an integer")]


@pytest.mark.parametrize(("qrels", "message"), WRONG)
def test_wrong_grades_are_told_before_training(bpe_identifiers, corpus, index, qrels, message):
    def sampler():
        settings = {"list_length": 2, "sampling": "top", "relevant_first": True, "seed": 0}
        return ListSampler(Rankings({"q01": {"p01": 1.0}}), qrels, lambda query: {"p01"}, None, **settings)

    def pairs():
        return generation_pairs(corpus, bpe_identifiers, {"q01": "who"}, qrels)

    def evaluator():
        return RetrievalEvaluator(index, bpe_identifiers, {"q01": "who"}, qrels)

    for made in (sampler, pairs, evaluator, lambda: rank_list_statistics({"q01": {"p01": 1.0}}, qrels)):
        with pytest.raises(ValueError, match=f"qrels of query 'q01': the relevance of .*{message}"):
            made()


def test_grades_of_training(bpe_identifiers):
    corpus = Corpus.from_passages([Passage(10, "Everest", "a mountain of Nepal"), Passage(11, "K2", "another one")])
    settings = {"samples_per_passage": 0, "progress": False}
    expected = generation_pairs(corpus, bpe_identifiers, {"1": "who"}, {"1": {"10": 1, "11": 0}}, **settings)
    found = generation_pairs(corpus, bpe_identifiers, {1: "who"}, {1: {10: 1.0, 11: "0"}}, **settings)
    assert found[:] == expected[:] and len(found)
