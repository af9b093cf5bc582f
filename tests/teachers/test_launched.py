"""Several processes score together, and find what one finds, to the last bit."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from teachers.reranker_models import save_cross_encoder, save_encoder

from dgr_trainer import Rankings

# Every process writes what it has found, and how many pairs it has scored or passages it has encoded.
_PROGRAM = """
import json, os, signal, sys
from pathlib import Path

import torch

from dgr_trainer import BiEncoderTeacher, Corpus, CrossEncoderTeacher, Rankings, read_queries
from dgr_trainer.processes import process_rank
from dgr_trainer.teachers import bi_encoder, pair_scoring, passage_vectors, score_cache

family, folder, kept, kill_at = sys.argv[1], Path(sys.argv[2]), sys.argv[3] or None, json.loads(sys.argv[4])
pair_scoring._PAIRS_PER_CHUNK, passage_vectors._PASSAGES_PER_BLOCK, bi_encoder._BLOCK_QUERIES = 50, 3, 4
score_cache._SECONDS_PER_COMMIT = 0
corpus, queries = Corpus.read(folder / "corpus.jsonl"), read_queries(folder / "queries.tsv")
model, counts = folder / family, []


def counted(work):
    def count(batch):
        if kill_at == [index, len(counts)]:
            os.kill(os.getpid(), signal.SIGKILL)
        counts.append(len(batch))
        return work(batch)

    return count


if family == "cross-encoder":
    teacher = CrossEncoderTeacher(model, corpus, batch_tokens=300, cache=kept, progress=False)
    index = process_rank(teacher.processes)[0]
    teacher.score = counted(teacher.score)
    rankings = teacher.rank(queries, Rankings.from_trec(folder / "candidates.trec"))
else:
    teacher = BiEncoderTeacher(model, corpus, vectors=kept, progress=False)
    index = process_rank(teacher.processes)[0]
    teacher._passages = counted(teacher._passages)
    rankings = teacher.rank(queries)
    assert teacher.rank(queries, Rankings.from_trec(folder / "candidates.trec")).keys() == rankings.keys()
    (folder / f"vectors-{index}.bin").write_bytes(teacher.passage_vectors.tobytes())
rankings.to_jsonl(folder / f"rankings-{index}.jsonl")
(folder / f"counts-{index}.json").write_text(json.dumps(counts))
assert torch.get_num_threads() == 1
"""


@pytest.fixture
def work(tmp_path, passages, queries):
    rows = [json.dumps({"id": p.id, "title": p.title, "text": p.text}) + "\n" for p in passages]
    (tmp_path / "corpus.jsonl").write_text("".join(rows))
    lines = [f"{id}\t{query}\n" for id, query in zip(queries["query_id"], queries["query"], strict=True)]
    (tmp_path / "queries.tsv").write_text("".join(lines))
    Rankings({id: {p.id: 0.0 for p in passages} for id in queries["query_id"]}).to_trec(tmp_path / "candidates.trec")
    save_cross_encoder(tmp_path / "cross-encoder")
    save_encoder(tmp_path / "bi-encoder")
    (tmp_path / "program.py").write_text(_PROGRAM)
    return tmp_path


def launch(work, family, count, kept="", kill_at=None):
    """What each process has found, and how much it has computed; `None` if one was killed."""
    for file in [*work.glob("rankings-*"), *work.glob("counts-*"), *work.glob("vectors-*")]:
        file.unlink()
    command = [sys.executable]
    if count > 1:
        command += ["-m", "torch.distributed.run", "--nproc-per-node", str(count)]
        command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    command += [str(work / "program.py"), family, str(work), str(kept), json.dumps(kill_at)]
    # As many threads in each process whatever their number: a product that is split otherwise is rounded otherwise.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    if kill_at is not None:
        assert done.returncode and (count > 1 or done.returncode == -signal.SIGKILL)
        return None
    assert done.returncode == 0, done.stderr[-3000:]
    found = [(work / f"rankings-{index}.jsonl").read_bytes() for index in range(count)]
    return found, [sum(json.loads((work / f"counts-{index}.json").read_text())) for index in range(count)]


@pytest.mark.slow
def test_two_processes_find_what_one_finds(work):
    (one,), (scored,) = launch(work, "cross-encoder", 1)
    assert scored == 12 * 24
    both, shares = launch(work, "cross-encoder", 2)
    assert both == [one, one]
    assert sum(shares) == scored and min(shares) > scored / 4
    cache = work / "cache"
    launch(work, "cross-encoder", 2, cache, kill_at=[1, 6])
    cached, shares = launch(work, "cross-encoder", 2, cache)
    assert cached == both and 0 < sum(shares) < scored
    assert [path.suffix for path in cache.iterdir()] == [".sqlite3"]
    again, shares = launch(work, "cross-encoder", 1, cache)
    assert again == [one] and shares == [0]


@pytest.mark.slow
def test_two_processes_share_the_vectors_of_a_corpus(work):
    pytest.importorskip("sentence_transformers", reason="needs the extra bi-encoder")
    (one,), (encoded,) = launch(work, "bi-encoder", 1)
    assert encoded == 24
    vectors = (work / "vectors-0.bin").read_bytes()
    both, shares = launch(work, "bi-encoder", 2)
    assert both == [one, one] and shares == [12, 12]
    assert [(work / f"vectors-{index}.bin").read_bytes() for index in range(2)] == [vectors, vectors]
    kept = work / "kept"
    launch(work, "bi-encoder", 2, kept, kill_at=[0, 2])
    launch(work, "bi-encoder", 1, kept, kill_at=[0, 1])
    both, shares = launch(work, "bi-encoder", 2, kept)
    assert both == [one, one] and 0 < sum(shares) <= 24 - 3 * 3
    assert np.load(kept / "vectors.npy").tobytes() == vectors
    assert sorted(path.name for path in kept.iterdir()) == ["vectors.json", "vectors.npy"]
