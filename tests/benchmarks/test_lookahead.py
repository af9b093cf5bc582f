"""The benchmark of look-ahead, with a tiny model: that it runs and says what it measured."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from tiny_models import make_bart

from dgr_trainer import Corpus, FMIndex, GenerativeRetriever, Identifiers

ROOT = Path(__file__).parents[2]


def run(capsys, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["lookahead.py", *map(str, arguments)])
    runpy.run_path(str(ROOT / "benchmarks" / "lookahead.py"), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.slow
def test_look_ahead_is_compared_with_more_beams(tmp_path, bpe_tokenizer, capsys, monkeypatch):
    data = ROOT / "examples" / "data"
    corpus, identifiers = Corpus.read(data), Identifiers(bpe_tokenizer)
    index = FMIndex.from_corpus(corpus, identifiers, progress=False)
    folder = tmp_path / "retriever"
    GenerativeRetriever(make_bart(bpe_tokenizer), identifiers, index, corpus=corpus).save_pretrained(folder)
    given = (folder, "--data", data, "--split", "test", "--queries", 4, "--beam-size", 2, "--more-beams", 3, "--k", 5)
    text = run(capsys, monkeypatch, *given, "--lookahead", 1, 9)
    result = json.loads(text.splitlines()[-1])
    names = ["2 beams", "2 beams, look-ahead 1", "2 beams, look-ahead 9", "3 beams"]
    assert list(result["runs"]) == list(result["cpu_seconds"]) == names and result["queries"] == 4
    assert all(f"| {name}" in text for name in names) and all(value > 0 for value in result["cpu_seconds"].values())
    with pytest.raises(SystemExit):
        run(capsys, monkeypatch, folder)
