"""Several processes score together, and find what one finds."""

import json
import os
import subprocess
import sys

import pytest
from teachers.reranker_models import save_cross_encoder

from dgr_trainer import Rankings

_PROGRAM = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from dgr_trainer import Corpus, CrossEncoderTeacher, Rankings, read_queries
from dgr_trainer.processes import place_of
from dgr_trainer.teachers import pair_scoring

folder, cache = Path(sys.argv[1]), sys.argv[2] or None
pair_scoring._PAIRS_A_CHUNK = 50
teacher = CrossEncoderTeacher(folder / "model", Corpus.read(folder / "corpus.jsonl"), batch_tokens=300, progress=False)
score, counts = teacher.score, []
teacher.score = lambda batch: counts.append(len(batch)) or score(batch)
candidates = Rankings.from_trec(folder / "candidates.trec")
rankings = teacher.rank(read_queries(folder / "queries.tsv"), candidates, cache=cache)
index = place_of(teacher._processes)[0]
rankings.to_jsonl(folder / f"rankings-{index}.jsonl")
(folder / f"scored-{index}.json").write_text(json.dumps([sum(counts), str(teacher.model.device)]))
"""


@pytest.fixture
def work(tmp_path, passages, queries):
    rows = [json.dumps({"id": p.id, "title": p.title, "text": p.text}) + "\n" for p in passages]
    (tmp_path / "corpus.jsonl").write_text("".join(rows))
    lines = [f"{id}\t{query}\n" for id, query in zip(queries["query_id"], queries["query"], strict=True)]
    (tmp_path / "queries.tsv").write_text("".join(lines))
    Rankings({id: {p.id: 0.0 for p in passages} for id in queries["query_id"]}).to_trec(tmp_path / "candidates.trec")
    save_cross_encoder(tmp_path / "model")
    (tmp_path / "program.py").write_text(_PROGRAM)
    return tmp_path


def launch(work, count, cache=""):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    command += [str(work / "program.py"), str(work), str(cache)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    rankings = [(work / f"rankings-{index}.jsonl").read_bytes() for index in range(count)]
    return rankings, [json.loads((work / f"scored-{index}.json").read_text())[0] for index in range(count)]


def same(rankings, expected):
    """Whether rankings are the same but for the rounding, which processes of one machine may do differently."""
    found, wanted = (
        {line["query_id"]: line for line in map(json.loads, of.splitlines())} for of in (rankings, expected)
    )
    return list(found) == list(wanted) and all(
        dict(zip(found[q]["passage_ids"], found[q]["scores"], strict=True))
        == pytest.approx(dict(zip(wanted[q]["passage_ids"], wanted[q]["scores"], strict=True)), abs=1e-5)
        for q in wanted
    )


@pytest.mark.slow
def test_two_processes_find_what_one_finds(work):
    (one,), (scored,) = launch(work, 1)
    assert scored == 12 * 24
    both, shares = launch(work, 2)
    assert both[0] == both[1] and same(both[0], one)
    assert sum(shares) == scored and min(shares) > scored / 4
    cached, shares = launch(work, 2, work / "cache")
    assert cached == both and sum(shares) == scored
    assert [path.name for path in (work / "cache").glob("*/*.scores")] == ["merged.scores"]
    again, shares = launch(work, 2, work / "cache")
    assert again == both and shares == [0, 0]
