"""Teachers in several processes, in several jobs at once, and killed: what they find is what one process finds."""

import json
import os
import random
import signal
import time

import numpy as np
import pytest
from launched_processes import exit_codes, kill, killed_until_done, launch, results_of, wait_until

from dgr_trainer import BiEncoderTeacher, CrossEncoderTeacher, Rankings
from dgr_trainer.files.job_lock import JobLock
from dgr_trainer.teachers import FunctionTeacher, pair_scoring, passage_vectors, score_cache
from dgr_trainer.teachers.pair_teacher import PairTeacher
from dgr_trainer.teachers.passage_vectors import compute_passage_vectors

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
SIZE = 5


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    monkeypatch.setattr(passage_vectors, "_PASSAGES_PER_BLOCK", 2)
    monkeypatch.setattr(pair_scoring, "_PAIRS_PER_CHUNK", 30)
    monkeypatch.setattr(score_cache, "_SECONDS_PER_COMMIT", 0)


# Vectors


def vectors_of(positions):
    return np.sin(np.outer(np.array(positions) + 1.0, np.arange(1.0, SIZE + 1))).astype(np.float32)


def compute(processes, corpus, folder, killed_at=None, seconds=0.0, settings=None):
    """Compute vectors; returns them and the first passages of the blocks that this process has encoded."""
    encoded = []

    def encode(positions, _):
        if killed_at == [0 if processes is None else processes.process_index, len(encoded)]:
            os.kill(os.getpid(), signal.SIGKILL)
        encoded.append(positions[0])
        time.sleep(seconds)
        return vectors_of(positions)

    vectors = compute_passage_vectors(corpus, encode, SIZE, settings or {"model": "a"}, folder, False, processes)
    return np.array(vectors), encoded


def assert_finished(folder, corpus):
    assert sorted(file.name for file in folder.iterdir()) == ["vectors.json", "vectors.npy"]
    assert np.array_equal(np.load(folder / "vectors.npy"), vectors_of(range(len(corpus))))


@pytest.mark.parametrize("counts", [(1, 2), (2, 1), (2, 3), (3, 1, 2)], ids=str)
def test_any_number_of_processes_goes_on_with_vectors(corpus, tmp_path, counts):
    for count in counts[:-1]:
        started = launch(count, compute, corpus, tmp_path / "v", [count - 1, 1])
        started[-1].join(60)
        assert started[-1].exitcode == -signal.SIGKILL
        kill(started)
    found = results_of(counts[-1], compute, corpus, tmp_path / "v")
    assert all(np.array_equal(vectors, vectors_of(range(len(corpus)))) for vectors, _ in found)
    assert 0 < sum(len(encoded) for _, encoded in found) < len(corpus) / 2
    assert_finished(tmp_path / "v", corpus)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_vectors_killed_at_random_moments(corpus, tmp_path, seed):
    chance = random.Random(seed)
    assert killed_until_done(
        lambda: launch(chance.choice([1, 2, 3]), compute, corpus, tmp_path / "v", None, 0.05),
        lambda kills: 0.05 + 0.02 * kills + chance.random() * 0.3,
    )
    assert_finished(tmp_path / "v", corpus)


@pytest.mark.parametrize("counts", [(1, 1, 1), (1, 2), (2, 2)], ids=str)
def test_jobs_that_start_together_encode_each_passage_once(corpus, tmp_path, counts):
    def job(processes, number):
        time.sleep(0.01 * number)
        _, encoded = compute(processes, corpus, tmp_path / "v", seconds=0.02)
        rank = 0 if processes is None else processes.process_index
        (tmp_path / f"{number}-{rank}.json").write_text(json.dumps(encoded))

    started = [launch(count, job, number) for number, count in enumerate(counts)]
    assert [code for job in started for code in exit_codes(job)] == [0] * sum(counts)
    encoded = [json.loads(file.read_text()) for file in tmp_path.glob("*.json")]
    assert len(encoded) == sum(counts)
    assert sorted(start for starts in encoded for start in starts) == list(range(0, len(corpus), 2))
    assert_finished(tmp_path / "v", corpus)


def test_another_job_takes_over_when_the_first_one_is_killed(corpus, tmp_path, capfd):
    first = launch(1, compute, corpus, tmp_path / "v", None, 0.2)
    wait_until((tmp_path / "v" / "partial-0.json").exists)
    second = launch(1, compute, corpus, tmp_path / "v")
    time.sleep(1)
    kill(first)
    assert exit_codes(second) == [0]
    assert_finished(tmp_path / "v", corpus)


def test_vectors_of_other_settings_are_refused_at_once(corpus, tmp_path):
    first = launch(1, compute, corpus, tmp_path / "v", None, 0.2)
    wait_until((tmp_path / "v" / "partial-0.json").exists)
    with pytest.raises(ValueError, match="were made with model='a', but now it is 'b'"):
        compute(None, corpus, tmp_path / "v", settings={"model": "b"})
    assert exit_codes(first) == [0]
    assert_finished(tmp_path / "v", corpus)


def test_finished_vectors_are_read_whoever_holds_the_lock(corpus, tmp_path):
    compute(None, corpus, tmp_path)
    lock = JobLock(tmp_path / "vectors.lock")
    assert lock.acquire()
    vectors, encoded = compute(None, corpus, tmp_path)
    lock.release()
    assert not encoded and np.array_equal(vectors, vectors_of(range(len(corpus))))


@pytest.mark.parametrize(
    "left", ["partial.npy", ".partial-0.json.0123456789ab.tmp", "partial.json", "vectors.lock", "vectors.lock-2"]
)
def test_what_a_kill_leaves_at_the_beginning_or_the_end(corpus, tmp_path, left):
    if left in ("partial.json", "vectors.lock", "vectors.lock-2"):
        # It was killed when all was there, before it could delete its report and release its lock.
        compute(None, corpus, tmp_path)
    if left.startswith("vectors.lock"):
        (tmp_path / f"{left}.json").write_text('{"process": 0, "host": "", "since": ""}')
    (tmp_path / left).write_bytes(b"\x93NUMPY half a header")
    compute(None, corpus, tmp_path)
    assert_finished(tmp_path, corpus)


# Scores


class Reranker(PairTeacher):
    """Scores that depend on the pair, or on chance."""

    name = "reranker"

    def __init__(self, corpus, processes, cache, results_on="all", chance=None, killed_at=None, seconds=0.0):
        self.corpus, self.processes, self.cache, self.results_on = corpus, processes, cache, results_on
        self.progress, self.batch_tokens, self.chance, self.killed_at = False, 40, chance, killed_at
        self.scored, self.seconds = 0, seconds

    def content(self, query, passage):
        return query.encode(), passage.id.encode()

    def encode(self, pairs):
        return [(f"{query} {passage.text}" + "x" * 10)[:10] for query, passage in pairs]

    def score(self, batch):
        rank = 0 if self.processes is None else self.processes.process_index
        if self.killed_at is not None and self.killed_at[0] == rank and self.scored >= self.killed_at[1]:
            os.kill(os.getpid(), signal.SIGKILL)
        self.scored += len(batch)
        time.sleep(self.seconds)
        if self.chance is not None:
            return np.array([self.chance.random() for _ in batch])
        return np.array([float(sum(map(ord, text))) / 7 for text in batch])

    def settings(self):
        return {"model": "reranker"}


@pytest.fixture
def candidates(corpus, queries):
    return Rankings({id: dict.fromkeys(corpus.ids, 0.0) for id in queries["query_id"]})


def content(rankings):
    return {id: (rankings[id].passage_ids, rankings[id].scores.tolist()) for id in rankings}


@pytest.mark.parametrize("counts", [(1, 2), (2, 1), (2, 3)], ids=str)
def test_any_number_of_processes_goes_on_with_scores(corpus, queries, candidates, tmp_path, counts):
    def rank(processes, killed_at=None):
        teacher = Reranker(corpus, processes, tmp_path, killed_at=killed_at)
        return content(teacher.rank(queries, candidates)), teacher.scored

    alone = content(Reranker(corpus, None, None).rank(queries, candidates))
    started = launch(counts[0], rank, [counts[0] - 1, 40])
    started[-1].join(60)
    assert started[-1].exitcode == -signal.SIGKILL
    kill(started)
    found = results_of(counts[1], rank)
    assert [lists for lists, _ in found] == [alone] * counts[1]
    assert 0 < sum(scored for _, scored in found) <= len(corpus) * len(queries) - 40
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("kind", ["pairs", "function"])
def test_jobs_that_share_a_cache_return_the_scores_that_it_keeps(corpus, queries, candidates, tmp_path, kind):
    """The scores are drawn by chance, so that any mixture would show."""

    def teacher_of(seed, seconds):
        chance = random.Random(seed)
        if kind == "pairs":
            return Reranker(corpus, None, tmp_path / "cache", chance=chance, seconds=seconds)

        def function(query, passages):
            time.sleep(seconds)
            return [chance.random() for _ in passages]

        return FunctionTeacher(function, corpus, name="chance", progress=False, cache=tmp_path / "cache")

    def job(processes, seed):
        rankings = teacher_of(seed, 0.003).rank(queries, candidates)
        rankings.to_jsonl(tmp_path / f"{seed}.jsonl")

    started = [launch(1, job, seed) for seed in range(3)]
    assert [exit_codes(processes) for processes in started] == [[0]] * 3
    again = content(teacher_of(9, 0).rank(queries, candidates))
    assert [content(Rankings.from_jsonl(tmp_path / f"{seed}.jsonl")) for seed in range(3)] == [again] * 3


@pytest.mark.parametrize("results_on", ["main", "all"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_rankings_are_where_they_are_wanted(corpus, queries, candidates, count, results_on):
    def overlap(query, passages):
        words = set(query.lower().split())
        return [len(words & set(passage.text.lower().split())) for passage in passages]

    def rank(processes):
        called = []

        def counted(query, passages):
            called.append(query)
            return overlap(query, passages)

        teacher = FunctionTeacher(counted, corpus, progress=False, accelerator=processes, results_on=results_on)
        reranker = Reranker(corpus, processes, None, results_on=results_on)
        return content(teacher.rank(queries, candidates, k=5)), content(reranker.rank(queries, candidates)), called

    function = content(FunctionTeacher(overlap, corpus, progress=False).rank(queries, candidates, k=5))
    pairs = content(Reranker(corpus, None, None).rank(queries, candidates))
    main, *others = results_of(count, rank)
    assert main[:2] == (function, pairs)
    assert all(other[:2] == ((function, pairs) if results_on == "all" else ({}, {})) for other in others)
    asked = sorted(query for *_, called in (main, *others) for query in called)
    assert asked == sorted(queries["query"])


def test_another_place_for_results_is_refused(corpus):
    with pytest.raises(ValueError, match="results_on is 'first'. Give 'main' "):
        FunctionTeacher(max, corpus, results_on="first")
    for teacher in (CrossEncoderTeacher, BiEncoderTeacher):
        with pytest.raises(ValueError, match="results_on is 'first'. Give 'main' "):
            teacher("model", corpus, results_on="first")
