import math
import sys
from collections import Counter

import numpy as np
import pytest

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.evaluation.metrics import evaluate_run
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.teachers.bm25 import BM25Teacher
from dgr_trainer.teachers.english_analyzer import EnglishAnalyzer


@pytest.fixture(scope="module")
def teacher(corpus):
    return BM25Teacher(corpus, progress=False)


def formula(passages, query, k1=0.9, b=0.4):
    # BM25 as Lucene defines it, written out: idf = ln(1 + (N - df + 0.5) / (df + 0.5)).
    analyze = EnglishAnalyzer()
    texts = {p.id: Counter(analyze(f"{p.title}\n{p.text}")) for p in passages}
    average = np.mean([text.total() for text in texts.values()])
    scores = dict.fromkeys(texts, 0.0)
    for term in analyze(query):
        df = sum(term in text for text in texts.values())
        idf = math.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
        for id, text in texts.items():
            scores[id] += idf * text[term] / (text[term] + k1 * (1 - b + b * text.total() / average))
    return scores


def test_scores_are_those_of_the_formula(teacher, passages, queries):
    rankings = teacher.rank(queries)
    for query_id, query in zip(queries["query_id"], queries["query"], strict=True):
        expected = {id: score for id, score in formula(passages, query).items() if score > 0}
        found = dict(zip(rankings[query_id].passage_ids, rankings[query_id].scores, strict=True))
        assert found == pytest.approx(expected, rel=1e-5)


def test_parameters_reach_the_formula(corpus, passages):
    teacher = BM25Teacher(corpus, k1=1.2, b=0.75, progress=False)
    assert (teacher.k1, teacher.b) == (1.2, 0.75)
    found = teacher.rank({"q": "the sea and the Moon, the sea"})["q"]
    expected = formula(passages, "the sea and the Moon, the sea", k1=1.2, b=0.75)
    assert found.scores == pytest.approx([expected[id] for id in found.passage_ids], rel=1e-5)


def test_it_finds_the_relevant_passages(teacher, queries, qrels):
    assert evaluate_run(teacher.rank(queries), qrels, metrics=("hits@1",))["hits@1"] > 0.8


@pytest.mark.parametrize("query", ["the of and", "?!", "xylograph"])
def test_a_query_that_matches_nothing_gets_an_empty_list(teacher, query):
    rankings = teacher.rank({"q": query, "q2": "piano"})
    assert rankings["q"].passage_ids == ()
    assert rankings["q2"].passage_ids == ("p20",)


def test_candidates_are_all_ranked_and_score_as_in_the_search(teacher, queries):
    search = teacher.rank(queries, k=24)
    candidates = Rankings({id: {"p01": 0.0, "p20": 1.0, "p13": 2.0, "p24": 3.0} for id in queries["query_id"]})
    ranked = teacher.rank(queries, candidates)
    for query_id in queries["query_id"]:
        found = dict(zip(search[query_id].passage_ids, search[query_id].scores, strict=True))
        again = dict(zip(ranked[query_id].passage_ids, ranked[query_id].scores, strict=True))
        assert again == {id: found.get(id, 0.0) for id in ("p01", "p20", "p13", "p24")}
    assert len(teacher.rank(queries, candidates, k=2)["q01"].passage_ids) == 2
    assert set(teacher.rank({"q01": "the"}, candidates)["q01"].scores) == {0.0}


def test_k_cuts_ties_by_passage_id():
    corpus = Corpus.from_passages([Passage(id=f"p{i}", text="same words") for i in range(9)])
    found = BM25Teacher(corpus, progress=False).rank({"q": "words"}, k=3)["q"]
    assert found.passage_ids == ("p8", "p7", "p6")


def test_pseudo_queries_are_read_on_request(corpus, teacher):
    query = {"q": "tallest"}
    assert teacher.rank(query)["q"].passage_ids == ()
    expanded = BM25Teacher(corpus, fields=("title", "text", "pseudo_queries"), progress=False)
    assert expanded.rank(query)["q"].passage_ids == ("p01",)


def test_a_saved_teacher_ranks_the_same(teacher, corpus, queries, tmp_path):
    teacher.save(tmp_path / "bm25")
    loaded = BM25Teacher.load(tmp_path / "bm25", corpus, progress=False)
    assert dict(loaded.rank(queries).to_run()) == dict(teacher.rank(queries).to_run())
    teacher.save(tmp_path / "bm25")
    assert [path.name for path in tmp_path.iterdir()] == ["bm25"]


def test_load_refuses_another_corpus_and_another_folder(teacher, passages, corpus, tmp_path):
    teacher.save(tmp_path / "bm25")
    with pytest.raises(ValueError, match="was built on another corpus than this one of 3 passages"):
        BM25Teacher.load(tmp_path / "bm25", Corpus.from_passages(passages[:3]))
    with pytest.raises(FileNotFoundError, match="not a folder that BM25Teacher.save wrote"):
        BM25Teacher.load(tmp_path, corpus)


def test_a_corpus_without_terms_is_refused():
    with pytest.raises(ValueError, match="None of the 1 passages contains a term in title or text"):
        BM25Teacher(Corpus.from_passages([Passage(id="p", text="the of")]), progress=False)


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"k1": -1}, "k1 is -1"), ({"k1": math.nan}, "k1 is nan"), ({"b": 1.5}, "b is 1.5"), ({"b": -0.1}, "b is -0.1")],
)
def test_parameters_out_of_range_are_refused(corpus, setting, message):
    with pytest.raises(ValueError, match=message):
        BM25Teacher(corpus, **setting)


def test_missing_bm25s_names_the_extra(corpus, monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ImportError, match=r'pip install "dgr-trainer\[bm25\]"'):
        BM25Teacher(corpus)
