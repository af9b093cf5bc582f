"""`dgr tune`, and commands that take its settings."""

import json
from dataclasses import replace

import pytest
from tiny_models import bpe_tokenizer, make_bart

from dgr_trainer import (
    Corpus,
    GenerativeRetriever,
    Identifiers,
    SearchSettings,
    read_qrels,
    read_queries,
    read_run,
    tune_search,
)
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval import read_settings


@pytest.fixture(scope="module")
def dev(tmp_path_factory, passages):
    """A saved retriever, and a query for each passage."""
    folder = tmp_path_factory.mktemp("tune")
    tokenizer = bpe_tokenizer()
    identifiers = Identifiers(tokenizer)
    index = FMIndex.from_corpus(Corpus.from_passages(passages), identifiers, progress=False)
    settings = SearchSettings(beam_size=2, title_length=6, pseudo_query_length=6)
    GenerativeRetriever(make_bart(tokenizer), identifiers, index, settings=settings).save_pretrained(
        folder / "retriever"
    )
    lines = [f"d{n}\t{' '.join(passage.text.split()[2:6])}\n" for n, passage in enumerate(passages)]
    (folder / "dev.tsv").write_text("".join(lines))
    (folder / "dev.qrels").write_text("".join(f"d{n} 0 {p.id} 1\n" for n, p in enumerate(passages)))
    return folder


@pytest.mark.slow
def test_tune_and_search_with_its_settings(dgr, dev, tmp_path):
    judged = ("--queries", dev / "dev.tsv", "--qrels", dev / "dev.qrels")
    done = dgr(
        "tune", dev / "retriever", *judged, "--output", tmp_path / "settings.json", "--metric", "mrr@10",
        "--rounds", 1, "--max_occurrences", 400, "--beam_sizes", 3,
    )  # fmt: skip
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert (
        lines[0].split() == ["mrr@10", "before", "after"] and "p = " in lines[2] and lines[3].startswith("changed: ")
    )
    retriever = GenerativeRetriever.from_pretrained(dev / "retriever")
    assert retriever.settings.beam_size == 2
    settings, scoring = read_settings(tmp_path / "settings.json")
    tuning = json.loads((tmp_path / "settings.json").read_text())["tuning"]
    assert 0 <= tuning["fitted_before"] <= tuning["fitted_after"] == max(trial["value"] for trial in tuning["trials"])
    # The API, from the same settings, finds the same.
    retriever.settings = replace(retriever.settings, max_occurrences=400)
    again = tune_search(
        retriever, read_queries(dev / "dev.tsv"), read_qrels(dev / "dev.qrels"), metric="mrr@10", rounds=1,
        beam_sizes=[3], progress=False,
    )  # fmt: skip
    assert (again.settings, again.scoring) == (settings, scoring)

    (tmp_path / "q.tsv").write_text("a\triver water of the town\n")
    command = ("search", dev / "retriever", "--queries", tmp_path / "q.tsv", "--settings", tmp_path / "settings.json")
    assert dgr(*command, "--output", tmp_path / "run.jsonl").code == 0
    retriever.settings, retriever.scoring = settings, scoring
    expected = retriever.rank({"a": "river water of the town"}, 5)
    assert read_run(tmp_path / "run.jsonl")["a"].passage_ids == expected["a"].passage_ids
    # An option beside the file has precedence.
    assert dgr(*command, "--unigrams", 0, "--output", tmp_path / "none.jsonl").code == 0
    retriever.settings = replace(settings, unigrams=0)
    expected = retriever.rank({"a": "river water of the town"}, 5)
    assert read_run(tmp_path / "none.jsonl")["a"].passage_ids == expected["a"].passage_ids


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--metric hits", "There is no metric 'hits'"),
        ("--seed -1", "--seed -1 has to be at least 0"),
        ("--settings {dev}/dev.tsv", "holds no settings"),
        ("--settings {dev}/none.json", "none.json does not exist"),
        ("--split dev", "--split dev selects from a BEIR folder"),
        ("--max_queries 5", "max_queries=5 at least 20"),
        ("--lookahead 3 --query_ngrams no", "lookahead=3 scores passages by the words of the query"),
    ],
)
def test_wrong_options(dgr, dev, tmp_path, options, message):
    judged = ("--queries", dev / "dev.tsv", "--qrels", dev / "dev.qrels")
    done = dgr("tune", dev / "retriever", *judged, "--output", tmp_path / "out.json", *options.format(dev=dev).split())
    assert done.code != 0 and message in done.err
    assert not (tmp_path / "out.json").exists()
