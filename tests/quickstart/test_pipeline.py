"""The quickstart, end to end, on a few of its questions."""

import builtins
import json

import pytest

from dgr_trainer import GenerativeRetriever, Rankings, evaluate_run, read_qrels, write_report
from dgr_trainer.quickstart import NAME, pipeline
from dgr_trainer.quickstart.pipeline import METRICS, QuickstartSettings, run_quickstart
from dgr_trainer.quickstart.plots import plot_training
from dgr_trainer.quickstart.questions import load_questions

TINY = QuickstartSettings(generation_steps=2, made_up=4, candidates=6, distillation_epochs=10)


@pytest.fixture
def few_questions(monkeypatch):
    def few(split, corpus):
        queries, qrels = load_questions(split, corpus)
        # So many are asked, and so often trained, that the rank of some passage changes.
        queries = queries.select(range(6 if split == "train" else 30))
        return queries, {query_id: qrels[query_id] for query_id in queries["query_id"]}

    monkeypatch.setattr(pipeline, "load_questions", few)


@pytest.mark.slow
def test_quickstart(few_questions, tmp_path):
    lines = []
    result = run_quickstart(tmp_path / "out", TINY, report=lines.append)
    stages = ("Corpus", "Index", "Generation", "Candidates", "Teacher", "Distillation", "Evaluation")
    assert [line.split("] ")[1].split(":")[0].split(" ")[0] for line in lines if line.startswith("[")] == list(stages)

    qrels = read_qrels(tmp_path / "out" / "qrels.test.tsv")
    assert len(qrels) == 30
    runs = {path.stem: Rankings.from_trec(path) for path in (tmp_path / "out" / "runs").iterdir()}
    assert set(runs) == {"bm25", "generation-only", "ltrgr", "dgr"}
    # The table says what the runs say.
    table = result.comparison.runs["DGR"]
    assert {name: value.mean for name, value in table.items()} == pytest.approx(
        evaluate_run(runs["dgr"], qrels, METRICS)
    )
    assert "DGR" in (tmp_path / "out" / "results.md").read_text()

    # The report has the verdict, the queries with their identifiers, and the three trainings.
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "The quickstart of dgr-trainer" in page and ">DGR " in page
    assert 'class="identifier"' in page and "training of LTRGR" in page and "What the rank lists taught" in page
    record = json.loads((tmp_path / "out" / "dgr_run.json").read_text())
    assert [stage["name"].split(" on ")[0] for stage in record["stages"]] == [*stages, "Saving"]
    again = write_report(tmp_path / "out", tmp_path / "again.html")
    assert again.read_text(encoding="utf-8") == page

    retriever = GenerativeRetriever.from_pretrained(result.retriever)
    (hits,) = retriever.search(pipeline.FIRST_SEARCH, k=3)
    assert len(hits) == 3
    assert all(hit.passage_id in retriever.corpus for hit in hits)
    assert sum(one.score for one in hits[0].identifiers) == pytest.approx(hits[0].score, rel=1e-4)


def test_a_missing_teacher_is_found_at_once(monkeypatch, tmp_path):
    original = builtins.__import__

    def refuse(name, *arguments, **others):
        if name.split(".")[0] in ("bm25s", "Stemmer"):
            raise ImportError(name)
        return original(name, *arguments, **others)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r'pip install "dgr-trainer\[bm25\]"'):
        run_quickstart(tmp_path / "out", TINY)
    assert not (tmp_path / "out").exists()


def test_an_interrupted_quickstart_has_its_record(monkeypatch, tmp_path):
    def interrupt(*arguments, **others):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.FMIndex, "from_corpus", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_quickstart(tmp_path / "out", TINY)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dgr_run.json"]
    assert json.loads((tmp_path / "out" / "dgr_run.json").read_text())["name"] == NAME


def test_checkpoint_is_small_and_fits_its_tokenizer():
    files = {path.name: path.stat().st_size for path in pipeline.CHECKPOINT.iterdir()}
    assert sum(files.values()) <= 10_000_000
    assert {"model.safetensors", "config.json", "tokenizer.json", "made_with.json"} <= set(files)


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    history = [{"step": step, "loss_ranking": 3.0 / step, "rank_accuracy": 1 - 0.5 / step} for step in (1, 2, 3)]
    assert plot_training([*history, {"train_runtime": 1.0}], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
