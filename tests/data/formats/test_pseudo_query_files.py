import datetime
import gzip
import json
import os
import pickle

import datasets
import pytest

from dgr_trainer import Corpus, Passage
from dgr_trainer.data.pseudo_queries import PseudoQueries, read_pseudo_queries
from dgr_trainer.files.plain_pickle import read_plain_pickle


def _write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["pseudo_queries", "predicted_queries", "queries"])
def test_records_with_lists(tmp_path, name):
    path = _write(
        tmp_path / "d2q.jsonl", {"id": 1, name: ["who", "what"]}, {"id": "2", name: [" "]}, {"id": "3", name: []}
    )
    found = read_pseudo_queries(path)
    assert dict(found) == {"1": ("who", "what")} and len(found) == 1 and "2" not in found
    with pytest.raises(KeyError, match="Passage '2' has no pseudo-queries"):
        found["2"]


INPARS = [
    {"doc_id": "a", "query": "first", "log_probs": [-1.0, -2.0], "prompt_text": "..."},
    {"doc_id": "b", "query": "second", "log_probs": [-0.1]},
    {"doc_id": "a", "query": "third", "log_probs": [-0.5, -0.5]},
    {"doc_id": "a", "query": "first", "log_probs": [-9.0]},
    {"doc_id": "c", "query": "fourth", "log_probs": [-0.5]},
]


def test_records_with_one_query(tmp_path):
    path = _write(tmp_path / "inpars.jsonl", *INPARS)
    found = read_pseudo_queries(path)
    assert dict(found) == {"a": ("first", "third"), "b": ("second",), "c": ("fourth",)}
    assert list(found) == ["a", "b", "c"] and len(found) == 3 and repr(found) == "PseudoQueries(3 passages)"
    assert dict(read_pseudo_queries(path, best=2)) == {"a": ("third",), "b": ("second",)}
    assert len(read_pseudo_queries(path, best=3)) == len(read_pseudo_queries(path, best=50)) == 3
    with pytest.raises(
        ValueError, match=r"i.jsonl, line 2: log_probs is None, but a list of numbers is needed to choose the best"
    ):
        read_pseudo_queries(_write(tmp_path / "i.jsonl", INPARS[0], {"doc_id": "a", "query": "x"}), best=1)
    with pytest.raises(ValueError, match="best is 0"):
        read_pseudo_queries(path, best=0)


def test_lines_in_the_order_of_the_collection(tmp_path):
    first, second = tmp_path / "sample000.txt", tmp_path / "sample001.txt-1004000"
    first.write_text("one\n\nthree\n")
    second.write_text("uno\ndue\ntre\n")
    assert dict(read_pseudo_queries([first, second], ["p1", "p2", "p3"])) == {
        "p1": ("one", "uno"), "p2": ("due",), "p3": ("three", "tre"),
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"sample000.txt: the lines of a text file belong .*ids=corpus.ids"):
        read_pseudo_queries(first)
    with pytest.raises(ValueError, match="sample000.txt: ends after line 3, but the collection has more passages"):
        read_pseudo_queries([first, second], ["p1", "p2", "p3", "p4"])
    with pytest.raises(ValueError, match="sample000.txt, line 3: the collection has only 2 passages"):
        read_pseudo_queries([first, second], ["p1", "p2"])


def test_blank_lines_at_the_end_belong_to_passages(tmp_path):
    path = tmp_path / "sample.txt"
    path.write_text("one\n\nthree\n \n")
    assert dict(read_pseudo_queries(path, ["p1", "p2", "p3", "p4"])) == {"p1": ("one",), "p3": ("three",)}
    assert dict(read_pseudo_queries(path, ["p1", "p2", "p3"])) == {"p1": ("one",), "p3": ("three",)}
    with pytest.raises(ValueError, match="sample.txt: ends after line 4, but the collection has more passages"):
        read_pseudo_queries(path, ["p1", "p2", "p3", "p4", "p5"])
    with pytest.raises(ValueError, match="sample.txt, line 3: the collection has only 2 passages"):
        read_pseudo_queries(path, ["p1", "p2"])


def test_columns_of_ids_and_queries_are_refused(tmp_path):
    (tmp_path / "pq.tsv").write_text("who is two\np1\twhat is one\n")
    with pytest.raises(ValueError, match="pq.tsv, line 2: holds a tab.*columns of ids and queries, write JSON Lines"):
        read_pseudo_queries(tmp_path / "pq.tsv", ["p1", "p2"])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_plain_data(tmp_path, protocol):
    path = tmp_path / "pid2query.pkl"
    path.write_bytes(pickle.dumps({"1": ["who", "what"], 2: ("schön",), "3": []}, protocol))
    assert dict(read_pseudo_queries(path)) == {"1": ("who", "what"), "2": ("schön",)}
    zipped = tmp_path / "pid2query.pkl.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    assert dict(read_pseudo_queries(zipped)) == dict(read_pseudo_queries(path))


class Attack:
    """A pickle of it makes a folder when it is loaded."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_that_run_something_are_refused(tmp_path, protocol):
    path, made = tmp_path / "evil.pkl", tmp_path / "made"
    path.write_bytes(pickle.dumps({"1": ["who"], "2": [Attack(str(made))]}, protocol))
    with pytest.raises(ValueError, match=r"the pickle refers to (posix|nt|os)\.mkdir, and loading that could run"):
        read_pseudo_queries(path)
    assert not made.exists()
    for value in (datetime.date(2020, 1, 1), Passage("1"), len, {1}.__class__):
        path.write_bytes(pickle.dumps({"1": value}, protocol))
        with pytest.raises(ValueError, match="evil.pkl: the pickle refers to "):
            read_plain_pickle(path)


def test_opcodes_that_look_elsewhere_are_refused(tmp_path):
    path = tmp_path / "evil.pkl"
    for program, message in [
        (b"(S'mkdir made'\nios\nsystem\n.", "refers to os.system"),  # INST
        (b"cos\nsystem\n(S'mkdir made'\ntR.", "refers to os.system"),  # GLOBAL, REDUCE
        (b"(cos\nsystem\nS'mkdir made'\no.", "refers to os.system"),  # OBJ
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\nmkdir made\x85R.", "refers to os.system"),  # STACK_GLOBAL
        (b"Pid\n.", "refers to an object outside of the pickle"),  # PERSID
        (b"I1\nQ.", "refers to an object outside of the pickle"),  # BINPERSID
        (b"\x80\x02\x82\x01.", "no whole pickle of plain data"),  # EXT1, of no registered extension
        (b"}(S'__class__'\nI1\nd}b.", "no whole pickle of plain data"),  # BUILD on a dict
        (b"\x80\x04}(", "no whole pickle of plain data"),
        (b"", "no whole pickle of plain data"),
    ]:
        path.write_bytes(program)
        with pytest.raises(ValueError, match=message):
            read_plain_pickle(path)


def test_errors_name_the_place(tmp_path):
    with pytest.raises(ValueError, match=r"p.jsonl, line 1: a passage id .*fields found are \['id', 'text'\]"):
        read_pseudo_queries(_write(tmp_path / "p.jsonl", {"id": "1", "text": "x"}))
    with pytest.raises(TypeError, match=r"p.jsonl, line 2: the queries are 'who', but they have to be a list of"):
        read_pseudo_queries(_write(tmp_path / "p.jsonl", {"id": "1", "queries": []}, {"id": "1", "queries": "who"}))
    with pytest.raises(TypeError, match=r"p.jsonl, line 1: the queries are \[None\]"):
        read_pseudo_queries(_write(tmp_path / "p.jsonl", {"id": "1", "query": None}))
    with pytest.raises(ValueError, match="p.jsonl: there is no pseudo-query in it"):
        read_pseudo_queries(_write(tmp_path / "p.jsonl", {"id": "1", "queries": []}))
    with pytest.raises(ValueError, match="No file of pseudo-queries"):
        read_pseudo_queries([])
    (tmp_path / "p.pkl").write_bytes(pickle.dumps([1]))
    with pytest.raises(ValueError, match="p.pkl: holds a list, but a dict"):
        read_pseudo_queries(tmp_path / "p.pkl")
    (tmp_path / "p.pkl").write_bytes(pickle.dumps({"1": {"who"}}, protocol=4))
    with pytest.raises(TypeError, match="p.pkl, passage '1': the queries are"):
        read_pseudo_queries(tmp_path / "p.pkl")
    with pytest.raises(ValueError, match="Pseudo-queries need the columns"):
        PseudoQueries(datasets.Dataset.from_dict({"id": ["1"]}))


def test_a_corpus_takes_them(tmp_path):
    corpus = Corpus.from_passages(
        [Passage("1", "A", pseudo_queries=("old",)), Passage("2", "B", pseudo_queries=("kept",))]
    )
    new = read_pseudo_queries(_write(tmp_path / "p.jsonl", {"id": "1", "query": "new"}))
    assert [passage.pseudo_queries for passage in corpus.with_pseudo_queries(new)] == [("new",), ("kept",)]
    foreign = read_pseudo_queries(_write(tmp_path / "q.jsonl", {"id": "9", "query": "new"}))
    with pytest.raises(ValueError, match="1 of 1 passage ids with pseudo-queries are not in the corpus"):
        corpus.with_pseudo_queries(foreign)
