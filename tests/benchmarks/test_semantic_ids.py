"""The benchmarks of semantic ids, small: that they run, go on where they were, and say what they measured."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from dgr_trainer import Corpus

ROOT = Path(__file__).parents[2]


def run(name, capsys, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(ROOT / "benchmarks" / name), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.slow
def test_codes_are_measured(tmp_path, capsys, monkeypatch):
    pytest.importorskip("faiss")
    given = ("--folder", tmp_path, "--vectors", 3000, "--further", 100, "--dimensions", 8, "--size", 16)
    for more in ((), ("--kind", "hierarchical", "--dtype", "float32", "--balanced")):
        result = json.loads(run("semantic_id_codes.py", capsys, monkeypatch, *given, *more).splitlines()[-1])
        assert result["distinct_paths"] + result["collisions"] == 3000 and result["fit_s"] > 0
        assert 0 < result["added_that_share_a_path"] <= 100
        if Path("/proc/self/status").exists():
            assert result["fit_mib"] > 0


@pytest.mark.slow
def test_rows_of_both_kinds_are_compared(tmp_path, capsys, monkeypatch):
    pytest.importorskip("faiss")
    data = ROOT / "examples" / "data"
    made = np.random.default_rng(0).standard_normal((len(Corpus.read(data)), 8)).astype(np.float16)
    np.save(tmp_path / "vectors.npy", made)
    given = (
        "--data", data, "--vectors", tmp_path / "vectors.npy", "--output", tmp_path / "out", "--splits", "test",
        "--size", 4, "--levels", 2, "--generation-epochs", 0.1, "--ranking-epochs", 0.2, "--beam-size", 3,
    )  # fmt: skip
    text = run("semantic_ids.py", capsys, monkeypatch, *given)
    result = json.loads(text.splitlines()[-1])
    rows = {kind: set(of_kind["test"]["runs"]) for kind, of_kind in result["results"].items()}
    both = {"generation only", "+ DGR", "the teacher"}
    assert rows == {"hierarchical": both | {"+ DGR with prefix ranking"}, "atomic": both}
    # Nothing is done twice; a stage that is missing is.
    (tmp_path / "out" / "atomic" / "with-DGR" / "test.trec").unlink()
    again = run("semantic_ids.py", capsys, monkeypatch, *given)
    assert json.loads(again.splitlines()[-1])["results"] == result["results"]
    done = [line.split(":")[0] for line in again.splitlines() if line.endswith(" s")]
    assert done == ["search, atomic, + DGR, test"]
    with pytest.raises(SystemExit, match="was made with beam_size=3"):
        run("semantic_ids.py", capsys, monkeypatch, *given[:-1], 4)
