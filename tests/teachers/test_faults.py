"""Scoring with a cache, killed: at random moments by the system, and in the middle of a transaction."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys

import pytest
from teachers.reranker_models import save_cross_encoder

from dgr_trainer.runs.rankings import Rankings

# Loads everything once, then forks a worker for every round; a worker that is not killed writes its rankings. With a
# number of inserts, a worker dies in the middle of the transaction after that many of its scores.
_ROUNDS = """
import faulthandler, json, os, signal, sqlite3, sys, time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
import threading
import torch
from tqdm import tqdm

tqdm.set_lock(threading.RLock())  # The default one is shared by forked processes: a killed one may leave it locked.
tqdm.monitor_interval = 0  # No thread that may hold the lock during a fork.
torch.set_num_threads(1)
from dgr_trainer import Corpus, CrossEncoderTeacher, Rankings, read_queries
from dgr_trainer.teachers import pair_scoring, score_cache

folder, model, rounds = Path(sys.argv[1]), sys.argv[2], json.load(open(sys.argv[3]))
pair_scoring._PAIRS_PER_CHUNK = 25
score_cache._SECONDS_PER_COMMIT = 0
corpus = Corpus.read(folder / "corpus.jsonl")
queries, candidates = read_queries(folder / "queries.tsv"), Rankings.from_trec(folder / "candidates.trec")
teacher = CrossEncoderTeacher(model, corpus, batch_tokens=300, progress=False)


class Dying(sqlite3.Connection):
    left = 0

    def executemany(self, statement, rows):
        for row in rows:
            self.execute(statement, row)
            Dying.left -= 1
            if Dying.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def worker(cache, output, inserts):
    faulthandler.dump_traceback_later(100, exit=True)  # A worker that hangs says where.
    teacher.cache = cache
    if inserts is not None:
        Dying.left, connect = inserts, sqlite3.connect
        sqlite3.connect = lambda *arguments, **options: connect(*arguments, factory=Dying, **options)
    score = teacher.score
    log = open(folder / "scored.log", "ab", buffering=0)

    def counted(batch):
        scores = score(batch)
        time.sleep(0.004)  # Slow enough to be killed in between.
        log.write(b"%d\\n" % len(batch))
        return scores

    teacher.score = counted
    rankings = teacher.rank(queries, candidates)
    rankings.to_jsonl(folder / output)


for cache, output, inserts, seconds in rounds:
    child = os.fork()
    if child == 0:
        try:
            worker(folder / cache, output, inserts)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory, passages, queries):
    folder = tmp_path_factory.mktemp("work")
    rows = [json.dumps({"id": p.id, "title": p.title, "text": p.text}) + "\n" for p in passages]
    (folder / "corpus.jsonl").write_text("".join(rows))
    lines = [f"{id}\t{query}\n" for id, query in zip(queries["query_id"], queries["query"], strict=True)]
    (folder / "queries.tsv").write_text("".join(lines))
    Rankings({id: {p.id: 0.0 for p in passages} for id in queries["query_id"]}).to_trec(folder / "candidates.trec")
    save_cross_encoder(folder / "model")
    return folder


def run(folder, rounds):
    """Runs the rounds; returns the exit code of each worker."""
    (folder / "rounds.json").write_text(json.dumps(rounds))
    arguments = [sys.executable, "-c", _ROUNDS, str(folder), str(folder / "model"), str(folder / "rounds.json")]
    done = subprocess.run(
        arguments, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [int(line) for line in done.stdout.split()]


def scored(folder):
    log = folder / "scored.log"
    counts = [int(line) for line in log.read_text().split()]
    log.unlink()
    return counts


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_killed_twenty_times_the_result_is_the_same(work):
    """Whatever is killed when, each pair is kept once, and the rankings are the same to the last bit."""
    pairs = 12 * 24
    generator = random.Random(5)
    kills = [("moments", "none.jsonl", None, generator.uniform(0.01, 0.12)) for _ in range(10)]
    # Together they insert less than all scores, so that none of them finishes.
    writes = [("writes", "none.jsonl", generator.randrange(1, pairs // 10), None) for _ in range(10)]
    last = [(name, f"{name}.jsonl", None, None) for name in ("whole", "moments", "writes")]
    codes = run(work, [last[0], *kills, last[1], *writes, last[2]])
    assert codes[0] == codes[11] == codes[22] == 0
    assert codes[12:22] == [-signal.SIGKILL] * 10
    assert codes[1:11].count(-signal.SIGKILL) >= 5
    for name in ("whole", "moments", "writes"):
        assert (work / f"{name}.jsonl").read_bytes() == (work / "whole.jsonl").read_bytes()
        (file,) = (work / name).glob("*.sqlite3")
        with sqlite3.connect(file) as connection:
            assert connection.execute("SELECT count(*) FROM scores").fetchone() == (pairs,)
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    # Only the batch whose transaction was interrupted is scored again: at most one per kill.
    batches = scored(work)
    assert 0 <= sum(batches) - 3 * pairs <= 20 * max(batches)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_two_jobs_share_a_cache(work):
    """Neither loses scores that it wrote."""
    rounds = work / "rounds.json"
    rounds.write_text(json.dumps([("shared", "first.jsonl", None, None)]))
    arguments = [sys.executable, "-c", _ROUNDS, str(work), str(work / "model"), str(rounds)]
    jobs = [
        subprocess.Popen(arguments, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}) for _ in "ab"
    ]
    assert [job.communicate(timeout=300)[0] for job in jobs] == [b"0\n", b"0\n"]
    scored(work)
    codes = run(work, [("shared", "third.jsonl", None, None), ("alone", "fourth.jsonl", None, None)])
    assert codes == [0, 0] and sum(scored(work)) == 12 * 24  # Those of "alone" only.
    assert (work / "third.jsonl").read_bytes() == (work / "fourth.jsonl").read_bytes()
