"""The benchmark of candidates, with a tiny model: that it runs and says what it measured."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from sample_corpus import PASSAGES

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_the_parts_of_a_search_for_candidates_are_measured(tmp_path, monkeypatch, capsys):
    records = [{"id": passage.id, "title": passage.title, "text": passage.text} for passage in PASSAGES]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    arguments = [
        "--data",
        str(tmp_path / "corpus.jsonl"),
        "--small",
        "--queries",
        "5",
        "--beams",
        "3",
        "--k",
        "4",
        "--batch",
        "2",
    ]
    monkeypatch.setattr(sys, "argv", ["candidates.py", *arguments])
    monkeypatch.syspath_prepend(BENCHMARKS)
    runpy.run_path(str(BENCHMARKS / "candidates.py"), run_name="__main__")
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["queries"] == 5 and result["queries_per_second"] > 0
    assert 0 < result["share_not_model"] < 1 and sum(result["shares"].values()) == pytest.approx(1, abs=0.01)
    parts = ("model", "tokens that may follow", "beams", "words of the query", "weights", "passages", "columns")
    assert all(result["shares"][part] > 0 for part in parts)
