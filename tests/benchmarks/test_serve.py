"""The benchmark of the server, with a tiny retriever: that it runs, finds no fault, and says what it measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sample_corpus import PASSAGES
from tiny_models import bpe_tokenizer, make_bart

from dgr_trainer import Corpus, FMIndex, GenerativeRetriever, Identifiers, SearchSettings

for package in ("fastapi", "uvicorn", "prometheus_client", "httpx"):
    pytest.importorskip(package, reason="the server or its clients")


@pytest.mark.slow
def test_a_server_is_loaded_and_compared(tmp_path):
    identifiers, corpus = Identifiers(bpe_tokenizer()), Corpus.from_passages(PASSAGES)
    index = FMIndex.from_corpus(corpus, identifiers, progress=False)
    settings = SearchSettings(beam_size=2, substring_length=4)
    retriever = GenerativeRetriever(make_bart(bpe_tokenizer()), identifiers, index, corpus=corpus, settings=settings)
    retriever.save_pretrained(tmp_path / "retriever")
    script = Path(__file__).parents[2] / "benchmarks" / "serve.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path / "retriever", "--seconds", "0.5", "--minutes", "0.08", "--clients", "4"]
        + ["--threads", "1"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert [level["clients"] for level in result["throughput"]] == [1, 2, 4]
    assert all(level["queries_per_second"] > 0 for level in result["throughput"])
    assert result["largest_queries_per_second"] == max(one["queries_per_second"] for one in result["throughput"])
    assert result["latency_at_half"]["answered"] == result["latency_at_half"]["asked"] > 0
    soak = result["soak"]
    assert soak["errors_500"] == soak["different"] == soak["unexpected_statuses"] == 0 and soak["compared"] > 0
    assert {"200", "400", "404", "422"} <= set(soak["statuses"])
    if soak["memory_growth"] <= 0.1:
        assert done.returncode == 0
