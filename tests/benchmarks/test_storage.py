import importlib.util
import json
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "storage.py"


def test_it_runs(capsys):
    specification = importlib.util.spec_from_file_location("storage_benchmark", BENCHMARK)
    benchmark = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(benchmark)
    benchmark.main(["--passages", "60", "--changed", "3", "--rounds", "2"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["change_bytes"] < found["rewrite_bytes"]
    assert min(found.values()) > 0
