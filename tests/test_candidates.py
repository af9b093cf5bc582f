import gzip
import json

import datasets
import pytest

from dgr_trainer.candidates import Candidate, Candidates, MatchedIdentifier

TITLE = MatchedIdentifier("title", (5, 6, 7), 1, 12.5)
SPAN = MatchedIdentifier("substring", (9,), 4, 3.0)
QUERY = MatchedIdentifier("pseudo_query", (11, 12), 2, 1.5)
LISTS = {
    "q1": (Candidate("b", 15.5, (TITLE, SPAN)), Candidate("a", 1.5, (QUERY,)), Candidate("c", 0.0, ())),
    "q2": (),
    "q3": (Candidate("a", -2.25, (SPAN, QUERY)),),
}


@pytest.fixture
def candidates() -> Candidates:
    return Candidates.from_lists(LISTS, corpus_tokens=1000, tokenizer_fingerprint="f" * 64)


def test_gives_back_what_went_in(candidates):
    assert dict(candidates) == LISTS
    assert list(candidates) == ["q1", "q2", "q3"] and len(candidates) == 3
    assert "q1" in candidates and "q9" not in candidates
    assert candidates.passage_ids("q1") == ("b", "a", "c")


def test_reads_pairs_in_batches(monkeypatch):
    monkeypatch.setattr("dgr_trainer.candidates.rows._ROWS_PER_BATCH", 2)
    assert dict(Candidates.from_lists(iter(LISTS.items()), corpus_tokens=7)) == LISTS


def test_no_queries_at_all():
    assert dict(Candidates.from_lists({}, corpus_tokens=7)) == {}


def test_select_takes_some_candidates_and_their_first_identifiers(candidates):
    chosen = candidates.select("q1", ["a", "b"], max_identifiers=1)
    assert chosen == (Candidate("a", 1.5, (QUERY,)), Candidate("b", 15.5, (TITLE,)))


def test_saved_and_loaded_is_the_same(candidates, tmp_path):
    candidates.save_to_disk(tmp_path / "folder")
    loaded = Candidates.load_from_disk(tmp_path / "folder", tokenizer_fingerprint="f" * 64)
    assert dict(loaded) == LISTS
    assert (loaded.corpus_tokens, loaded.tokenizer_fingerprint) == (1000, "f" * 64)
    assert loaded.dataset.cache_files, "loaded candidates are memory-mapped"


def test_json_lines_come_back(candidates, tmp_path):
    candidates.to_jsonl(tmp_path / "c.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    assert lines[0] == {"corpus_tokens": 1000, "tokenizer_fingerprint": "f" * 64}
    assert lines[1]["query_id"] == "q1"
    assert lines[1]["candidates"][1] == {
        "passage_id": "a",
        "score": 1.5,
        "identifiers": [{"view": "pseudo_query", "ids": [11, 12], "count": 2, "score": 1.5, "origin": "generated"}],
    }
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress((tmp_path / "c.jsonl").read_bytes()))
    for name in ("c.jsonl", "c.jsonl.gz"):
        found = Candidates.from_jsonl(tmp_path / name)
        assert dict(found) == LISTS
        assert (found.corpus_tokens, found.tokenizer_fingerprint) == (1000, "f" * 64)


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"query_id": "q"}\n', "line 1: the first line of candidates has to contain corpus_tokens"),
        ("", "line 1: the first line of candidates has to contain corpus_tokens"),
        (
            '{"corpus_tokens": 9}\n{"query_id": "q"}\n',
            r"line 2: the line is not in .* \(KeyError: 'candidates'\)",
        ),
        (
            '{"corpus_tokens": 9}\n{"query_id": "q", "candidates": [1]}\n',
            r"line 2: the line is not in .* \(TypeError",
        ),
    ],
)
def test_malformed_json_lines_are_refused(tmp_path, content, message):
    (tmp_path / "c.jsonl").write_text(content)
    with pytest.raises(ValueError, match=f"c.jsonl, {message}"):
        Candidates.from_jsonl(tmp_path / "c.jsonl")


def test_rankings_of_the_student(candidates):
    rankings = candidates.to_rankings()
    assert rankings["q1"].passage_ids == ("b", "a", "c")
    assert rankings["q1"].scores.tolist() == candidates.scores("q1").tolist() == [15.5, 1.5, 0.0]
    with pytest.raises(KeyError, match="'nobody' has no candidates"):
        candidates.scores("nobody")


def test_another_tokenizer_is_refused(candidates, tmp_path):
    candidates.save_to_disk(tmp_path / "folder")
    with pytest.raises(ValueError, match="made with another tokenizer.*Use the tokenizer of the model"):
        Candidates.load_from_disk(tmp_path / "folder", tokenizer_fingerprint="0" * 64)


def test_another_format_is_refused(candidates, tmp_path):
    candidates.save_to_disk(tmp_path / "folder")
    meta = tmp_path / "folder" / "candidates.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "format_version": 99}))
    with pytest.raises(ValueError, match="format version 99"):
        Candidates.load_from_disk(tmp_path / "folder")


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no candidates\.json"):
        Candidates.load_from_disk(tmp_path)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([Candidate("a", float("nan"), ())], "not a finite number"),
        ([Candidate("a", 1.0, ()), Candidate("a", 2.0, ())], "twice among the candidates of query 'q'"),
        ([Candidate("a", 1.0, (MatchedIdentifier("header", (1,), 1, 1.0),))], "unknown views .'header'"),
        ([Candidate("a", 1.0, (MatchedIdentifier("title", (), 1, 1.0),))], "identifier without tokens"),
    ],
)
def test_bad_candidates_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        Candidates.from_lists({"q": bad}, corpus_tokens=7)


def test_a_query_given_twice_is_refused():
    with pytest.raises(ValueError, match="'q' has two lists of candidates"):
        Candidates.from_lists([("q", ()), ("q", ())], corpus_tokens=7)


def test_other_columns_are_refused():
    with pytest.raises(ValueError, match="this dataset has query, text"):
        Candidates(datasets.Dataset.from_dict({"query": ["a"], "text": ["b"]}), corpus_tokens=7)


def test_corpus_tokens_must_be_positive():
    with pytest.raises(ValueError, match="corpus_tokens=0"):
        Candidates.from_lists({}, corpus_tokens=0)


def test_unknown_queries_and_passages_are_named(candidates):
    with pytest.raises(KeyError, match="'q9' has no candidates"):
        candidates["q9"]
    with pytest.raises(KeyError, match="'q9' has no candidates"):
        candidates.passage_ids("q9")
    with pytest.raises(KeyError, match="'z'.* not among the candidates of query 'q1'"):
        candidates.select("q1", ["z"])
