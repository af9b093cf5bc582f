"""With PyTerrier itself, without Java."""

import pytest

pytest.importorskip("pyterrier", reason="needs pyterrier")

import pandas as pd
import pyterrier as pt
from sample_corpus import QUERIES

from dgr_trainer import evaluate_run
from dgr_trainer.integrations import pyterrier_transformer


@pytest.fixture
def topics():
    return pd.DataFrame({"qid": list(QUERIES)[:4], "query": list(QUERIES.values())[:4], "language": "en"})


def test_results_are_the_hits(retriever, topics, corpus):
    results = pyterrier_transformer(retriever, k=5).transform(topics)
    assert list(results.columns) == ["qid", "query", "language", "docno", "score", "rank"]
    for qid, query in zip(topics["qid"], topics["query"], strict=True):
        hits = retriever.search(query, k=5)[0]
        of = results[results["qid"] == qid]
        assert list(zip(of["docno"], of["score"], of["rank"], strict=True)) == [
            (hit.passage_id, hit.score, rank) for rank, hit in enumerate(hits)
        ]
    # As PyTerrier itself counts ranks.
    assert results.equals(pt.model.add_ranks(results)[results.columns].reset_index(drop=True))
    with_text = pyterrier_transformer(retriever, k=5, text=True)(topics)
    assert list(with_text["text"]) == [corpus.get(id).text for id in results["docno"]]
    assert pyterrier_transformer(retriever, k=3).search("sea")["docno"].tolist() == [
        hit.passage_id for hit in retriever.search("sea", k=3)[0]
    ]


def test_frames_that_have_no_topics(retriever, bare, topics):
    transformer = pyterrier_transformer(retriever, k=3)
    empty = transformer(topics.iloc[:0])
    assert not len(empty) and set(empty.columns) == {"qid", "query", "language", "docno", "score", "rank"}
    nothing = transformer(pd.DataFrame({"qid": ["q", "r"], "query": ["", "sea"]}))
    assert set(nothing["qid"]) == {"r"}
    assert set(pt.inspect.transformer_outputs(transformer, ["qid", "query"])) >= {"docno", "score", "rank"}
    with pytest.raises(KeyError, match="qid"):
        transformer(pd.DataFrame({"query": ["sea"]}))
    with pytest.raises(ValueError, match="has no corpus, but text=True has the text"):
        pyterrier_transformer(bare, text=True)


def test_an_experiment_measures_what_this_library_measures(retriever, topics, judged):
    qrels = pd.DataFrame(
        [(query, passage, grade) for query, of in judged.items() for passage, grade in of.items()],
        columns=["qid", "docno", "label"],
    )
    transformer = pyterrier_transformer(retriever, k=10)
    table = pt.Experiment(
        [transformer, transformer % 1], topics, qrels, eval_metrics=["ndcg_cut_10", "recip_rank"], names=["all", "one"]
    )
    rankings = retriever.rank(dict(zip(topics["qid"], topics["query"], strict=True)), k=10)
    for name, run in {"all": rankings, "one": rankings.top(1)}.items():
        expected = evaluate_run(run, judged, ["ndcg@10", "mrr"])
        row = table[table["name"] == name].iloc[0]
        assert row["ndcg_cut_10"] == pytest.approx(expected["ndcg@10"])
        assert row["recip_rank"] == pytest.approx(expected["mrr"])
