"""The benchmark of decoding, on a small corpus and a tiny model: that it runs and says what it measured."""

import gzip
import json
import runpy
import sys
from pathlib import Path

import pytest
from sample_corpus import PASSAGES

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(name, monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(BENCHMARKS / name), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.slow
def test_dictionaries_become_a_corpus_and_a_measurement(tmp_path, monkeypatch, capsys):
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    text, lines = b"", ["00-database-info\tA\tB"]
    for passage in PASSAGES:
        entry = f"{passage.text} {passage.text}\n".encode()
        number = [
            f"{digits[value // 4096]}{digits[value // 64 % 64]}{digits[value % 64]}"
            for value in (len(text), len(entry))
        ]
        lines += ["\t".join([passage.title, *number]), "\t".join([f"{passage.title} again", *number])]
        text += entry
    (tmp_path / "sample.index").write_text("\n".join(lines))
    (tmp_path / "sample.dict.dz").write_bytes(gzip.compress(text))
    corpus = tmp_path / "corpus.jsonl"
    assert run("dictionaries.py", monkeypatch, capsys, tmp_path, corpus).startswith(f"{len(PASSAGES)} passages")
    first = json.loads(corpus.read_text().splitlines()[0])
    assert first["title"] == "Mount Everest" and first["text"] == f"{PASSAGES[0].text} {PASSAGES[0].text}"

    printed = run(
        "decode.py", monkeypatch, capsys, "--data", corpus, "--tokens", 3000, "--repeat", "--small", "--threads", 1,
        "--queries", 2, "--shapes", 1, "--rounds", 1, "--beam-size", 3,
    )  # fmt: skip
    result = json.loads(printed.splitlines()[-1])
    assert result["decoding"][0]["beams"] == 15 and result["decoding"][0]["steps"] == 10
    assert result["constraint_overhead"] == result["decoding"][0]["ratio"] > 0
    assert result["tokens"] == pytest.approx(3000, rel=0.2)
    assert result["seconds_per_query"] > 0 and sum(result["share"].values()) == pytest.approx(1, abs=0.01)


@pytest.mark.slow
def test_both_ways_of_a_causal_model_are_measured(tmp_path, monkeypatch, capsys):
    lines = [json.dumps({"id": one.id, "title": one.title, "text": f"{one.text} {one.text}"}) for one in PASSAGES]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    printed = run(
        "decode.py", monkeypatch, capsys, "--data", tmp_path / "corpus.jsonl", "--tokens", 3000, "--repeat", "--small",
        "--threads", 1, "--queries", 2, "--shapes", 1, "--rounds", 1, "--searches", 2, "--shape", "qwen3",
        "--layers", 1,
    )  # fmt: skip
    result = json.loads(printed.splitlines()[-1])
    (row,) = result["decoding"]
    shared, copied = (row["ways"][way] for way in ("shared", "copied"))
    assert row["steps"] == 10 and shared["ms_per_step"] > 0 < copied["ms_per_step"]
    assert 0 < shared["cache_mb"] < copied["cache_mb"]
    assert result["seconds_per_query"] > 0 and result["share"]["prompts"] > 0
