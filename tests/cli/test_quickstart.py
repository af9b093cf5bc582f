"""What `dgr quickstart` hands to the quickstart, and what it shows of the result."""

import json
import sys
from pathlib import Path

import pytest

from dgr_trainer import Rankings
from dgr_trainer.evaluation.comparison import compare_runs
from dgr_trainer.quickstart import NAME, pipeline


@pytest.fixture
def calls(monkeypatch):
    """Calls of `run_quickstart`, which is not run: its own tests do that."""
    found = []

    def run_quickstart(output_dir, settings=None, *, report):
        found.append((output_dir, settings))
        report("[   0 s] Corpus")
        sys.stdout.write("{'loss': 1.0}\n")  # As trainers do.
        runs = {"BM25 (teacher)": Rankings({"q": {"p": 1.0}}), "DGR": Rankings({"q": {"x": 1.0}})}
        comparison = compare_runs(runs, {"q": {"p": 1}}, ["hits@1"])
        return pipeline.QuickstartResult(comparison, output_dir / "retriever", 61.4)

    monkeypatch.setattr(pipeline, "run_quickstart", run_quickstart)
    return found


def test_settings_and_results(dgr, calls, tmp_path):
    found = dgr("quickstart", "--output", tmp_path / "out", "--seed", 3, "--candidates", 20, "--made_up", 0)
    assert found.code == 0, found.err
    assert calls == [(tmp_path / "out", pipeline.QuickstartSettings(seed=3, candidates=20, made_up=0))]
    assert "Corpus" in found.err and "loss" in found.err
    assert "loss" not in found.out and "after 61 seconds" in found.out
    assert "hits@1  BM25 (teacher)  1.000" in found.out and "        DGR             0.000" in found.out
    assert f'dgr search {tmp_path / "out" / "retriever"} "{pipeline.FIRST_SEARCH}"' in found.out


def test_it_needs_no_argument(dgr, calls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = dgr("quickstart")
    assert found.code == 0, found.err
    assert calls == [(Path("dgr-quickstart"), pipeline.QuickstartSettings())]


def test_only_an_earlier_quickstart_is_replaced(dgr, calls, tmp_path):
    (tmp_path / "training").mkdir()
    for record in (None, "{}", '{"name": "Rounds of generation"}'):  # Names that other programs give their files.
        if record is not None:
            (tmp_path / "dgr_run.json").write_text(record)
        refused = dgr("quickstart", "--output", tmp_path)
        assert refused.code == 2 and "training/) than an earlier quickstart" in refused.err and not calls
    (tmp_path / "dgr_run.json").write_text(json.dumps({"name": NAME}))
    assert dgr("quickstart", "--output", tmp_path).code == 0
    (tmp_path / "results.md").touch()
    assert dgr("quickstart", "--output", tmp_path).code == 0
    (tmp_path / "thesis.tex").touch()
    refused = dgr("quickstart", "--output", tmp_path)
    assert refused.code == 2 and "holds other files (dgr_run.json, results.md, thesis.tex, training/)" in refused.err
    assert len(calls) == 2
