"""`dgr evaluate`: its formats, its files, and answers instead of qrels."""

import gzip
import json

import pyarrow as pa
import pytest

from dgr_trainer import Rankings
from dgr_trainer.cli.sources import read_run, write_run


@pytest.fixture
def answered(tmp_path):
    (tmp_path / "psgs_w100.tsv").write_text('id\ttext\ttitle\n1\t"It is ""Paris""."\tFrance\n2\tLyon\tParis\n')
    (tmp_path / "nq.qa.csv").write_text("which city\t['Paris']\nwhich other\t['Rome']\n")
    (tmp_path / "a.trec").write_text("0 Q0 2 1 2.0 a\n0 Q0 1 2 1.0 a\n1 Q0 1 1 1.0 a\n")
    (tmp_path / "b.trec.gz").write_bytes(gzip.compress(b"0 Q0 1 1 2.0 b\n"))
    return tmp_path


def test_answers_in_place_of_qrels(dgr, answered):
    given = ("--answers", answered / "nq.qa.csv", "--corpus", answered / "psgs_w100.tsv", "--json")
    found = json.loads(dgr("evaluate", answered / "a.trec", answered / "b.trec.gz", *given).out)["runs"]
    assert {name: {metric: value["mean"] for metric, value in of.items()} for name, of in found.items()} == {
        "a": {"hits@1": 0.0, "hits@5": 0.5, "hits@20": 0.5, "hits@100": 0.5},
        "b": {"hits@1": 0.5, "hits@5": 0.5, "hits@20": 0.5, "hits@100": 0.5},
    }
    titled = json.loads(dgr("evaluate", answered / "a.trec", *given, "--with_title", "--metrics", "hits@1", "mrr").out)
    assert {metric: value["mean"] for metric, value in titled["runs"]["a"].items()} == {"hits@1": 0.5, "mrr": 0.5}


def test_what_is_relevant_has_to_be_known(dgr, files, answered):
    run, answers, corpus = answered / "a.trec", answered / "nq.qa.csv", answered / "psgs_w100.tsv"
    for arguments, message in [
        ((), "Give either --qrels, or --answers with --corpus"),
        (("--qrels", files / "qrels.txt", "--answers", answers, "--corpus", corpus), "Give either --qrels, or"),
        (("--answers", answers), "--answers and --corpus go together"),
        (("--qrels", files / "qrels.txt", "--with_title"), "--answers and --corpus go together"),
        (
            ("--answers", answers, "--corpus", corpus, "--metrics", "ndcg@10"),
            "ndcg@10 cannot be computed from answers",
        ),
        (("--answers", files / "queries.tsv", "--corpus", corpus), "The questions have no column 'answers'"),
        (("--answers", answers, "--corpus", files / "corpus.jsonl"), "ranked passages are not in the corpus"),
    ]:
        found = dgr("evaluate", run, *arguments)
        assert found.code == 2 and message in found.err, found.err


def test_formats_and_files(dgr, files, tmp_path):
    given = (files / "best.trec", "--qrels", files / "qrels.txt", "--metrics", "hits@1", "mrr@10")
    assert dgr("evaluate", *given, "--latex").out.startswith("\\begin{tabular}{lrr}\n\\toprule\nrun & hits@1 & mrr@10")
    found = dgr("evaluate", *given, "--latex", "--json")
    assert found.code == 2 and "--json and --latex are formats of the same table" in found.err
    values = tmp_path / "values.tsv"
    assert dgr("evaluate", *given, "--per_query", values).code == 0
    lines = [line.split("\t") for line in values.read_text().splitlines()]
    assert lines[0] == ["run", "query_id", "hits@1", "mrr@10"]
    assert {(line[0], *line[2:]) for line in lines[1:]} == {("best", "1.0", "1.0")} and len(lines) > 5
    found = dgr("evaluate", *given, "--per_query", values)
    assert found.code == 2 and "exists already. Add --overwrite" in found.err
    assert dgr("evaluate", *given, "--per_query", values, "--overwrite").code == 0


@pytest.mark.parametrize("name", ["run.parquet", "run.arrow", "run.jsonl"])
def test_runs_as_tables(tmp_path, name):
    run = Rankings({"q": {"a": 2.0, "b": 1.0}, "r": {}})
    write_run(run, tmp_path / name)
    assert read_run("RUN", str(tmp_path / name)) == run
    if name == "run.jsonl":
        packed = pa.compress((tmp_path / name).read_bytes(), codec="zstd", asbytes=True)
        (tmp_path / "run.jsonl.zst").write_bytes(packed)
        assert read_run("RUN", str(tmp_path / "run.jsonl.zst")) == run


def test_what_is_written_is_compressed_as_its_name_says(dgr, files, tmp_path):
    given = ("--corpus", files / "corpus.jsonl", "--queries", files / "queries.tsv", "--teacher", "bm25")
    for name in ("run.trec", "run.trec.gz", "run.jsonl.zst"):
        assert dgr("rank", *given, "--output", tmp_path / name).code == 0
        assert read_run("RUN", str(tmp_path / name)) == read_run("RUN", str(tmp_path / "run.trec"))
    assert gzip.decompress((tmp_path / "run.trec.gz").read_bytes()) == (tmp_path / "run.trec").read_bytes()
    values = tmp_path / "values.tsv.gz"
    of = ("--qrels", files / "qrels.txt", "--metrics", "mrr")
    assert dgr("evaluate", tmp_path / "run.trec", *of, "--per_query", values).code == 0
    assert gzip.decompress(values.read_bytes()).startswith(b"run\tquery_id\tmrr\n")
    found = dgr("rank", *given, "--output", tmp_path / "run.parquet.gz")
    assert found.code == 2 and "parquet.gz would not be compressed as its name says. Leave .gz out" in found.err
    found = dgr(
        "pseudo_queries", files / "corpus.jsonl", "--model", files / "bart", "--output", tmp_path / "q.jsonl.gz"
    )
    assert found.code == 2 and "q.jsonl.gz would not be compressed as its name says" in found.err
    assert dgr("rank", *given, "--output", tmp_path / "run.parquet").code == 0
    assert dgr("evaluate", tmp_path / "run.parquet", "--qrels", files / "qrels.txt").code == 0


def test_a_run_that_is_cut_off_is_said_to_be(dgr, files, tmp_path):
    whole = gzip.compress((files / "best.trec").read_bytes())
    (tmp_path / "best.trec.gz").write_bytes(whole[:-5])
    found = dgr("evaluate", tmp_path / "best.trec.gz", "--qrels", files / "qrels.txt")
    assert found.code == 2 and "best.trec.gz: the gzip file is cut off after line" in found.err
