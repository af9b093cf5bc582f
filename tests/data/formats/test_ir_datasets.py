import builtins
from functools import partial
from types import SimpleNamespace

import pytest

from dgr_trainer import Corpus, Passage, read_qrels, read_queries
from dgr_trainer.cli.main import main

ir_datasets = pytest.importorskip("ir_datasets")


@pytest.fixture
def tiny(tmp_path):
    """A data set of files, registered under an id of its own."""
    (tmp_path / "docs.tsv").write_text("d1\tA fish that swims.\nd2\tA bird that flies.\n")
    (tmp_path / "queries.tsv").write_text("1\twhat swims\n2\twhat flies\n")
    (tmp_path / "qrels").write_text("1 0 d1 2\n2 0 d2 1\n2 0 d1 0\n")
    for name, parts in {"tiny": ("docs_tsv", "queries_tsv", "qrels_trec"), "tiny/docs": ("docs_tsv",)}.items():
        files = {"docs_tsv": "docs.tsv", "queries_tsv": "queries.tsv", "qrels_trec": "qrels"}
        dataset = ir_datasets.create_dataset(**{part: str(tmp_path / files[part]) for part in parts})
        ir_datasets.registry.register(f"dgr-test-{name}", dataset)
    yield "irds:dgr-test-tiny"
    for name in ("tiny", "tiny/docs"):
        del ir_datasets.registry._registered[f"dgr-test-{name}"]


def test_an_id_in_place_of_a_path(tiny):
    fish, bird = Corpus.read(tiny)
    assert (fish, bird) == (Passage("d1", "", "A fish that swims."), Passage("d2", "", "A bird that flies."))
    assert read_queries(tiny)[:] == {"query_id": ["1", "2"], "query": ["what swims", "what flies"]}
    assert read_qrels(tiny) == {"1": {"d1": 2}, "2": {"d2": 1, "d1": 0}}


def test_an_id_on_the_command_line(tiny, tmp_path, capsys):
    data = ("--corpus", tiny, "--queries", tiny)
    assert main(["rank", "--teacher", "bm25", *data, "--output", str(tmp_path / "run")]) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--qrels", tiny, "--metrics", "hits@1"]) == 0
    assert "2 queries" in capsys.readouterr().out
    assert main(["evaluate", tiny, "--qrels", tiny]) == 2
    assert "irds:dgr-test-tiny: ir_datasets has passages, queries and qrels, but no runs" in capsys.readouterr().err


def test_what_it_does_not_have_is_said(tiny):
    with pytest.raises(ValueError, match="irds:dgr-test-tiny/docs has no queries, only docs"):
        read_queries(f"{tiny}/docs")
    with pytest.raises(ValueError, match="ir_datasets knows no data set 'no/such'"):
        read_qrels("irds:no/such")
    with pytest.raises(ValueError, match=r"A split \('test'\) is chosen in a BEIR folder"):
        read_queries(tiny, "test")


def test_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *others):
        if name == "ir_datasets":
            raise ImportError(name)
        return real(name, *others)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "dgr-trainer\[ir-datasets\]"'):
        Corpus.read("irds:beir/scifact")


class _Fake:
    """A data set of ir_datasets whose records are these."""

    def __init__(self, **parts):
        for part in ("docs", "queries", "qrels"):
            setattr(self, f"has_{part}", partial(bool, part in parts))
            setattr(self, f"{part}_iter", partial(iter, parts.get(part, ())))


def _fake(monkeypatch, **parts):
    monkeypatch.setattr(ir_datasets, "load", lambda id: _Fake(**parts))


def test_values_are_checked_as_those_of_files(monkeypatch):
    queries = [SimpleNamespace(query_id="007", text="NA"), SimpleNamespace(query_id=1984, text="null")]
    _fake(monkeypatch, queries=queries)
    assert read_queries("irds:x")[:] == {"query_id": ["007", "1984"], "query": ["NA", "null"]}
    queries.append(SimpleNamespace(query_id="7", text=5))
    with pytest.raises(TypeError, match=r"query 2 of x: the query '7' is 5 \(int\), not a string"):
        read_queries("irds:x")
    for grade, expected in ((1.0, 1), ("2", 2)):
        _fake(monkeypatch, qrels=[SimpleNamespace(query_id=1, doc_id="d", relevance=grade)])
        assert read_qrels("irds:x") == {"1": {"d": expected}}
    for grade in (0.9, None, True):
        _fake(monkeypatch, qrels=[SimpleNamespace(query_id=1, doc_id="d", relevance=grade)])
        with pytest.raises(
            ValueError, match=r"judgement 0 of x: the relevance of 'd' for query '1' is .*not an integer"
        ):
            read_qrels("irds:x")
    _fake(monkeypatch, docs=[SimpleNamespace(doc_id="d", title=None, text="half \ud83d")])
    with pytest.raises(ValueError, match="document 0 of x: the text of passage 'd' is a text that is not Unicode"):
        Corpus.read("irds:x")
