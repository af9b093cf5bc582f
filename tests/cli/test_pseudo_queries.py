"""`dgr pseudo_queries` and `dgr index --pseudo_queries`."""

import json
import pickle

from dgr_trainer import Corpus


def test_queries_are_written_and_indexed(dgr, files, tmp_path):
    written = tmp_path / "queries.jsonl"
    made = ("pseudo_queries", files / "corpus.jsonl", "--model", files / "bart", "--output", written)
    found = dgr(*made, "--queries_per_passage", 2, "--max_new_tokens", 5, "--device", "cpu")
    assert found.code == 0 and found.out == "", found.err
    assert "different queries for 24 passages" in found.err
    rows = {row["id"]: row["pseudo_queries"] for row in map(json.loads, written.read_text().splitlines())}
    assert len(rows) == 24
    again = dgr(*made)
    assert again.code == 2 and "queries.jsonl exists already. Give another path" in again.err
    indexed = ("index", files / "corpus.jsonl", "--model", files / "bart", "--output", tmp_path / "index")
    assert dgr(*indexed, "--pseudo_queries", written).code == 0
    corpus = Corpus.load_from_disk(tmp_path / "index" / "corpus")
    assert all(list(corpus.get(id).pseudo_queries) == queries for id, queries in rows.items() if queries)
    # Several files, one of them a pickle, in place of what was there.
    (tmp_path / "more.pkl").write_bytes(pickle.dumps({"p01": ["who"], "p02": ["what", "why"]}))
    assert dgr(*indexed, "--pseudo_queries", tmp_path / "more.pkl", "--overwrite").code == 0
    corpus = Corpus.load_from_disk(tmp_path / "index" / "corpus")
    assert corpus.get("p01").pseudo_queries == ("who",) and corpus.get("p02").pseudo_queries == ("what", "why")

    # And with passages that are added.
    (tmp_path / "new.jsonl").write_text('{"id": "new", "title": "Mount Fuji", "text": "A mountain in Japan."}\n')
    (tmp_path / "fuji.jsonl").write_text('{"id": "new", "queries": ["how high is it"]}\n')
    added = dgr("index", tmp_path / "new.jsonl", "--output", tmp_path / "index", "--add",
                "--pseudo_queries", tmp_path / "fuji.jsonl")  # fmt: skip
    assert added.code == 0, added.err
    assert Corpus.load_from_disk(tmp_path / "index" / "corpus").get("new").pseudo_queries == ("how high is it",)


def test_the_round_trip(dgr, files, tmp_path):
    made = ("pseudo_queries", files / "corpus.jsonl", "--model", files / "bart", "--output", tmp_path / "q.jsonl")
    small = ("--queries_per_passage", 4, "--max_new_tokens", 8, "--device", "cpu")
    found = dgr(*made, *small, "--round_trip", 24)
    assert found.code == 0, found.err
    assert "find their passage" in found.err
    found = dgr(*made[:-1], tmp_path / "r.jsonl", *small, "--round_trip", -1)
    assert found.code == 2 and "--round_trip -1: give a number of passages" in found.err


def test_foreign_queries_are_refused(dgr, files, tmp_path):
    (tmp_path / "q.jsonl").write_text('{"id": "elsewhere", "queries": ["who"]}\n')
    indexed = ("index", files / "corpus.jsonl", "--model", files / "bart", "--output", tmp_path / "index")
    found = dgr(*indexed, "--pseudo_queries", tmp_path / "q.jsonl")
    assert found.code == 2 and "1 of 1 passage ids with pseudo-queries are not in the corpus" in found.err
    found = dgr(*indexed, "--pseudo_queries", tmp_path / "none.jsonl")
    assert found.code == 2 and "--pseudo_queries" in found.err and "none.jsonl does not exist" in found.err
