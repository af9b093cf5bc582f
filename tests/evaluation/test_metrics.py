import math

import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from dgr_trainer.evaluation.metrics import DEFAULT_METRICS, Metric, evaluate_per_query, evaluate_run
from dgr_trainer.runs.rankings import Rankings

QUERY_IDS = st.sampled_from(["q1", "q2", "q3"])
PASSAGE_IDS = st.sampled_from([f"p{number}" for number in range(12)])
# Few values, so that ties are common; two of them differ by less than 32 bits can hold.
SCORES = st.sampled_from([0.0, 1.0, 1.0 + 1e-12, -2.5, 7.0])
RUNS = st.dictionaries(QUERY_IDS, st.dictionaries(PASSAGE_IDS, SCORES, max_size=12), min_size=1)
QRELS = st.dictionaries(QUERY_IDS, st.dictionaries(PASSAGE_IDS, st.integers(-1, 3), max_size=6), min_size=1)


def by_hand(kind, k, scores, judgements, level):
    """The definition of a metric for one query, with trec_eval's order of ties."""
    order = sorted(scores, key=lambda id: (scores[id], id), reverse=True)
    relevant = {id for id, value in judgements.items() if value >= level}
    cut = order[:k]
    hits = [id in relevant for id in cut]
    if kind == "hits":
        return float(any(hits))
    if kind == "precision":
        return sum(hits) / k
    if kind == "recall":
        return sum(hits) / len(relevant) if relevant else 0.0
    if kind == "mrr":
        return 1 / (hits.index(True) + 1) if any(hits) else 0.0
    if kind == "map":
        found = [sum(hits[: rank + 1]) / (rank + 1) for rank, hit in enumerate(hits) if hit]
        return sum(found) / len(relevant) if relevant else 0.0
    gains = sorted((value for value in judgements.values() if value > 0), reverse=True)[:k]
    ideal = sum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains))
    got = sum(max(judgements.get(id, 0), 0) / math.log2(rank + 2) for rank, id in enumerate(cut))
    return got / ideal if ideal else 0.0


@settings(max_examples=150, deadline=None)
@given(RUNS, QRELS, st.lists(st.integers(1, 15), min_size=1, max_size=3, unique=True), st.integers(1, 2))
def test_every_metric_is_what_its_definition_says(run, qrels, cuts, level):
    if not run.keys() & qrels.keys():
        return
    names = [f"{kind}@{k}" for kind in ("hits", "recall", "precision", "mrr", "ndcg", "map") for k in cuts]
    names += ["mrr", "ndcg", "map"]
    values = evaluate_per_query(run, qrels, names, relevance_level=level)
    assert list(values) == names
    for name, by_query in values.items():
        metric = Metric.parse(name)
        assert list(by_query) == list(qrels)
        for query_id, value in by_query.items():
            wanted = by_hand(metric.kind, metric.k, run.get(query_id, {}), qrels[query_id], level)
            assert value == pytest.approx(wanted, abs=1e-12), (name, query_id)
    means = evaluate_run(Rankings(run), qrels, names, relevance_level=level)
    assert means == {name: math.fsum(by_query.values()) / len(qrels) for name, by_query in values.items()}


# Values that 32 bits hold exactly, since trec_eval keeps scores in 32 bits; few of them, so that ties are common.
EXACT = st.sampled_from([0.0, 1.0, 1.5, -2.5, 7.0])
TIED_RUNS = st.dictionaries(QUERY_IDS, st.dictionaries(PASSAGE_IDS, EXACT, min_size=1, max_size=12), min_size=1)
JUDGED = st.dictionaries(
    QUERY_IDS, st.dictionaries(PASSAGE_IDS, st.integers(0, 3), min_size=1, max_size=6), min_size=1
)
OF_TREC_EVAL = {
    "hits@1": "success_1", "hits@5": "success_5", "recall@5": "recall_5", "recall@100": "recall_100",
    "precision@5": "P_5", "map": "map", "mrr": "recip_rank", "ndcg@10": "ndcg_cut_10", "ndcg": "ndcg",
}  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(TIED_RUNS, JUDGED, st.integers(1, 3))
def test_every_metric_is_that_of_trec_eval(run, qrels, level):
    shared = run.keys() & qrels.keys()
    if not shared:
        return
    measures = {"success.1,5", "recall.5,100", "P.5", "map", "recip_rank", "ndcg_cut.10", "ndcg"}
    wanted = pytrec_eval.RelevanceEvaluator(qrels, measures, relevance_level=level).evaluate(run)
    found = evaluate_per_query(run, qrels, list(OF_TREC_EVAL), relevance_level=level)
    for name, measure in OF_TREC_EVAL.items():
        for query_id in shared:
            assert found[name][query_id] == wanted[query_id][measure], (name, query_id)


def test_queries_without_a_list_count_as_zero_and_are_counted(caplog):
    qrels = {"q1": {"p1": 1}, "q2": {"p1": 1}, "q3": {"p2": 0}, "q4": {"p3": 1}}
    run = Rankings({"q1": {"p1": 1.0}, "q4": {}, "q9": {"p1": 1.0}})
    assert evaluate_per_query(run, qrels, ["hits@1"]) == {"hits@1": {"q1": 1.0, "q2": 0.0, "q3": 0.0, "q4": 0.0}}
    assert evaluate_run(run, qrels, ["hits@1", "recall@5"]) == {"hits@1": 0.25, "recall@5": 0.25}
    assert (
        "3 of 4 queries of the qrels have no rank list, or an empty one, and count as 0, such as 'q2'" in caplog.text
    )
    assert (
        "1 of 4 queries of the qrels have no passage of relevance 1 or more and count as 0, such as 'q3'"
        in caplog.text
    )


def test_judgements_below_zero_are_not_relevant():
    qrels = {"q1": {"a": -1, "b": -2}, "q2": {"a": -1, "b": 1}}
    run = {"q1": {"a": 1.0}, "q2": {"a": 2.0, "b": 1.0}}
    assert evaluate_per_query(run, qrels, ["mrr", "ndcg"]) == {
        "mrr": {"q1": 0.0, "q2": 0.5},
        "ndcg": {"q1": 0.0, "q2": pytest.approx(1 / math.log2(3))},
    }


def test_mrr_is_cut():
    run = {"q": {f"p{number}": -float(number) for number in range(1, 20)}}
    assert evaluate_run(run, {"q": {"p11": 1}}, ["mrr@10", "mrr@11", "mrr"]) == {
        "mrr@10": 0.0, "mrr@11": 1 / 11, "mrr": 1 / 11,
    }  # fmt: skip


def test_scores_that_32_bits_cannot_tell_apart_are_no_tie():
    run = {"q": {"a": 1.0 + 1e-12, "b": 1.0}}
    assert evaluate_run(run, {"q": {"a": 1}}, ["hits@1"]) == {"hits@1": 1.0}


def test_the_relevance_level_leaves_ndcg_graded():
    run, qrels = {"q": {"a": 2.0, "b": 1.0}}, {"q": {"a": 1, "b": 3}}
    strict = evaluate_run(run, qrels, ["mrr@10", "ndcg@10"], relevance_level=2)
    assert strict["mrr@10"] == 0.5
    assert strict["ndcg@10"] == evaluate_run(run, qrels, ["ndcg@10"])["ndcg@10"]


def test_the_warning_names_the_metrics_in_which_a_query_counts_as_zero(caplog):
    run, qrels = {"q": {"a": 1.0}, "r": {"b": 1.0}}, {"q": {"a": 2}, "r": {"b": 0}}
    evaluate_run(run, qrels, ["hits@1", "mrr", "ndcg@10"], relevance_level=3)
    assert (
        "1 of 2 queries of the qrels have no passage of relevance 1 or more and count as 0 in ndcg@10" in caplog.text
    )
    assert (
        "2 of 2 queries of the qrels have no passage of relevance 3 or more and count as 0 in hits@1, mrr, such as"
        in caplog.text
    )
    caplog.clear()
    assert evaluate_run(run, {"q": {"a": 2}}, ["ndcg"], relevance_level=3) == {"ndcg": 1.0}
    assert not caplog.text


def test_a_run_of_relevant_passages_is_perfect(qrels):
    run = Rankings(
        {query_id: {id: float(grade) for id, grade in grades.items()} for query_id, grades in qrels.items()}
    )
    assert evaluate_run(run, qrels) == dict.fromkeys(DEFAULT_METRICS, 1.0)


@pytest.mark.parametrize(
    "name",
    ["hits", "recall", "precision", "hits@0", "hits@", "hits@1.5", "hits@-1", "Hits@1", "recip_rank", "acc@1", "", 5],
)
def test_unknown_metrics_are_refused(name):
    with pytest.raises(ValueError, match=r"There is no metric .*There are hits@k, .*without a cut map, mrr, ndcg"):
        Metric.parse(name)


def test_what_cannot_be_evaluated_is_refused():
    run, qrels = {"q": {"a": 1.0}}, {"q": {"a": 1}}
    with pytest.raises(TypeError, match=r"metrics is the string 'hits@5'. Give a list of names: \['hits@5'\]"):
        evaluate_run(run, qrels, "hits@5")
    with pytest.raises(ValueError, match="No metric was given"):
        evaluate_run(run, qrels, [])
    with pytest.raises(ValueError, match="relevance_level is 0"):
        evaluate_run(run, qrels, relevance_level=0)
    with pytest.raises(ValueError, match="The qrels are empty"):
        evaluate_run(run, {})
    with pytest.raises(
        ValueError, match=r"None of the 1 queries of the qrels \(such as 'x'\) .* has 1 lists \(such as 'q'\)"
    ):
        evaluate_run(run, {"x": {"a": 1}})


def test_a_run_with_queries_and_passages_swapped_is_told():
    qrels = {"q1": {"p1": 1}, "q2": {"p2": 1}}
    with pytest.raises(ValueError, match="its columns of queries and passages are swapped"):
        evaluate_per_query({"p1": {"q1": 1.0}, "p2": {"q2": 1.0}}, qrels)
    with pytest.raises(ValueError, match="Check that run and qrels are of the same queries"):
        evaluate_per_query({"p1": {"x": 1.0}}, qrels)


def test_an_empty_list_is_counted_with_the_missing_ones(caplog):
    assert evaluate_per_query({"q1": {}, "q2": {"p": 1.0}}, {"q1": {"p": 1}, "q2": {"p": 1}}, ["mrr"])["mrr"] == {
        "q1": 0.0,
        "q2": 1.0,
    }
    assert (
        "1 of 2 queries of the qrels have no rank list, or an empty one, and count as 0, such as 'q1'" in caplog.text
    )
