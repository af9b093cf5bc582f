"""`dgr report`: its options and its refusals; what the page says is tested with `write_report`."""

import json

import pytest

from dgr_trainer import Rankings


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    state = {"log_history": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    return folder


@pytest.fixture
def runs(tmp_path):
    qrels = {f"q{number}": f"p{number}" for number in range(9)}
    Rankings({query: {id: 1.0, "x": 2.0} for query, id in qrels.items()}).to_trec(tmp_path / "old.trec")
    Rankings({query: {id: 3.0, "x": 2.0} for query, id in qrels.items()}).to_trec(tmp_path / "new.trec")
    lines = "".join(f"{query} 0 {id} 1\n" for query, id in qrels.items())
    (tmp_path / "test.qrels").write_text(lines)
    (tmp_path / "queries.tsv").write_text("".join(f"{query}\twhere is {id}\n" for query, id in qrels.items()))
    return [tmp_path / "old.trec", tmp_path / "new.trec"]


def test_a_report_with_runs(dgr, run_folder, runs, tmp_path):
    output = tmp_path / "report.html"
    given = ["--runs", *runs, "--qrels", tmp_path / "test.qrels", "--queries", tmp_path / "queries.tsv"]
    found = dgr("report", run_folder, *given, "--metrics", "mrr@10", "--title", "Mine", "--output", output)
    assert found.code == 0, found.err
    page = output.read_text()
    assert "new is above old by 50.0 points of MRR@10" in page and "where is p3" in page and "<h1>Mine</h1>" in page
    refused = dgr("report", run_folder, "--output", output)
    assert refused.code == 2 and "--overwrite" in refused.err
    other_way = dgr(
        "report", run_folder, *given, "--baseline", "new", "--result", "old", "--output", output, "--overwrite"
    )
    assert other_way.code == 0 and "old is below new by" in output.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--qrels", "x"], "--qrels is about runs"),
        (["--metrics", "mrr@10"], "--metrics is about runs"),
        (["--runs", "old.trec"], "--runs needs --qrels"),
        (["--runs", "none.trec", "--qrels", "test.qrels"], "--runs: none.trec does not exist"),
        (["--runs", "old.trec", "--qrels", "test.qrels", "--metrics", "best@1"], "no metric 'best@1'"),
        (["--date", "soon"], "not a date"),
        (["--output", "report.html.gz"], "would not be compressed"),
    ],
)
def test_refusals(dgr, run_folder, runs, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    found = dgr("report", run_folder, *options)
    assert found.code == 2 and message in found.err
    assert not (tmp_path / "report.html").exists()


def test_a_folder_that_holds_no_training(dgr, tmp_path):
    found = dgr("report", tmp_path, "--output", tmp_path / "report.html")
    assert found.code == 2 and "holds nothing of a training" in found.err
    assert "DIR: " in dgr("report", tmp_path / "nowhere").err
