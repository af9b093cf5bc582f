"""Runs to the letter of the formats that other systems write."""

import gzip
import json
import math
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.runs.reading import from_rerankers, read_run, write_run

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


def test_the_order_counts_where_rank_llm_has_no_scores(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(rank_llm({7: [("b", None), ("a", None), (3, None)], "q": []})))
    assert read_run(tmp_path / "a.json").to_run() == {"7": {"b": 3.0, "a": 2.0, "3": 1.0}, "q": {}}
    (tmp_path / "a.json").write_text(json.dumps([{"query": {"qid": 1}, "candidates": [{"docid": 5}, {"docid": 6}]}]))
    assert read_run(tmp_path / "a.json").to_run() == {"1": {"5": 2.0, "6": 1.0}}


def test_equal_scores_of_rank_llm_are_ordered_as_everywhere(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(rank_llm({"q": [("a", 2.0), ("b", 2.0), ("c", 1.0)]})))
    assert read_run(tmp_path / "a.json")["q"].passage_ids == ("b", "a", "c")


def test_our_own_files(tmp_path):
    rankings = Rankings(EXPECTED, name="ours")
    for name in ("a.jsonl", "a.json"):
        rankings.to_jsonl(tmp_path / name)
        assert read_run(tmp_path / name) == rankings and read_run(tmp_path / name).name == "ours"
    Rankings({"q": {"a": 1.0}}).to_jsonl(tmp_path / "one.json")
    assert read_run(tmp_path / "one.json").to_run() == {"q": {"a": 1.0}}


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_tables_are_not_named_compressed(tmp_path, kind, suffix):
    with pytest.raises(
        ValueError, match=f"run.{kind}{suffix} would not be compressed as its name says.*{suffix} out of"
    ):
        write_run(Rankings(EXPECTED), tmp_path / f"run.{kind}{suffix}")
    assert not any(tmp_path.iterdir())


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
            '{"query": {"qid": 1}, "candidates": [{"docid": 1, "score": 2}, {"docid": 2}]}',
            "line 1: the score of candidate 2 is None, not a number",
        ),
        (
            "a.jsonl",
            '{"query": {"qid": 1}, "candidates": [{"docid": 1, "score": 2}, {"docid": 3, "score": 5}]}',
            "line 1: candidate 3 has the score 5, the one before it only 2, but RankLLM lists candidates best first",
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


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_in_other_encodings(tmp_path, encoding):
    lines = [{"query_id": q, "passage_ids": list(of), "scores": list(of.values())} for q, of in EXPECTED.items()]
    forms = {
        "ranx.json": json.dumps(EXPECTED),
        "array.json": json.dumps(lines, indent=1),
        "lines.json": "\r\n".join(map(json.dumps, lines)),
        "lines.jsonl": "\r\n".join(map(json.dumps, lines)),
    }
    for name, text in forms.items():
        (tmp_path / name).write_bytes(text.encode(encoding))
        assert read_run(tmp_path / name).to_run() == EXPECTED, name
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode(encoding)))
        assert read_run(tmp_path / f"{name}.gz").to_run() == EXPECTED, name
        assert read_run(tmp_path / f"{name}.gz").name == name.split(".")[0] or "lines" in name or "array" in name


HITS = [{"qid": q, "docno": id, "rank": 0, "score": score} for q, of in EXPECTED.items() for id, score in of.items()]


def test_a_hit_a_row(tmp_path):
    """As the results of PyTerrier are saved, in any order."""
    rows = [HITS[0], HITS[2], HITS[1]]
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    pa.feather.write_feather(pa.Table.from_pylist(rows), str(tmp_path / "a.feather"))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    for name in ("a.parquet", "a.feather", "a.jsonl", "a.json"):
        assert read_run(tmp_path / name).to_run() == EXPECTED, name
        assert read_run(tmp_path / name).name == "a"
    (tmp_path / "a.jsonl").write_text(
        json.dumps(HITS[0]) + "\n" + json.dumps(HITS[1]) + "\n" + json.dumps(HITS[0]) + "\n"
    )
    with pytest.raises(ValueError, match="a.jsonl, line 3: passage 'd2' occurs a second time for query 'q1'"):
        read_run(tmp_path / "a.jsonl")
    scattered = [HITS[0], HITS[2], HITS[1], HITS[0]]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in scattered))
    with pytest.raises(ValueError, match="a.jsonl, line 4: passage 'd2' occurs a second time for query 'q1'"):
        read_run(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_text(json.dumps(HITS[0]) + '\n{"qid": "q1", "docno": "x"}\n')
    with pytest.raises(ValueError, match=r"a.jsonl, line 2: a hit needs score \(score\). The fields found are"):
        read_run(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        (
            {"query_id": ["q"], "passage_ids": [["p"]], "scores": [[math.nan]]},
            ValueError,
            "row 0: The score of passage 'p'",
        ),
        ({"query_id": ["q"], "passage_ids": ["p"], "scores": [[1.0]]}, TypeError, "row 0: passage_ids is 'p', but it"),
        (
            {"query_id": ["q"], "passage_ids": [["p"]], "scores": [["1"]]},
            TypeError,
            "row 0: Query 'q': the score of passage 'p' is '1'",
        ),
        (
            {"query_id": [1.5], "passage_ids": [["p"]], "scores": [[1.0]]},
            TypeError,
            "row 0: A rank list: the query id is 1.5",
        ),
        (
            {"query_id": ["q", None], "passage_ids": [["p"]] * 2, "scores": [[1.0]] * 2},
            TypeError,
            "row 1: A rank list: the query id is None",
        ),
        ({"query_id": ["q"], "passage_ids": [["p"]]}, ValueError, r"no column \['scores'\]"),
        (
            {"qid": ["q"], "docno": ["p"], "score": [math.inf]},
            ValueError,
            "row 0: the score of passage 'p' for query 'q' is inf",
        ),
        ({"qid": ["q"], "docno": [None], "score": [1.0]}, TypeError, "row 0: the passage id is None"),
        ({"a": [1]}, ValueError, r"no column \['query_id'\]; its columns are \['a'\].*hf:PATH,query_id=COLUMN"),
    ],
)
def test_tables_with_other_columns(tmp_path, columns, error, message):
    pa.parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(error, match=f"a.parquet: .*{message}"):
        read_run(tmp_path / "a.parquet")


def test_damaged_tables(tmp_path):
    pa.parquet.write_table(pa.Table.from_pylist(HITS), tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    for name, content in (("b.parquet", data[:-20]), ("b.parquet", b""), ("b.arrow", data), ("b.arrow", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}: no whole"):
            read_run(tmp_path / name)
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(data))
    with pytest.raises(ValueError, match="compressed as a whole"):
        read_run(tmp_path / "a.parquet.gz")
