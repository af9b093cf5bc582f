import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "score_cache.py"


@pytest.mark.slow
def test_two_implementations_write_and_read_the_same_scores(tmp_path):
    (tmp_path / "other.py").write_text("from dgr_trainer.teachers.score_cache import ScoreCache as ScoreStore\n")
    arguments = ["--scores", "300", "--batch", "7", "--rounds", "1", "--other", str(tmp_path / "other.py")]
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["scores"] == 300 and result["write_ratio"] > 0 and result["read_ratio"] > 0
    assert "| other |" in done.stdout
