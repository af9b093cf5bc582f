"""The committed folders of each format: this version opens them, and writes the same format versions and contents."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from formats.make_saved_formats import (
    ADDED_PASSAGES,
    CANDIDATES,
    FIRST_PASSAGES,
    RANK_LISTS,
    REMOVED_ID,
    write_formats,
)

from dgr_trainer.candidates import Candidates
from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.corpus_folder import verify_corpus
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval.retriever import GenerativeRetriever
from dgr_trainer.runs.rankings import Rankings

COMMITTED = Path(__file__).parents[1] / "assets" / "formats" / "v1"
REMAINING = [passage for passage in FIRST_PASSAGES if passage.id != REMOVED_ID] + list(ADDED_PASSAGES)
# Files that hold a version number, with its key.
VERSIONS = {
    "index/index.json": "format_version",
    "index/corpus/corpus.json": "layout",
    "corpus/corpus.json": "layout",
    "retriever/retriever.json": "format_version",
    "retriever/index/index.json": "format_version",
    "retriever/corpus/corpus.json": "layout",
    "candidates/candidates.json": "format_version",
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A copy of the committed folders: opening a folder may leave a lock or a record in it."""
    return shutil.copytree(COMMITTED, tmp_path_factory.mktemp("committed") / "v1")


@pytest.fixture(scope="module")
def today(saved, tmp_path_factory):
    """What this version writes from the same passages, with the model and the tokenizer of the committed retriever."""
    folder = tmp_path_factory.mktemp("today")
    retriever = GenerativeRetriever.from_pretrained(saved / "retriever")
    write_formats(folder, retriever.model, retriever.identifiers.tokenizer)
    return folder


def read_json(file):
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", VERSIONS)
def test_format_versions_are_those_of_the_committed_folders(saved, today, file):
    """A new format version needs a new committed folder, see make_saved_formats.py."""
    assert read_json(today / file)[VERSIONS[file]] == read_json(saved / file)[VERSIONS[file]]


@pytest.mark.parametrize("file", VERSIONS)
def test_descriptions_have_the_same_keys(saved, today, file):
    assert set(read_json(today / file)) == set(read_json(saved / file))


def test_all_versions_are_compared(saved):
    keys = set(VERSIONS.values())
    described = {file for file in saved.rglob("*.json") if keys & set(read_json(file))}
    # A corpus part and a dataset have descriptions of the datasets library.
    assert {str(file.relative_to(saved)) for file in described} == set(VERSIONS)


@pytest.mark.parametrize("name", ["index", "retriever/index"])
def test_index_files_hold_the_same_arrays(saved, today, name):
    ours, theirs = read_json(today / name / "index.json"), read_json(saved / name / "index.json")
    assert len(ours["segments"]) == len(theirs["segments"])
    for new, old in zip(ours["segments"], theirs["segments"], strict=True):
        for part in ("segment", "removed"):
            assert (new[part] is None) == (old[part] is None)
            if new[part] is not None:
                assert set(new[part]["files"]) == set(old[part]["files"])
                for file in new[part]["files"]:
                    written = np.load(today / name / new[part]["name"] / file)
                    committed = np.load(saved / name / old[part]["name"] / file)
                    assert written.dtype == committed.dtype
                    np.testing.assert_array_equal(written, committed, err_msg=file)


def test_index_with_two_segments_and_a_removed_passage(saved, today):
    committed, written = (FMIndex.load(folder / "index", verify=True) for folder in (saved, today))
    assert committed.num_segments == 2
    assert list(committed.passage_ids) == [passage.id for passage in REMAINING]
    assert committed.num_tokens == written.num_tokens
    for number in range(len(REMAINING)):
        tokens = committed.extract(number)
        np.testing.assert_array_equal(tokens, written.extract(number))
        assert committed.count(tokens[:2]) == written.count(tokens[:2]) >= 1
    removed = GenerativeRetriever.from_pretrained(saved / "retriever").index.extract(2)
    assert committed.count(removed) == 0


def test_corpora(saved, today):
    verify_corpus(saved / "index" / "corpus")
    for name, expected in (("corpus", list(FIRST_PASSAGES)), ("index/corpus", REMAINING)):
        committed = Corpus.load_from_disk(saved / name)
        assert list(committed) == expected == list(Corpus.load_from_disk(today / name))
    assert Corpus.load_from_disk(saved / "corpus").fingerprint == Corpus.load_from_disk(today / "corpus").fingerprint


def test_retriever(saved, today):
    expected = read_json(saved / "search.json")
    assert len(expected["hits"]) > 2
    for folder in (saved, today):
        retriever = GenerativeRetriever.from_pretrained(folder / "retriever")
        assert retriever.corpus is not None and list(retriever.corpus) == list(FIRST_PASSAGES)
        (hits,) = retriever.search(expected["query"])
        assert [hit.passage_id for hit in hits] == [passage_id for passage_id, _, _ in expected["hits"]]
        assert [len(hit.identifiers) for hit in hits] == [number for _, _, number in expected["hits"]]
        np.testing.assert_allclose([hit.score for hit in hits], [score for _, score, _ in expected["hits"]], rtol=1e-5)


def test_candidates_of_the_first_version(tmp_path, caplog):
    """They do not say where identifiers come from."""
    shutil.copytree(COMMITTED.parent / "candidates-1", tmp_path / "candidates")
    candidates = Candidates.load_from_disk(tmp_path / "candidates")
    assert "do not say which identifiers are unigrams or words of the query" in caplog.text
    expected = {
        query_id: [
            replace(one, identifiers=tuple(replace(i, origin="generated") for i in one.identifiers)) for one in found
        ]
        for query_id, found in CANDIDATES.items()
    }
    assert {query_id: list(candidates[query_id]) for query_id in candidates} == expected
    candidates.save_to_disk(tmp_path / "again")
    assert read_json(tmp_path / "again" / "candidates.json")["format_version"] == 2


def test_candidates(saved, today):
    fingerprint = GenerativeRetriever.from_pretrained(saved / "retriever").identifiers.fingerprint
    for folder in (saved, today):
        candidates = Candidates.load_from_disk(folder / "candidates", tokenizer_fingerprint=fingerprint)
        assert {query_id: list(candidates[query_id]) for query_id in candidates} == CANDIDATES
        assert candidates.corpus_tokens == FMIndex.load(folder / "retriever" / "index").num_tokens


def test_rank_lists(saved, today):
    file = saved / "rank_lists.jsonl"
    assert (today / "rank_lists.jsonl").read_text(encoding="utf-8") == file.read_text(encoding="utf-8")
    rankings = Rankings.from_jsonl(file)
    assert {
        query_id: list(zip(passage_ids, scores.tolist(), strict=True))
        for query_id, (passage_ids, scores) in rankings.items()
    } == RANK_LISTS
