"""Docids of any text and length, unknown scripts and long queries on the command line."""

import json

import pytest

from dgr_trainer.data.queries import read_queries

LONG = "www.example.org." + ".".join(["river", "mountain", "town", "island"] * 6)
DOCIDS = {"p1": "Issue ## 42", "p2": "42", "p3": "a </s> b", "p4": LONG}


@pytest.fixture
def strings(tmp_path):
    """A corpus of docids, and what belongs to it."""
    rows = [{"id": id, "title": f"title {id}", "text": "a river", "docid": docid} for id, docid in DOCIDS.items()]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "strings.tsv").write_text("".join(f"{id}\t{docid}\n" for id, docid in DOCIDS.items()))
    (tmp_path / "queries.tsv").write_text("q1\twhich river\nq2\t" + "river " * 90 + "\n")
    (tmp_path / "qrels.txt").write_text("q1 0 p4 1\nq2 0 p1 1\n")
    lines = [f"{q} Q0 p{n} {n} {5 - n} best\n" for q in ("q1", "q2") for n in (1, 2, 3, 4)]
    (tmp_path / "best.trec").write_text("".join(lines))
    return tmp_path


def test_strings_are_trained_indexed_and_found(dgr, files, strings):
    student = ("--model", files / "bart")
    done = dgr("index", strings / "corpus.jsonl", *student, "--views", "docid", "--output", strings / "index")
    assert done.code == 0, done.err
    saved = json.loads((strings / "index" / "identifiers.json").read_text())["identifiers"]
    assert saved["docid_start"] == "" and saved["views"] == ["docid"]
    done = dgr(
        "train", *student, "--stage", "distillation", "--index", strings / "index", "--queries",
        strings / "queries.tsv", "--qrels", strings / "qrels.txt", "--run", strings / "best.trec", "--identifiers",
        strings / "strings.tsv", "--output_dir", strings / "out", "--max_steps", 1, "--use_cpu", "yes",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "1 of 2 queries are cut to max_query_length=64 tokens" in done.err
    search = ["search", strings / "out" / "retriever", "--queries", strings / "queries.tsv", "-k", 4, "--beam_size", 8]
    done = dgr(*search, "--output", strings / "found.trec")
    assert done.code == 0, done.err
    found = [line.split() for line in (strings / "found.trec").read_text().splitlines()]
    assert {row[2] for row in found if row[0] == "q1"} == set(DOCIDS)
    # A limit that hides the longest docid is said.
    done = dgr(*search, "--docid_length", 21, "--output", strings / "short.trec")
    assert done.code == 0 and "docid_length is 21, but the longest docid of the index has" in done.err
    assert "p4" not in (strings / "short.trec").read_text()


def test_without_an_index(dgr, files, strings):
    done = dgr(
        "train", "--model", files / "bart", "--stage", "distillation", "--queries", strings / "queries.tsv", "--run",
        strings / "best.trec", "--identifiers", strings / "strings.tsv", "--output_dir", strings / "out",
        "--max_steps", 1, "--use_cpu", "yes",
    )  # fmt: skip
    assert done.code == 0, done.err


def test_beside_other_views_the_passage_is_named(dgr, files, strings):
    for command in ("index", "pairs"):
        done = dgr(command, strings / "corpus.jsonl", "--model", files / "bart", "--views", "title", "docid",
                   "--output", strings / command)  # fmt: skip
        assert done.code == 2 and not (strings / command).exists()
        assert "The docid of passage 'p1', 'Issue ## 42', holds the marker docid_start='##'" in done.err


@pytest.mark.parametrize("command", ["index", "pairs", "train"])
def test_an_unknown_script_is_refused_and_some_of_it_counted(dgr, files, tmp_path, command):
    def run(rows, output):
        corpus = tmp_path / f"{output}.jsonl"
        corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
        arguments = [corpus, "--model", files / "other", "--output", tmp_path / output]
        if command == "train":
            options = ["--stage", "generation", "--max_steps", 1, "--use_cpu", "yes"]
            arguments = ["--corpus", corpus, "--model", files / "other", "--output_dir", tmp_path / output, *options]
        return dgr(command, *arguments)

    known = [{"id": f"e{n}", "title": "the river", "text": "a long river in the town"} for n in range(9)]
    foreign = [
        {"id": "j1", "title": "東京", "text": "日本の都です"},
        {"id": "j2", "title": "大阪", "text": "西の町です"},
    ]
    done = run(foreign, "foreign")
    assert done.code == 2 and not (tmp_path / "foreign").exists()
    assert "The tokenizer does not know 4 of 4 characters in the titles of 2 passages" in done.err
    done = run(known + foreign, "mixed")
    assert done.code == 0, done.err
    assert done.err.count("in the titles of 2 of 11 passages: they become 2 unknown tokens") == 1
    assert done.err.count("2 of 11 passages have the same tokens as another passage for a different title") == 1


def test_the_limit_of_a_query_is_an_option(dgr, files, strings):
    queries = read_queries(strings / "queries.tsv")
    assert max(map(len, queries["query"])) > 400
    options = [strings / "corpus.jsonl", "--model", files / "bart", "--queries", strings / "queries.tsv", "--qrels",
               strings / "qrels.txt", "--views", "docid", "--samples_per_passage", 0]  # fmt: skip
    done = dgr("pairs", *options, "--output", strings / "cut")
    assert done.code == 0 and "3 of 6 queries of generation pairs are cut to max_query_length=64" in done.err
    done = dgr("pairs", *options, "--output", strings / "whole", "--max_query_length", 100)
    assert done.code == 0 and "max_query_length" not in done.err
