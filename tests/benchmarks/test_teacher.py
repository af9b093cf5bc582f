import importlib.util
from pathlib import Path

import pytest
from teachers.reranker_models import save_cross_encoder, save_encoder

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "teacher.py"


@pytest.fixture
def benchmark():
    pytest.importorskip("sentence_transformers", reason="what it is compared with")
    specification = importlib.util.spec_from_file_location("benchmark_teacher", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_both_sides_encode_the_same_passages(benchmark, tmp_path, capsys):
    model = save_encoder(tmp_path / "model")
    arguments = ["--model", str(model), "--bi_encoder", "--passages", "30", "--rounds", "1", "--max_length", "100"]
    result = benchmark.main([*arguments, "--cpu_time"])
    assert result["passages"] == 30 and result["largest_difference"] < 1e-4
    assert result["speedup_vs_sentence_transformers"] > 0
    assert "| SentenceTransformer.encode |" in capsys.readouterr().out


def test_both_sides_score_the_same_pairs(benchmark, tmp_path, capsys):
    model = save_cross_encoder(tmp_path / "model", labels=2)
    arguments = ["--model", str(model), "--pairs", "40", "--rounds", "1", "--max_length", "100", "--cached"]
    result = benchmark.main(arguments)
    assert result["pairs"] == 40 and result["largest_difference"] < 1e-3
    assert result["speedup_vs_sentence_transformers"] > 0
    printed = capsys.readouterr().out
    assert "| CrossEncoder.predict |" in printed and printed.splitlines()[-1].startswith('{"speedup_vs')
