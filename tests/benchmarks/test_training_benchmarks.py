"""The benchmarks of training on the sample corpus and a tiny model: that they run, and that the scores agree."""

import json
import os
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


@pytest.mark.slow
def test_pipeline_then_step_and_scaling(bart, tmp_path):
    model, tokenizer = bart
    model.save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    folder = tmp_path / "out"
    options = ["--student", tmp_path / "start", "--output", folder, "--generation-steps", 2, "--beam-size", 3]
    found, _ = run("beir_pipeline.py", *options, "--candidates-only")
    assert set(found["seconds"]) == {"generation stage", "candidates"}

    found, printed = run("beir_pipeline.py", *options, "--sampling", "dgr_paper", "top")
    assert "generation stage:" not in printed and "candidates:" not in printed  # Read from the folder.
    runs = {
        "BM25 (teacher)",
        "generation only",
        "generation continued",
        "LTRGR",
        "DGR from BM25",
        "DGR from BM25, top",
    }
    assert set(found["all"]["runs"]) == runs and found["all"]["baseline"] == "generation only"
    sizes = {part: found[part]["queries"] for part in ("all", "with training questions", "without") if part in found}
    assert sizes.pop("all") == sum(sizes.values()) > 0
    assert {path.stem for path in (folder / "runs").iterdir()} == {name.replace(" ", "-") for name in runs}
    assert (folder / "tables.md").read_text() in printed

    again, printed = run("beir_pipeline.py", *options, "--sampling", "dgr_paper", "top")
    assert again == found and "evaluating LTRGR:" not in printed

    for other in (["--split", "train"], ["--generation-steps", 3]):
        refused = start("beir_pipeline.py", *options, *other)
        assert refused.returncode == 1 and "Give the same options, or another --output." in refused.stderr

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
