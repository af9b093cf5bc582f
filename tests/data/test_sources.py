"""Datasets in place of paths: `hf:` names with columns, and folders that `datasets` saved."""

import datasets
import pytest

from dgr_trainer import Corpus, Rankings, read_qrels, read_queries
from dgr_trainer.data.hub import HubSource, SavedDatasetSource
from dgr_trainer.data.sources import FileSource, FolderSource, IrDatasetsSource, named_source, resolve
from dgr_trainer.runs.reading import read_run

PASSAGES = {"docno": ["d1", "d2"], "contents": ["A fish.", "A bird."]}
QUESTIONS = {"n": [1, 2], "ask": ["what swims", "what flies"], "gold": [["fish"], ["bird"]]}
JUDGEMENTS = {"topic": [1, 2], "doc": ["d1", "d2"], "grade": [2, 1]}
LISTS = {"topic": ["1", "2"], "docs": [["d2", "d1"], ["d2"]], "values": [[0.5, 1.5], [2.0]]}
HITS = {"qid": ["1", "2", "1"], "docno": ["d2", "d2", "d1"], "score": [0.5, 2.0, 1.5], "rank": [1, 0, 0]}
RUN = {"1": {"d1": 1.5, "d2": 0.5}, "2": {"d2": 2.0}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of Parquet files, as of a data set of the Hub, and folders that `datasets` saved."""
    monkeypatch.chdir(tmp_path)
    for name, of in {
        "passages": PASSAGES,
        "questions": QUESTIONS,
        "judgements": JUDGEMENTS,
        "lists": LISTS,
        "hits": HITS,
    }.items():
        dataset = datasets.Dataset.from_dict(of)
        (tmp_path / "hub" / name).mkdir(parents=True)
        dataset.to_parquet(str(tmp_path / "hub" / name / "test.parquet"))
        dataset.save_to_disk(str(tmp_path / "saved" / name))
        datasets.DatasetDict({"train": dataset.select([0]), "test": dataset}).save_to_disk(
            str(tmp_path / "splits" / name)
        )
    return tmp_path


@pytest.mark.parametrize(
    "at", ["hub/{},split=test", "./hub/{}", "saved/{}", "splits/{},split=test", "hub/{},streaming=yes"]
)
def test_everything_is_read_with_a_mapping(folder, at):
    def name(of, columns):
        return f"hf:{at.format(of)},{columns}"

    assert [passage.text for passage in Corpus.read(name("passages", "id=docno,text=contents"))] == [
        "A fish.",
        "A bird.",
    ]
    queries = read_queries(name("questions", "query_id=n, query=ask ,answers=gold"))
    assert queries[:] == {"query_id": ["1", "2"], "query": QUESTIONS["ask"], "answers": QUESTIONS["gold"]}
    assert read_qrels(name("judgements", "query_id=topic,passage_id=doc,relevance=grade")) == {
        "1": {"d1": 2},
        "2": {"d2": 1},
    }
    run = read_run(name("lists", "query_id=topic,passage_ids=docs,scores=values"))
    assert run.to_run() == RUN and run.name == "lists"
    assert read_run(f"hf:{at.format('hits')}").to_run() == RUN


def test_saved_folders_without_a_prefix(folder):
    queries = datasets.Dataset.from_dict({"query_id": ["1", "2"], "query": QUESTIONS["ask"]})
    datasets.DatasetDict({"train": queries.select([0]), "test": queries}).save_to_disk("q")
    assert len(read_queries("q", "test")) == 2 and len(read_queries("q", "train")) == 1
    datasets.Dataset.from_dict({"query_id": ["1"], "passage_id": ["d1"], "relevance": [1]}).save_to_disk("judged")
    assert read_qrels("judged") == {"1": {"d1": 1}}
    rankings = Rankings(RUN)
    rankings.to_dataset().save_to_disk("run")
    assert read_run("run") == rankings and read_run("run").name == "run" and read_run("saved/hits") == rankings
    for read, message in [
        (lambda: read_queries("q"), "several splits; its splits are train, test. Name one: hf:q,split=train"),
        (lambda: read_queries("q", "dev"), "no split 'dev'; its splits are train, test"),
        (lambda: read_queries("saved/questions"), "has no column .'query'.; its columns are"),
        (lambda: read_run("splits/hits"), "several splits"),
        (lambda: read_qrels("judged", "test"), "there are no splits, only one dataset. Leave split=test out"),
        (lambda: Corpus.read("splits/passages"), "hf:splits/passages: the dataset has several splits"),
    ]:
        with pytest.raises(ValueError, match=message):
            read()
    with pytest.raises(
        IsADirectoryError, match="hub is a folder, but a run is a file, or a folder that datasets saved"
    ):
        read_run("hub")


def test_names_are_parsed():
    assert named_source("a/path") is None
    assert named_source("irds:beir/x") == IrDatasetsSource("beir/x")
    text = "hf:BeIR/scifact,config=corpus, id = _id"
    assert named_source(text) == HubSource(text, "BeIR/scifact", {"config": "corpus", "id": "_id"})


def test_a_source_is_one_of_five(folder):
    (folder / "a.tsv").write_text("1\ta\n")
    assert resolve("irds:x") == IrDatasetsSource("x")
    assert resolve("hf:user/hits") == HubSource("hf:user/hits", "user/hits", {})
    assert resolve("hf:hub/hits") == FileSource(folder / "hub/hits/test.parquet", {}, folder="hits")
    assert resolve(f"hf:{folder}/a.tsv,text=a", ["text"]) == FileSource(folder / "a.tsv", {"text": "a"})
    for saved in ("saved/hits", "splits/hits"):
        assert resolve(saved) == SavedDatasetSource(folder.__class__(saved))
    assert resolve(folder / "hub") == FolderSource(folder / "hub")
    assert resolve(folder / "a.tsv") == FileSource(folder / "a.tsv")
    with pytest.raises(FileNotFoundError, match="no.tsv is not there. Its folder holds: a.tsv, hub/"):
        resolve(folder / "no.tsv")


def test_a_folder_that_was_set_aside_is_found(folder):
    (folder / "hub").rename(folder / ".hub.replaced")
    assert resolve(folder / "hub") == FolderSource(folder / "hub")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:", "the name of the dataset is missing"),
        ("hf:a/b,test", "'test' is no setting. After the name"),
        ("hf:a/b,split=", "'split=' is no setting"),
        ("hf:a/b,split=x,split=y", "split is set twice"),
        (
            "hf:saved/questions,title=ask",
            "there is no setting title here. Settings are config, split, .* query_id, query, answers",
        ),
        ("hf:saved/questions,query=question", r"has no column \['question'\]; its columns are"),
        ("hf:hub/questions,split=dev", "no split 'dev'; its splits are test"),
        ("hf:hub/questions,streaming=maybe", "streaming is 'maybe'. Say yes or no"),
        ("hf:hub/questions,config=no", "the dataset cannot be loaded. ValueError: BuilderConfig 'no' not found"),
        ("hf:saved/questions,split=test", "there are no splits, only one dataset"),
    ],
)
def test_mistakes_in_names(folder, name, message):
    with pytest.raises(ValueError, match=message):
        read_queries(name)


def test_what_is_not_there(folder, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"hf:./hub/no: ./hub/no is not there. Its folder holds: hits/, judg"):
        read_queries("hf:./hub/no")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="hf:nobody/nothing: the dataset cannot be loaded"):
        read_queries("hf:nobody/nothing")


def test_rows_are_named(folder):
    datasets.Dataset.from_dict({"qid": ["1", "1"], "docno": ["a", "a"], "score": [1.0, 2.0]}).save_to_disk("twice")
    with pytest.raises(ValueError, match="twice: row 1: passage 'a' occurs a second time for query '1'"):
        read_run("twice")
    datasets.Dataset.from_dict({"qid": ["1"], "docno": ["a"], "score": ["high"]}).save_to_disk("words")
    with pytest.raises(
        ValueError, match="words: row 0: the score of passage 'a' for query '1' is 'high', not a finite"
    ):
        read_run("words")
    datasets.Dataset.from_dict({"query_id": ["1"], "passage_ids": ["abc"], "scores": [[1.0, 2.0, 3.0]]}).save_to_disk(
        "flat"
    )
    with pytest.raises(TypeError, match="flat: row 0: passage_ids is 'abc', but it has to be a list"):
        read_run("flat")
    datasets.Dataset.from_dict({"query": [3]}).save_to_disk("number")
    with pytest.raises(TypeError, match="row 0 of number: the query '0' is 3 .int., not a string"):
        read_queries("number")


def test_files_with_a_mapping(folder):
    (folder / "a.tsv").write_text("n\task\n1\twhat swims\n")
    (folder / "a.csv").write_text('n,ask\n1,"what, then"\n')
    (folder / "a.jsonl").write_text('{"n": 1, "ask": "what swims"}\n')
    for name in ("a.tsv", "a.csv", "a.jsonl", "hub/questions/test.parquet"):
        queries = read_queries(f"hf:{name},query_id=n,query=ask")
        assert queries["query"][0] == ("what, then" if name == "a.csv" else "what swims")
    (folder / "a.dat").write_text("x")
    with pytest.raises(ValueError, match="hf:a.dat: the name does not tell the format. Name it .jsonl, .csv"):
        read_queries("hf:a.dat")


def test_on_the_command_line_and_in_yaml(folder, capsys):
    from dgr_trainer.cli.main import main

    (folder / "evaluate.yaml").write_text(
        "qrels: hf:hub/judgements,query_id=topic,passage_id=doc,relevance=grade\nmetrics: [mrr]\n"
    )
    run = "hf:saved/lists,query_id=topic,passage_ids=docs,scores=values"
    assert main(["evaluate", run, "saved/hits", "--config", "evaluate.yaml"]) == 0
    assert "1.000" in capsys.readouterr().out
    given = [
        "--corpus",
        "hf:hub/passages,id=docno,text=contents",
        "--queries",
        "hf:hub/questions,query_id=n,query=ask",
    ]
    assert main(["rank", "--teacher", "bm25", *given, "--output", "bm25.trec", "--run", "saved/hits"]) == 0
    assert set(read_run("bm25.trec")) <= {"1", "2"}
    assert main(["evaluate", "saved/hits", "--qrels", "hf:hub/judgements"]) == 2
    assert "The fields found are ['doc', 'grade', 'topic']" in capsys.readouterr().err
