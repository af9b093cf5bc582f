"""The generator of pseudo-queries, killed: at random moments by the system, and in the middle of a line."""

import json
import os
import random
import signal
import subprocess
import sys

import pytest
from tiny_models import make_bart

# Loads everything once, then forks a worker for every round. With a number, a worker dies in the middle of the chunk
# that has it, after so large a part of its line.
_ROUNDS = """
import json, os, signal, sys, time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
import threading
import torch
from tqdm import tqdm

tqdm.set_lock(threading.RLock())  # The default one is shared by forked processes: a killed one may leave it locked.
tqdm.monitor_interval = 0  # No thread that may hold the lock during a fork.
torch.set_num_threads(1)
from dgr_trainer import Corpus, query_generation
from dgr_trainer.files.resume_log import ResumeLog
from dgr_trainer.processes import shared_log

folder, rounds = Path(sys.argv[1]), json.load(open(sys.argv[2]))
query_generation._PASSAGES_AT_ONCE = 2
corpus = Corpus.read(folder / "corpus.jsonl")
generator = query_generation.PseudoQueryGenerator(
    folder / "model", queries_per_passage=2, max_new_tokens=4, device="cpu"
)


class Cut(ResumeLog):
    killed_in = None

    def _write(self, record):
        if self.killed_in is not None and self.count >= self.killed_in[0]:
            os.write(self._file.fileno(), record[: int(len(record) * self.killed_in[1])])
            os.kill(os.getpid(), signal.SIGKILL)
        super()._write(record)


shared_log.ResumeLog = Cut


def worker(output, killed_in):
    Cut.killed_in = killed_in
    sample = generator._sample

    def counted(passages, start):
        with open(folder / "sampled.log", "ab", buffering=0) as log:
            log.write(b"%d\\n" % start)
        time.sleep(0.025)  # Slow enough that it takes more than all the kills to get through.
        return sample(passages, start)

    generator._sample = counted
    generator.generate(corpus, folder / output, progress=False)


for output, killed_in, seconds in rounds:
    child = os.fork()
    if child == 0:
        try:
            worker(output, killed_in)
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


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_killed_twenty_times_the_queries_are_the_same(tmp_path, corpus, bpe_tokenizer):
    make_bart(bpe_tokenizer).save_pretrained(tmp_path / "model")
    bpe_tokenizer.save_pretrained(tmp_path / "model")
    rows = [json.dumps({"id": p.id, "title": p.title, "text": p.text}) + "\n" for p in corpus]
    (tmp_path / "corpus.jsonl").write_text("".join(rows))
    generator = random.Random(3)
    # The twelve chunks are never all written, and a part of a line may be nothing, or all of it but its end.
    parts = [
        ("parts.jsonl", [1 + number, generator.choice([0, generator.random(), 0.999])], None) for number in range(10)
    ]
    moments = [("moments.jsonl", None, generator.uniform(0.005, 0.045)) for _ in range(10)]
    last = [(f"{name}.jsonl", None, None) for name in ("whole", "parts", "moments")]
    rounds = tmp_path / "rounds.json"
    rounds.write_text(json.dumps([last[0], *parts, last[1], *moments, last[2]]))
    done = subprocess.run(
        [sys.executable, "-c", _ROUNDS, str(tmp_path), str(rounds)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    codes = [int(line) for line in done.stdout.split()]
    assert codes[0] == codes[11] == 0 and codes[1:11] == [-signal.SIGKILL] * 10, done.stderr[-3000:]
    assert codes[12:22].count(-signal.SIGKILL) >= 3
    # One that was done before it could be killed leaves nothing to do: the file is there.
    assert set(codes[12:]) <= {0, 1, -signal.SIGKILL} and codes[12:].count(0) == 1
    whole = (tmp_path / "whole.jsonl").read_bytes()
    assert whole.count(b"\n") == 24
    assert (tmp_path / "parts.jsonl").read_bytes() == (tmp_path / "moments.jsonl").read_bytes() == whole
    assert not list(tmp_path.glob("*.unfinished*"))
    # Only what was cut is sampled again: one chunk a kill at most.
    sampled = (tmp_path / "sampled.log").read_text().split()
    assert 3 * 12 <= len(sampled) <= 3 * 12 + 20
