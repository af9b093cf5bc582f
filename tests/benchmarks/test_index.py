import importlib.util
import json
import queue
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "index.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("benchmarks_index", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_every_size_is_measured(script, tmp_path, capsys, monkeypatch):
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is read from /proc")
    monkeypatch.setattr(script, "REPEATS", 1)
    script.write_random(tmp_path / "text.npy", 30_000, seed=0)
    results = queue.SimpleQueue()
    for size, segment_tokens in ((20_000, None), (30_000, 15_000)):
        script.measure(tmp_path / "text.npy", size, tmp_path / str(size), 0, segment_tokens, results)
    assert [script.FMIndex.load(tmp_path / size / "index").num_segments for size in ("20000", "30000")] == [1, 2]
    measured = [results.get(), results.get()]
    assert [one["tokens"] for one in measured] == [20_000, 30_000]
    for one in measured:
        assert set(one["continuations_150_ranges_ms"]) == {"1", "2", "4", "8"}
        # So small a build may fit in memory that the process has had before.
        assert one["peak_build_bytes_per_token"] >= 0
        floats = {name: value for name, value in one.items() if isinstance(value, float)}
        assert all(value > 0 for name, value in floats.items() if name != "peak_build_bytes_per_token")
    script.report(measured)
    out = capsys.readouterr().out.splitlines()
    last = json.loads(out[-1])
    assert last["sizes"] == measured
    assert last["growth_exponent"] == last["growth_exponents"]["build_s"]
    steps = 53 * 15 / 150  # substrings of 8, titles of 15, pseudo-queries of 30 tokens; 15 beams, timed are 150
    for one in measured:
        parts = steps * one["step_ms"] + one["hits_ms"] + one["scoring_ms"]
        assert one["query_ms"] == pytest.approx(parts)


def test_one_size_has_no_growth(script, capsys):
    script.report([{"tokens": 1000, "build_s": 1.0, "continuations_150_ranges_ms": {}}])
    assert '"growth_exponent": null' in capsys.readouterr().out


def test_random_texts_are_passages_of_zipfian_phrases(script, tmp_path):
    script.write_random(tmp_path / "text.npy", 50_000, seed=0)
    text = np.load(tmp_path / "text.npy")
    passages = list(script.passages_of(text))
    assert {len(passage) for passage in passages} == {script.PASSAGE - 1} and len(passages) == 500
    counts = np.sort(np.bincount(text))[::-1]
    assert counts[1:11].sum() > 0.1 * len(text) and np.count_nonzero(counts) > 1000
