"""`dgr pairs`: distinctive targets, and pairs of the student's own candidates."""

import datasets
import pytest

from dgr_trainer import (
    Candidate,
    Candidates,
    Corpus,
    FMIndex,
    Identifiers,
    MatchedIdentifier,
    generation_pairs,
    pairs_from_candidates,
    read_qrels,
    read_queries,
)


@pytest.fixture
def student(files, bpe_tokenizer, tmp_path):
    """Identifiers, and saved candidates in which the student found each relevant passage by a word."""
    identifiers = Identifiers(bpe_tokenizer)

    lists = {
        query_id: [
            Candidate(id, 5.0, (MatchedIdentifier("substring", tuple(identifiers.encode("river")), 2, 5.0),))
            for id in relevant
        ]
        for query_id, relevant in read_qrels(files / "qrels.txt").items()
    }
    candidates = Candidates.from_lists(lists, corpus_tokens=500, tokenizer_fingerprint=identifiers.fingerprint)
    candidates.save_to_disk(tmp_path / "candidates")
    return identifiers, candidates


def test_distinctive_pairs(dgr, files, student, tmp_path):
    identifiers, _ = student
    assert dgr("index", files / "corpus.jsonl", "--model", files / "bart", "--output", tmp_path / "made").code == 0
    judged = ("--queries", files / "queries.tsv", "--qrels", files / "qrels.txt")
    options = ("--targets", "distinctive", "--substring_length", 6, "--num_proc", 2)
    done = dgr("pairs", tmp_path / "made", "--model", files / "bart", *judged, "--output", tmp_path / "out", *options)
    assert done.code == 0, done.err
    index, corpus = FMIndex.load(tmp_path / "made"), Corpus.read(files / "corpus.jsonl")
    expected = generation_pairs(
        corpus, identifiers, read_queries(files / "queries.tsv"), read_qrels(files / "qrels.txt"),
        targets="distinctive", index=index, substring_length=6, progress=False,
    )  # fmt: skip
    assert datasets.load_from_disk(str(tmp_path / "out")).to_dict() == expected.to_dict()


def test_pairs_of_candidates(dgr, files, student, tmp_path):
    identifiers, candidates = student
    judged = ("--queries", files / "queries.tsv", "--qrels", files / "qrels.txt")
    done = dgr(
        "pairs", files / "corpus.jsonl", "--model", files / "bart", *judged, "--output", tmp_path / "out",
        "--candidates", tmp_path / "candidates", "--identifiers_per_query", 1, "--seed", 3,
    )  # fmt: skip
    assert done.code == 0, done.err
    expected = pairs_from_candidates(
        candidates, identifiers, read_queries(files / "queries.tsv"), read_qrels(files / "qrels.txt"),
        identifiers_per_query=1, seed=3, progress=False,
    )  # fmt: skip
    assert datasets.load_from_disk(str(tmp_path / "out")).to_dict() == expected.to_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--targets distinctive", "is not the folder of an index. Give one that `dgr index` made"),
        ("--identifiers_per_query 3", "--identifiers_per_query goes with --candidates"),
        ("--candidates {candidates}", "--candidates needs the --queries and --qrels"),
        ("--candidates {candidates} {judged} --targets distinctive", "so --targets has no effect"),
        ("--candidates {candidates} {judged} --titles_per_query 2", "so --titles_per_query has no effect"),
        ("--candidates {candidates} {judged} --samples_per_passage 0", "so --samples_per_passage has no effect"),
        ("--candidates {candidates} {judged} --identifiers_per_query 0", "has to be at least 1"),
        ("--candidates {files}/nowhere {judged}", "nowhere"),
    ],
)
def test_what_does_not_go_together(dgr, files, student, tmp_path, options, message):
    judged = f"--queries {files}/queries.tsv --qrels {files}/qrels.txt"
    arguments = options.format(candidates=tmp_path / "candidates", judged=judged, files=files).split()
    done = dgr("pairs", files / "corpus.jsonl", "--model", files / "bart", "--output", tmp_path / "out", *arguments)
    assert done.code != 0 and message in done.err
    assert not (tmp_path / "out").exists()


def test_training_on_distinctive_pairs_needs_an_index(dgr, files, tmp_path):
    done = dgr(
        "train", "--stage", "generation", "--model", files / "bart", "--corpus", files / "corpus.jsonl",
        "--targets", "distinctive", "--output_dir", tmp_path / "out", "--use_cpu", "--max_steps", 1,
    )  # fmt: skip
    assert done.code != 0 and "--targets distinctive compares substrings with the corpus. Give its --index" in done.err
