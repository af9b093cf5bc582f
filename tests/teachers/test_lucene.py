"""PyseriniTeacher with the real Anserini, and BM25Teacher against it."""

import pytest

from dgr_trainer.rankings import Rankings
from dgr_trainer.teachers.anserini import find_jar
from dgr_trainer.teachers.bm25 import BM25Teacher
from dgr_trainer.teachers.java import find_java
from dgr_trainer.teachers.pyserini import RM3, PyseriniTeacher
from dgr_trainer.teachers.searcher import SearcherTeacher


def _missing() -> str | None:
    try:
        find_jar()
        find_java()
    except (ImportError, FileNotFoundError, RuntimeError) as error:
        return str(error)
    return None


MISSING = _missing()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(MISSING is not None, reason=str(MISSING))]


@pytest.fixture(scope="module")
def teacher(corpus, tmp_path_factory):
    return PyseriniTeacher(corpus, tmp_path_factory.mktemp("lucene") / "index", rm3=None, progress=False)


def test_bm25_without_java_ranks_as_lucene_does(teacher, corpus, queries):
    lucene, ours = teacher.rank(queries), BM25Teacher(corpus, progress=False).rank(queries)
    for query_id in queries["query_id"]:
        scores = dict(zip(*ours[query_id], strict=True))
        # Passages this short have lengths that Lucene stores exactly.
        assert dict(zip(*lucene[query_id], strict=True)) == pytest.approx(scores, abs=2e-4)


def test_candidates_keep_the_scores_of_the_search(teacher, queries):
    search = teacher.rank(queries)
    again = teacher.rank(queries, search.top(5))
    assert again.to_run() == search.top(5).to_run()
    unmatched = teacher.rank({"q": "piano"}, Rankings({"q": {"p20": 1.0, "p01": 2.0}}))
    assert unmatched["q"].passage_ids == ("p20", "p01")
    assert unmatched["q"].scores[1] == 0


def test_odd_queries_do_not_lose_the_others(teacher):
    long = " ".join(f"word{number}" for number in range(5000))
    queries = {
        "#1": "piano\tItaly\r\n",
        "0": "\x00",
        "the": "the of",
        "é": f"chess {long}",
        "x": "“中文” piano \ud800",
    }
    rankings = teacher.rank(queries)
    assert [rankings[id].passage_ids[:1] for id in queries] == [("p20",), (), (), ("p19",), ("p20",)]


def test_rm3_expands_queries(teacher, corpus, queries):
    expanded = PyseriniTeacher(corpus, teacher.index_dir, rm3=RM3(passages=2), progress=False).rank(queries)
    plain = teacher.rank(queries)
    assert sum(len(expanded[id].passage_ids) for id in plain) > sum(len(plain[id].passage_ids) for id in plain)


def test_fields_are_weighted(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fields") / "index"
    weighted = PyseriniTeacher(corpus, folder, field_weights={"title": 2.0, "text": 1.0}, progress=False)
    title = PyseriniTeacher(corpus, folder, field_weights={"title": 1.0}, progress=False)
    text = PyseriniTeacher(corpus, folder, field_weights={"text": 1.0}, progress=False)
    query = {"q": "piano strings mount everest"}
    found, of_title, of_text = (dict(zip(*one.rank(query)["q"], strict=True)) for one in (weighted, title, text))
    for passage_id, score in found.items():
        assert score == pytest.approx(2 * of_title.get(passage_id, 0) + of_text.get(passage_id, 0), abs=1e-3)


def test_query_likelihood_ranks_what_bm25_finds(teacher, corpus, queries):
    likely = PyseriniTeacher(corpus, teacher.index_dir, similarity="qld", progress=False).rank(queries)
    found = teacher.rank(queries)
    assert {q: set(likely[q].passage_ids) for q in found} == {q: set(found[q].passage_ids) for q in found}
    assert likely != found


def test_a_searcher_of_pyserini_in_its_process(teacher, queries):
    pytest.importorskip("openai", reason="pyserini.search imports it")
    searcher = SearcherTeacher(
        "pyserini.search.lucene:LuceneSearcher", {"index_dir": str(teacher.index_dir)}, progress=False
    )
    found, expected = searcher.rank(queries, k=3), teacher.rank(queries, k=3)
    for query_id in expected:
        assert dict(zip(*found[query_id], strict=True)) == pytest.approx(
            dict(zip(*expected[query_id], strict=True)), abs=1e-3
        )
