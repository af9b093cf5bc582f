"""Saved datasets that are opened without `datasets`, compared with what `datasets` opens."""

import pickle

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, load_from_disk

from dgr_trainer import Corpus, Passage
from dgr_trainer.data.saved_tables import TableRows, open_saved_table


@pytest.mark.parametrize("files", [1, 3])
def test_it_is_what_datasets_opens(tmp_path, files):
    Dataset.from_dict({"id": list("abcdefg"), "text": [None, "1", "", "é", "4", "5", "6"]}).save_to_disk(
        tmp_path / "saved", num_shards=files
    )
    saved, wanted = open_saved_table(tmp_path / "saved"), load_from_disk(tmp_path / "saved")
    assert saved.table.to_pylist() == wanted.to_list()
    dataset = saved.dataset()
    assert dataset.to_list() == wanted.to_list() and dataset.features == wanted.features
    assert dataset._fingerprint == wanted._fingerprint
    assert [file["filename"] for file in dataset.cache_files] == [file["filename"] for file in wanted.cache_files]


def test_rows_of_many_chunks():
    lengths = [3, 0, 1, 5, 0, 2]
    chance = np.random.default_rng(0)
    table = pa.concat_tables([pa.table({"x": chance.integers(99, size=length)}) for length in lengths])
    positions = [10, 0, 3, 3, 4, 9, 2]
    values = table.column("x").to_pylist()
    assert [row.to_pylist()[0]["x"] for row in TableRows(table).take(positions)] == [values[n] for n in positions]


def test_a_corpus_of_a_folder_is_pickled_by_its_path(tmp_path):
    passages = [Passage(f"p{number}", "title", "a long text " * 50) for number in range(2000)]
    Corpus.from_passages(passages).save_to_disk(tmp_path / "corpus")
    corpus = Corpus.load_from_disk(tmp_path / "corpus")
    assert corpus.get("p1999") == passages[1999] == corpus[-1] and corpus.take([-1, 0]) == [
        passages[1999],
        passages[0],
    ]
    with pytest.raises(IndexError, match="no passage 2000"):
        corpus.take([0, 2000])
    pickled = pickle.dumps(corpus)
    assert len(pickled) < 20_000
    again = pickle.loads(pickled)
    assert list(again) == passages and again.fingerprint == corpus.fingerprint
    assert again.dataset.to_list() == corpus.dataset.to_list()
    assert corpus.dataset._fingerprint == Corpus(load_from_disk(tmp_path / "corpus")).dataset._fingerprint


def test_a_corpus_of_a_relative_path_is_pickled_in_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Corpus.from_passages([Passage("a", "title")]).save_to_disk("corpus")
    corpus = Corpus.load_from_disk("corpus")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert list(pickle.loads(pickle.dumps(corpus))) == [Passage("a", "title")]
    assert corpus.dataset.cache_files[0]["filename"].startswith(str(tmp_path / "corpus"))
