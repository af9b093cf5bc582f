"""`--among`, `--exclude` and `--leave_out_own_text` of `dgr search` and `dgr candidates`."""

import json

import pytest
from sample_corpus import PASSAGES, QUERIES
from tiny_models import bpe_tokenizer, make_bart

from dgr_trainer import Candidates, Corpus, FMIndex, GenerativeRetriever, Identifiers, Rankings, SearchSettings
from dgr_trainer.cli.passage_sets import check_sets, read_passage_sets

OWN = "who discovered penicillin"


@pytest.fixture(scope="module")
def retriever(files, tmp_path_factory):
    identifiers, corpus = Identifiers(bpe_tokenizer()), Corpus.read(files / "corpus.jsonl")
    made = GenerativeRetriever(
        make_bart(bpe_tokenizer()), identifiers, FMIndex.from_corpus(corpus, identifiers, progress=False),
        settings=SearchSettings(beam_size=3, pseudo_query_length=12),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("retriever") / "retriever"
    made.save_pretrained(folder)
    return made, folder


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "passages.txt"
        path.write_text(text)
        return path

    return write


def test_typed_queries_are_searched_among_passages(dgr, retriever, written):
    made, folder = retriever
    among = written("p07\np20\r\n\np24\n")
    shown = dgr("search", folder, OWN, "the sea", "--among", among, "--json", "--leave_out_own_text")
    assert shown.code == 0
    expected = made.search([OWN, "the sea"], 5, among=["p07", "p20", "p24"], leave_out_own_text=True)
    found = [[hit["passage_id"] for hit in json.loads(line)["hits"]] for line in shown.out.splitlines()]
    assert found == [[hit.passage_id for hit in hits] for hits in expected]
    assert set(found[0]) <= {"p07", "p20", "p24"}


def test_queries_of_a_file_have_passages_of_their_own(dgr, retriever, written, tmp_path):
    made, folder = retriever
    queries = dict(list(QUERIES.items())[:3])
    file, run = tmp_path / "queries.tsv", tmp_path / "run.trec"
    file.write_text("".join(f"{id}\t{text}\n" for id, text in queries.items()))
    ids = [passage.id for passage in PASSAGES]
    sets = {"q01": ids[:10], "q03": ids[5:18], "q02": ids[1::2]}
    among = written("".join(f"{query}\t{id}\n" for query, some in sets.items() for id in some))
    exclude = tmp_path / "exclude.tsv"
    exclude.write_text("q03\tp08\n")
    options = ("--queries", file, "--among", among, "--exclude", exclude)
    assert dgr("search", folder, *options, "--output", run).code == 0
    expected = made.rank(queries, 5, among=sets, exclude={"q03": ["p08"]})
    found = Rankings.from_trec(run)
    assert {id: found[id].passage_ids for id in found} == {id: expected[id].passage_ids for id in expected}
    assert all(set(found[id].passage_ids) <= set(sets[id]) for id in found) and "p08" not in found["q03"].passage_ids
    lines = dgr("search", folder, *options, "--json").out.splitlines()
    shown = {one["query_id"]: tuple(hit["passage_id"] for hit in one["hits"]) for one in map(json.loads, lines)}
    assert shown == {id: expected[id].passage_ids for id in expected}


def test_candidates_are_searched_without_own_texts_among_passages(dgr, retriever, written, tmp_path):
    made, folder = retriever
    (tmp_path / "queries.tsv").write_text(f"own\t{OWN}\n")
    options = ("--queries", tmp_path / "queries.tsv", "--exclude", written("p01\n"), "-k", 24)
    assert dgr("candidates", folder, *options, "--output", tmp_path / "without").code == 0
    assert dgr("candidates", folder, *options, "--output", tmp_path / "with", "--no_leave_out_own_text").code == 0
    for name, leave_out in (("without", True), ("with", False)):
        expected = made.candidates({"own": OWN}, 24, exclude=["p01"], leave_out_own_text=leave_out)
        found = Candidates.load_from_disk(tmp_path / name)
        assert [one.passage_id for one in found["own"]] == [one.passage_id for one in expected["own"]]
        assert found["own"][0].score == pytest.approx(expected["own"][0].score, rel=1e-4)
    assert dict(Candidates.load_from_disk(tmp_path / "with")) != dict(Candidates.load_from_disk(tmp_path / "without"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--among: .* is empty. Give the ids of passages"),
        ("p01\tp02\tp03\n", "passages.txt, line 1: 3 columns. Give the id of a passage on each line, or"),
        ("p01\nq1\tp02\n", "passages.txt, line 2: 2 columns"),
        ("p0 1\n", "passages.txt, line 1: the passage id 'p0 1' holds whitespace"),
        ("\tp01\n", "passages.txt, line 1: the query id is empty"),
    ],
)
def test_files_that_hold_no_passages_are_refused(written, text, message):
    with pytest.raises(ValueError, match=message):
        read_passage_sets("--among", str(written(text)))


def test_sets_of_other_queries_are_refused():
    with pytest.raises(ValueError, match="--among has passages for the query 'q1', but typed queries have no ids"):
        check_sets("--among", {"q1": ["p01"]}, {}, all_queries=True)
    with pytest.raises(ValueError, match=r"--exclude has .* query 'q9', which is not among the queries \(1 of 2 are"):
        check_sets("--exclude", {"q1": ["p01"], "q9": ["p01"]}, {"q1": "", "q2": ""}, all_queries=False)
    with pytest.raises(ValueError, match=r"--among has no passages for the query 'q2' \(1 of 2 queries"):
        check_sets("--among", {"q1": ["p01"]}, {"q1": "", "q2": ""}, all_queries=True)
    check_sets("--exclude", {"q1": ["p01"]}, {"q1": "", "q2": ""}, all_queries=False)


def test_mistakes_are_found_before_a_model_is_loaded(dgr, retriever, written, files, tmp_path, monkeypatch):
    monkeypatch.setattr("dgr_trainer.cli.search.load_retriever", None)
    monkeypatch.setattr("dgr_trainer.cli.candidates.load_retriever", None)
    pairs = written("q01\tp01\n")
    typed = dgr("search", retriever[1], "the sea", "--among", pairs)
    assert typed.code == 2 and "typed queries have no ids" in typed.err
    found = dgr(
        "candidates", retriever[1], "--queries", files / "queries.tsv", "--among", pairs, "--output", tmp_path / "c"
    )
    assert found.code == 2 and "has two columns, but candidates of all queries" in found.err
