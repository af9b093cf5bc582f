"""The benchmarks of training on the sample corpus and a tiny model: that they run, and that the scores agree."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT / "examples" / "data"


def start(name: str, *options: object) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "benchmarks" / name, "--data", DATA, *map(str, options)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def run(name: str, *options: object) -> tuple[dict, str]:
    """The last line of what a benchmark prints, and all of it."""
    done = start(name, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stdout


PRESET = """
extends: _base
corpora: {openbookqa: null, tldr: null, squad-dev: null, insuranceqa: null, sample: {}}
students: {start: {checkpoint: start}}
generation: {max_steps: 2}
candidates: {k: 100, search: {beam_size: 3}}
tuning: null
"""


@pytest.mark.slow
def test_candidates_then_step_and_scaling(bart, tmp_path):
    model, tokenizer = bart
    model.save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    data = tmp_path / "sample"
    shutil.copytree(DATA, data)
    shutil.copy(data / "qrels" / "test.tsv", data / "qrels" / "dev.tsv")
    (tmp_path / "tiny.yaml").write_text(PRESET)
    options = ["--data", tmp_path, "--models", tmp_path, "--output", tmp_path / "out", "--seeds", "0"]
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "reproduce" / "run.py", *map(str, options), "--preset",
         str(tmp_path / "tiny.yaml"), "--rows", "DGR", "--candidates-only"],
        capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = (tmp_path / "out" / "stages").glob("candidates-*")
    assert done.stdout.splitlines()[-1].endswith(str(folder))
    assert not list((tmp_path / "out" / "stages").glob("ranking-*"))

    options = ["--candidates", folder, "--model", "bart-tiny-shape"]
    found, _ = run("train_step.py", *options, "--rounds", "1", "--batch", "2")
    assert found["identifiers_compared"] > 10 and found["max_score_difference"] < 1e-4
    assert found["speedup_vs_reference"] > 1 and found["shapes"][0]["reference_cells"] > 960
    assert {"cost_vs_plain_step", "peak_memory_vs_reference", "device"} <= set(found)

    decoder_only = ["--candidates", folder, "--model", "qwen3-tiny-shape", "--prompt-tokens", "16"]
    found, _ = run("train_step.py", *decoder_only, "--rounds", "1", "--batch", "2")
    assert found["identifiers_compared"] > 10 and found["max_score_difference"] < 1e-4
    assert found["speedup_vs_reference"] > 1

    sizes, _ = run("train_scaling.py", *options, "--steps", "1", "--size", "6", "2")
    assert sizes["passages_found"] == 12 and sizes["prefixes"] > 10 and sizes["seconds"] > 0
