import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "pairs.py"


@pytest.mark.slow
def test_the_pairs_of_both_ways_are_compared():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--queries", "60", "--rounds", "1"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["queries"] == 60 and result["pairs"] > 60 and result["processes_ratio"] > 0
