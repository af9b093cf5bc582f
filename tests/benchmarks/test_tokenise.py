"""The benchmark of tokenising runs, and its sides make the same tokens."""

import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "tokenise.py"


@pytest.mark.slow
def test_all_sides_are_measured(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--passages", "500", "--rounds", "2"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["passages"] == 500 and result["tokens"] > 5000
    assert min(result[f"{side}_ratio"] for side in ("words", "whole_processes", "words_processes")) > 0
