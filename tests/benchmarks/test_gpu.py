"""The script for a GPU, tiny and on a CPU: every piece runs and says what it measured, and only once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def run(*options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, SCRIPT, *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)


def numbers(values):
    for value in values.values():
        yield from numbers(value) if isinstance(value, dict) else [value]


@pytest.mark.slow
def test_every_piece_runs_once(tmp_path):
    listed = run("--list").stdout.split()
    options = ["--output", tmp_path, "--small", "--device", "cpu", "--rounds", 1]
    done = run(*options)
    logs = {log.name: log.read_text()[-1500:] for log in tmp_path.glob("*.log")}
    assert done.returncode == 0, (done.stdout, done.stderr, logs)
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == listed
    for piece, result in results.items():
        assert result["facts"]["device"] == "cpu" and result["found"], piece
    train = results["train-bart"]["found"]["batch 2"]
    assert train["ours"]["tflop"] > 0 and train["reference_over_ours"] > 0 and train["plain_over_ours"] > 0
    assert results["constraint"]["found"]["sorted"]["ms_per_step"] > 0
    assert results["tests"]["found"]["returncode"] == 0
    assert {"free", "host", "device"} <= results["decode"]["found"]["2 queries, 3 beams"].keys()
    assert all(value >= 0 for value in numbers(results["teacher"]["found"]))
    table = (tmp_path / "table.md").read_text()
    assert all(f"| **{piece}** | cpu" in table for piece in listed) and table in done.stdout

    (tmp_path / "teacher.json").unlink()
    again = run(*options)
    assert "teacher: finished, " in again.stdout
    assert all(f"{piece}: finished before" in again.stdout for piece in listed if piece != "teacher")


@pytest.mark.slow
def test_a_piece_that_fails_is_told_and_tried_again(tmp_path):
    options = ["--output", tmp_path, "--small", "--device", "cpu", "--pieces", "teacher", "constraint"]
    (tmp_path / "work" / "tokenizer").mkdir(parents=True)  # No tokenizer is in it.
    failed = run(*options, "--minutes", 5)
    assert failed.returncode == 1 and "Not finished: teacher, constraint." in failed.stderr
    assert not list(tmp_path.glob("*.json")) or json.loads((tmp_path / "results.json").read_text()) == {}
    (tmp_path / "work" / "tokenizer").rmdir()
    assert "teacher: no time left" in run(*options, "--minutes", 0).stdout
    assert run(*options[:-1]).returncode == 0
