"""The script that made the quickstart's checkpoint still runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from dgr_trainer.student.students import load_student_model

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_quickstart_checkpoint.py"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bart", "qwen3"])
def test_the_script_makes_a_checkpoint_and_resumes(tmp_path: Path, kind: str) -> None:
    def run(*steps: str) -> str:
        command = [sys.executable, str(SCRIPT), str(tmp_path), "--kind", kind]
        command += ["--questions-per-passage", "1", "--steps", *steps]
        done = subprocess.run(
            command, env=os.environ | {"TQDM_DISABLE": "1"}, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stderr

    run("1")
    assert "Round 0 is already in" in run("1", "1")
    assert json.loads((tmp_path / "made_with.json").read_text())["options"]["steps"] == [1, 1]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = load_student_model(str(tmp_path))
    assert model.config.model_type == kind
    assert model.config.vocab_size == len(tokenizer) == 4096
