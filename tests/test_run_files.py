"""Runs to the letter of the formats that other systems write."""

import gzip
import json
from types import SimpleNamespace

import pytest

from dgr_trainer.rankings import Rankings
from dgr_trainer.run_files import from_rerankers, read_run

EXPECTED = {"q1": {"d2": 12.5, "d1": 9.25}, "q2": {"d7": 3.0}}

# What each system's own code writes for EXPECTED.
TREC = {
    "anserini": "q1 Q0 d2 1 12.500000 Anserini\nq1 Q0 d1 2 9.250000 Anserini\nq2 Q0 d7 1 3.000000 Anserini\n",
    "pyterrier": "q1 Q0 d2 0 12.5 pyterrier\nq1 Q0 d1 1 9.25 pyterrier\nq2 Q0 d7 0 3.0 pyterrier\n",
    "ranx": "q1 Q0 d2 1 12.5 bm25\nq1 Q0 d1 2 9.25 bm25\nq2 Q0 d7 1 3.0 bm25",
    "rank_llm": "q1 Q0 d2 1 12.5 rank_llm\nq1 Q0 d1 2 9.25 rank_llm\nq2 Q0 d7 1 3 rank_llm\n",
}


def rank_llm(lists):
    return [
        {
            "query": {"text": f"text of {qid}", "qid": qid},
            "candidates": [{"docid": id, "score": score, "doc": {"contents": "é"}} for id, score in of],
        }
        for qid, of in lists.items()
    ]


@pytest.mark.parametrize("system", TREC)
def test_trec_runs(tmp_path, system):
    path = tmp_path / "run.trec"
    path.write_text(TREC[system])
    assert read_run(path).to_run() == EXPECTED
    with gzip.open(tmp_path / "run.res.gz", "wt") as file:  # As PyTerrier compresses by the name.
        file.write(TREC[system])
    assert read_run(tmp_path / "run.res.gz").to_run() == EXPECTED


def test_json_of_ranx(tmp_path):
    path = tmp_path / "bm25.json"
    path.write_text(json.dumps(EXPECTED, indent=4))
    found = read_run(path)
    assert found.to_run() == EXPECTED and found.name == "bm25"
    assert read_run(path, name="mine").name == "mine"


def test_json_of_rank_llm(tmp_path):
    results = rank_llm({qid: list(of.items()) for qid, of in EXPECTED.items()})
    (tmp_path / "a.json").write_text(json.dumps(results, indent=2, ensure_ascii=False), encoding="utf-8")
    lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in results)
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    for name in ("a.json", "a.jsonl"):
        assert read_run(tmp_path / name).to_run() == EXPECTED


def test_the_place_counts_where_rank_llm_has_no_falling_scores(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(rank_llm({7: [("b", 1.0), ("a", 1.0), (3, 5.0)], "q": []})))
    assert read_run(tmp_path / "a.json").to_run() == {"7": {"b": 3.0, "a": 2.0, "3": 1.0}, "q": {}}


def test_our_own_files(tmp_path):
    rankings = Rankings(EXPECTED, name="ours")
    for name in ("a.jsonl", "a.json"):
        rankings.to_jsonl(tmp_path / name)
        assert read_run(tmp_path / name) == rankings and read_run(tmp_path / name).name == "ours"
    Rankings({"q": {"a": 1.0}}).to_jsonl(tmp_path / "one.json")
    assert read_run(tmp_path / "one.json").to_run() == {"q": {"a": 1.0}}


def ranked(*results):
    """What the classes of rerankers hold: RankedResults(results=[Result(document, score, rank)])."""
    documents = [
        SimpleNamespace(document=SimpleNamespace(doc_id=id, text="t", metadata={}), score=score, rank=rank)
        for id, score, rank in results
    ]
    return SimpleNamespace(results=documents, query="text", has_scores=results[0][1] is not None)


def test_results_of_rerankers():
    found = from_rerankers(
        {"q1": ranked(("d2", 12.5, 1), ("d1", 9.25, 2)), "q2": ranked((7, None, 2), ("x", None, 1))}, "flashrank"
    )
    assert found.to_run() == {"q1": EXPECTED["q1"], "q2": {"x": 2.0, "7": 1.0}} and found.name == "flashrank"
    with pytest.raises(TypeError, match="Query 'q': a list, not the RankedResults of rerankers"):
        from_rerankers({"q": [1]})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "a.json.*not JSON"),
        ("a.json", '{"a": 1', "a.json, line 1: not JSON"),
        ("a.json", "3", "a.json, line 1: holds a JSON int, not an object"),
        ("a.json", '{"q": [1]}', "a.json: query 'q' has .1., not an object of scores. A run has lists"),
        ("a.json", "{}", "a.json: the run is empty"),
        ("a.json", "[]", "a.json: the run is empty"),
        ("a.json", '{"q": {"d": NaN}}', "a.json: The score of passage 'd' for query 'q' is nan"),
        ("a.json", '[{"query": "text", "candidates": []}]', "a.json, line 1: no object of RankLLM"),
        (
            "a.json",
            '[{"query": {"qid": 1}, "candidates": [{"id": 1}]}]',
            "a.json, line 1: a candidate without 'docid'",
        ),
        ("a.jsonl", '{"query": {"qid": 1}, "candidates": 1}', "a.jsonl, line 1: no object of RankLLM"),
        (
            "a.jsonl",
            '{"query": {"qid": 1}, "candidates": [{"docid": 1, "score": "x"}]}',
            "line 1: the score of candidate 1 is 'x', not a number",
        ),
        (
            "a.jsonl",
            '{"query": {"qid": 1}, "candidates": []}\n' * 2,
            "a.jsonl, line 2: query '1' has a second list",
        ),
        ("a.lz4", "x", "is a run that ranx has compressed. Save it as TREC"),
    ],
)
def test_malformed_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_run(tmp_path / name)
