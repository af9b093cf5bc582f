"""The benchmark of searches among some passages, with a tiny model: that it runs and says what it measured."""

import json
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_searches_among_some_passages_are_measured(monkeypatch, capsys):
    arguments = ["--small", "--passages", "2000", "--queries", "2", "--rounds", "1", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["among.py", *arguments])
    monkeypatch.syspath_prepend(BENCHMARKS)
    runpy.run_path(str(BENCHMARKS / "among.py"), run_name="__main__")
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["way"] for row in result["among"]] == ["indexed"] * 3 + ["hidden"]
    assert all(row["ratio"] > 0 for row in result["among"]) and result["without_own_texts"] > 0
