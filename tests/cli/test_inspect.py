"""`dgr inspect` and the tables of the terminal."""

import json
from dataclasses import asdict

import pytest

from dgr_trainer import Rankings, evaluate_run, rank_list_statistics, read_qrels
from dgr_trainer.cli.tables import fitted
from dgr_trainer.evaluation.agreement import agreement

LONG = "cross-encoder-ms-marco-MiniLM-L6-v2-epoch3-candidates200"


@pytest.fixture
def runs(tmp_path):
    first = Rankings({"q1": {"a": 3.0, "b": 2.0, "c": 1.0}, "q2": {"b": 2.0, "a": 2.0}, "q3": {}})
    second = Rankings({"q1": {"a": 3.0, "c": 2.0, "b": 1.0}, "q2": {"c": 1.0}})
    first.to_jsonl(tmp_path / "first.jsonl")
    second.to_trec(tmp_path / f"{LONG}.trec")
    (tmp_path / "a.qrels").write_text("q1 0 a 1\nq1 0 b 2\nq2 0 c 1\n")
    return {"first": first, LONG: second}


@pytest.fixture
def paths(runs, tmp_path):
    return tmp_path / "first.jsonl", tmp_path / f"{LONG}.trec"


def test_json_is_what_the_library_finds(dgr, runs, paths, tmp_path):
    qrels = read_qrels(tmp_path / "a.qrels")
    given = (*paths, "--qrels", tmp_path / "a.qrels", "--metrics", "mrr", "hits@1", "-k", 2, "--json")
    found = json.loads(dgr("inspect", *given).out)
    assert found["agreement"] == agreement(runs, 2).to_dict()
    for name, run in runs.items():
        assert found["lists"][name] == json.loads(json.dumps(asdict(rank_list_statistics(run, qrels))))
        means = {metric: value["mean"] for metric, value in found["quality"]["runs"][name].items()}
        assert means == evaluate_run(run, qrels, ["mrr", "hits@1"])
    strict = json.loads(dgr("inspect", *given, "--relevance_level", 2).out)
    assert strict["lists"]["first"]["ranks"]["2-5"] == 1 and strict["lists"]["first"]["judged"] == 1
    alone = json.loads(dgr("inspect", paths[0], "--json").out)
    assert set(alone) == {"lists"} and alone["lists"]["first"]["queries"] == 3


def test_tables(dgr, paths, tmp_path, monkeypatch):
    (tmp_path / "queries.tsv").write_text("q1\tone\nq2\ttwo\nq4\tfour\n")
    monkeypatch.setenv("COLUMNS", "200")
    given = (*paths, "--qrels", tmp_path / "a.qrels", "--queries", tmp_path / "queries.tsv")
    lines = dgr("inspect", *given).out.splitlines()
    assert lines[:3] == [
        f"rank lists                  first  {LONG}",
        f"queries                         3  {'3':>56}",
        f"  with a rank list              2  {'2':>56}",
    ]
    assert f"{'  relevant one at 1':<26}  50.0%  {'100.0%':>56}" in lines
    assert f"{'  relevant one not ranked':<26}  50.0%  {'0.0%':>56}" in lines
    # In q1 a and b swap no place, c passes b: tau 1/3. In q2 nothing is shared, so there is no tau.
    assert lines[-4].startswith("agreement ") and lines[-3].split() == ["first,", LONG, "0.333", "0.500", "2"]
    monkeypatch.setenv("COLUMNS", "80")
    narrow = dgr("inspect", *given).out.splitlines()
    assert max(map(len, narrow)) <= 80 and narrow[-2:] == ["[1] first", f"[2] {LONG}"]
    assert narrow[0].split() == ["rank", "lists", "[1]", "[2]"]


def test_names_are_kept_where_there_is_no_terminal(dgr, paths, tmp_path, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("os.get_terminal_size", lambda *_: (_ for _ in ()).throw(OSError()))
    assert LONG in dgr("inspect", *paths).out.splitlines()[0]


def test_a_comparison_fits_a_terminal(dgr, paths, tmp_path, monkeypatch):
    given = (*paths, "--qrels", tmp_path / "a.qrels", "--metrics", "ndcg@10", "hits@100")
    monkeypatch.setenv("COLUMNS", "80")
    lines = dgr("evaluate", *given).out.splitlines()
    assert max(map(len, lines)) <= 80 and lines[-1] == f"[2] {LONG}"
    assert "against [1]" in lines[-4]
    monkeypatch.setenv("COLUMNS", "140")
    assert LONG in dgr("evaluate", *given).out.splitlines()[2]


def test_numbers_are_no_help_to_short_names(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    assert fitted(["a", "b"], lambda labels: [labels["a"] + "x" * 30]) == ["a" + "x" * 30]
    assert fitted(["long", "b"], lambda labels: [labels["long"] + "x" * 17])[0] == "[1]" + "x" * 17


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-k", 0), "-k 0 is a number of passages: at least 1"),
        (("--digits", 20), "--digits 20: give 0 to 12"),
        (("--metrics", "mrr"), "--metrics measures runs against qrels. Give --qrels"),
        (("--relevance_level", 2), "--relevance_level measures runs against qrels"),
        (("--split", "test"), "--split test selects from a BEIR folder"),
    ],
)
def test_mistakes(dgr, paths, arguments, message):
    found = dgr("inspect", *paths, *arguments)
    assert found.code == 2 and message in found.err


def test_runs_of_other_queries(dgr, paths, tmp_path):
    Rankings({"x": {"a": 1.0}}).to_trec(tmp_path / "other.trec")
    found = dgr("inspect", paths[0], tmp_path / "other.trec")
    assert found.code == 2 and "first and other have no query in common" in found.err
