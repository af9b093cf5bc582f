"""The script that made the quickstart's checkpoint still runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_quickstart_checkpoint.py"


@pytest.mark.slow
def test_the_script_makes_a_checkpoint_and_resumes(tmp_path: Path) -> None:
    def run(*steps: str) -> str:
        command = [sys.executable, str(SCRIPT), str(tmp_path), "--questions-per-passage", "1", "--steps", *steps]
        done = subprocess.run(
            command, env=os.environ | {"TQDM_DISABLE": "1"}, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stderr

    run("1")
    assert "Round 0 is already in" in run("1", "1")
    assert json.loads((tmp_path / "made_with.json").read_text())["options"]["steps"] == [1, 1]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert model.config.vocab_size == len(tokenizer) == 4096
