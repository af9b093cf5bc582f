"""PyseriniTeacher with the real Anserini, and BM25Teacher against it."""

import pytest
from teachers.lucene.lucene_files import faiss_searcher, index_impacts, missing_lucene, save_faiss_index, save_splade
from teachers.reranker_models import save_encoder

from dgr_trainer import BiEncoderTeacher
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.teachers.bm25 import BM25Teacher
from dgr_trainer.teachers.lucene.pyserini import RM3, PyseriniTeacher
from dgr_trainer.teachers.lucene.searcher import SearcherTeacher

pytestmark = [pytest.mark.slow, pytest.mark.skipif(missing_lucene() is not None, reason=str(missing_lucene()))]


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
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        teacher.rank({"x": "piano \ud800"})
    queries = {
        "#1": "piano\tItaly\r\n",
        "0": "\x00",
        "the": "the of",
        "é": f"chess {long}",
        "x": "“中文” piano",
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


@pytest.fixture(scope="module")
def searchers():
    for name in ("openai", "onnxruntime"):
        pytest.importorskip(name, reason="pyserini.search imports it")


def test_a_searcher_of_pyserini_in_its_process(teacher, queries, searchers):
    searcher = SearcherTeacher(
        "pyserini.search.lucene:LuceneSearcher", {"index_dir": str(teacher.index_dir)}, progress=False
    )
    found, expected = searcher.rank(queries, k=3), teacher.rank(queries, k=3)
    for query_id in expected:
        assert dict(zip(*found[query_id], strict=True)) == pytest.approx(
            dict(zip(*expected[query_id], strict=True)), abs=1e-3
        )


def test_impacts_are_searched_by_anserini_and_by_pyserini(corpus, queries, tmp_path, searchers):
    """An index of impacts as SPLADE's; scores are the sums of the impacts of a query's tokens."""
    save_splade(tmp_path / "splade")
    impacts = index_impacts(corpus, tmp_path / "index")
    asked = {"a": "piano piano music", "b": "everest nothing", "c": "nothing"}
    expected = {}
    for query_id, query in asked.items():
        sums = {id: float(sum(of.get(word, 0) for word in query.split())) for id, of in impacts.items()}
        expected[query_id] = {id: score for id, score in sums.items() if score}
    assert min(map(len, list(expected.values())[:2])) >= 1
    by_anserini = PyseriniTeacher(index_dir=tmp_path / "index", similarity="impact", progress=False)
    assert by_anserini.rank(asked).to_run() == expected
    arguments = {"index_dir": str(tmp_path / "index"), "query_encoder": None}
    by_pyserini = SearcherTeacher("pyserini.search.lucene:LuceneImpactSearcher", arguments, progress=False)
    assert by_pyserini.rank(asked).to_run() == expected
    encoder = {**arguments, "query_encoder": str(tmp_path / "splade")}
    encoded = SearcherTeacher("pyserini.search.lucene:LuceneImpactSearcher", encoder, progress=False)
    assert all(encoded.rank({"a": "piano music"}, k=5)["a"].scores > 0)


def test_a_dense_searcher_of_pyserini_ranks_as_the_bi_encoder(corpus, queries, tmp_path, searchers):
    faiss = pytest.importorskip("faiss", reason="needs the extra faiss")
    pytest.importorskip("sentence_transformers", reason="needs the extra bi-encoder")
    save_encoder(tmp_path / "model")
    teacher = BiEncoderTeacher(tmp_path / "model", corpus, progress=False)
    save_faiss_index(teacher, corpus, tmp_path / "index")
    dense = SearcherTeacher(
        faiss_searcher, {"index": str(tmp_path / "index"), "model": str(tmp_path / "model")}, corpus, progress=False
    )
    found, expected = dense.rank(queries, k=5), teacher.rank(queries, k=5)
    assert faiss.read_index(str(tmp_path / "index" / "index")).ntotal == len(corpus)
    for query_id in expected:
        assert found[query_id].passage_ids == expected[query_id].passage_ids
        assert found[query_id].scores == pytest.approx(expected[query_id].scores, abs=1e-4)
