"""The benchmarks of training on the sample corpus and a tiny model: that they run, and that the scores agree."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sample_corpus import QRELS, QUERIES
from training_examples import make_candidates

from dgr_trainer.identifiers import Identifiers

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(name: str, folder: Path, *options: str) -> dict:
    command = [
        sys.executable,
        BENCHMARKS / name,
        "--data",
        folder,
        "--candidates",
        folder,
        "--model",
        "bart-tiny-shape",
    ]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_train_step(bpe_tokenizer, tmp_path):
    make_candidates(Identifiers(bpe_tokenizer)).save_to_disk(tmp_path / "candidates")
    bpe_tokenizer.save_pretrained(tmp_path / "tokenizer")
    lines = (json.dumps({"_id": query_id, "text": query}) for query_id, query in QUERIES.items())
    (tmp_path / "queries.train.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "qrels").mkdir()
    judged = (f"{query_id}\t{p}\t{grade}" for query_id, of_query in QRELS.items() for p, grade in of_query.items())
    (tmp_path / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(judged) + "\n")

    found = run("train_step.py", tmp_path, "--rounds", "1", "--batch", "2")
    assert found["identifiers_compared"] > 20 and found["max_score_difference"] < 1e-4
    assert found["speedup_vs_reference"] > 1 and found["shapes"][0]["reference_cells"] > 960
    assert {"cost_vs_plain_step", "peak_memory_vs_reference", "device"} <= set(found)

    sizes = run("train_scaling.py", tmp_path, "--steps", "1", "--size", "6", "2")
    assert sizes["passages_found"] == 12 and sizes["prefixes"] > 20 and sizes["seconds"] > 0
