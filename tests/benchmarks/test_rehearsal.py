"""The rehearsal of a large corpus, on a thousand passages: every stage runs once, killed ones go on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_stage_is_run_once(tmp_path):
    if not hasattr(os, "posix_fadvise") or not Path("/proc/self/status").exists():
        pytest.skip("needs posix_fadvise and /proc")
    command = [
        sys.executable, str(ROOT / "benchmarks" / "rehearsal.py"), "--data", str(ROOT / "examples/data/corpus.jsonl"),
        "--output", str(tmp_path / "out"), "--passages", "1000", "--tokens-per-passage", "60", "--segment-tokens",
        "20000", "--small", "--candidates", "20", "--pairs", "50", "--searches", "1", "--beam-size", "3", "--threads",
        "1", "--shortest-kill", "0",
    ]  # fmt: skip
    first = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert first.returncode == 0, first.stderr[-3000:]
    results = json.loads(first.stdout.splitlines()[-1])
    assert results == json.loads((tmp_path / "out" / "results.json").read_text())
    for part in ("tenth", "whole"):
        assert set(results[part]) == {
            "write", "read", "index", "open", "search", "candidates", "pairs", "change", "compact"
        }  # fmt: skip
    whole = results["whole"]
    assert whole["index"]["segments"] >= 3 and whole["index"]["tokens"] == pytest.approx(60_000, rel=0.1)
    assert whole["change"]["segments"] == whole["index"]["segments"] + 1
    assert whole["compact"]["segments"] < whole["change"]["segments"]
    assert not (tmp_path / "out" / "tenth").exists()
    killed = [stage for stage in whole if "killed" in whole[stage]]
    assert killed and set(killed) <= {"read", "index", "candidates", "compact"}
    # Nothing is measured again, and other sizes are refused.
    again = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(again.stdout) == results
    command[command.index("60")] = "70"
    other = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert other.returncode == 1 and "Give another --output" in other.stderr
