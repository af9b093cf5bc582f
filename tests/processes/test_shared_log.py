"""Numbered chunks that processes share, and that any number of processes resumes."""

import itertools
import json
import os
import random
import signal
import time

import pytest
from launched_processes import kill, killed_until_done, launch, results_of

from dgr_trainer.files.resume_log import ResumeLog
from dgr_trainer.processes.shared_log import SharedLog

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
SETTINGS, CHUNKS = {"k": 3}, 23


def work(processes, folder, killed_at=None, settings=SETTINGS):
    """Make chunks; returns the numbers of those that this process has made."""
    made = []
    with SharedLog(folder / "work", "The work", settings, CHUNKS, lambda c: c["n"], processes=processes) as log:
        for number in log.share():
            if killed_at == [log.process, len(made)]:
                os.kill(os.getpid(), signal.SIGKILL)
            log.add({"n": number, "square": number * number})
            made.append(number)
        chunks = list(log.chunks())
        if log.process == 0:
            (folder / "result.json").write_text(json.dumps(chunks))
        else:
            assert all(chunk is None for chunk in chunks)
        log.remove()
    return made


EXPECTED = [{"n": number, "square": number * number} for number in range(CHUNKS)]


@pytest.mark.parametrize("counts", [(1,), (2,), (3,), (1, 2), (2, 1), (2, 3), (3, 2, 1), (3, 1, 3)])
def test_any_number_of_processes_goes_on_where_others_were_killed(tmp_path, counts):
    for count in counts[:-1]:
        rank = count - 1
        started = launch(count, work, tmp_path, [rank, 1])
        started[rank].join(60)
        assert started[rank].exitcode == -signal.SIGKILL
        kill(started)
    made = results_of(counts[-1], work, tmp_path)
    assert json.loads((tmp_path / "result.json").read_text()) == EXPECTED
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]
    everything = sorted(itertools.chain.from_iterable(made))
    assert len(set(everything)) == len(everything) and len(everything) <= CHUNKS - (len(counts) - 1)
    assert max(map(len, made)) - min(map(len, made)) <= 1


def slow_work(processes, folder):
    add = ResumeLog.add

    def slowly(log, chunk):
        time.sleep(0.05)
        add(log, chunk)

    ResumeLog.add = slowly
    work(processes, folder)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments(tmp_path, seed):
    chance = random.Random(seed)
    kills = killed_until_done(
        lambda: launch(chance.choice([1, 2, 3]), slow_work, tmp_path),
        lambda kills: 0.05 + 0.02 * kills + chance.random() * 0.3,
    )
    assert kills and json.loads((tmp_path / "result.json").read_text()) == EXPECTED
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def work_apart(processes, folder):
    """Each process has a disk of its own."""
    own = folder / f"disk-{processes.process_index}"
    own.mkdir(exist_ok=True)
    return work(processes, own)


def test_chunks_on_disks_that_the_first_process_does_not_see_are_sent(tmp_path):
    made = results_of(3, work_apart, tmp_path)
    assert sorted(itertools.chain.from_iterable(made)) == list(range(CHUNKS)) and min(map(len, made)) > 2
    assert json.loads((tmp_path / "disk-0" / "result.json").read_text()) == EXPECTED
    assert list((tmp_path / "disk-1").iterdir()) == []


def test_chunks_of_other_settings_are_refused_in_all_processes(tmp_path):
    with ResumeLog(tmp_path / "work-1", {"k": 4}) as log:
        log.add({"n": 0})

    def refused(processes):
        try:
            work(processes, tmp_path)
        except Exception as error:
            return str(error)

    for count in (1, 2):
        errors = results_of(count, refused)
        assert all("work-1 was made with k=4, but now it is 3, so this work cannot be resumed" in e for e in errors)
    assert (tmp_path / "work-1").exists()


def test_files_of_other_names_are_left_alone(tmp_path):
    for name in ("work-1-of-2", "work-x", "works", "work.txt"):
        (tmp_path / name).write_text("precious")
    assert results_of(2, work, tmp_path) == [list(range(0, CHUNKS, 2)), list(range(1, CHUNKS, 2))]
    assert len(list(tmp_path.iterdir())) == 5


def test_work_without_chunks(tmp_path):
    with SharedLog(tmp_path / "work", "The work", SETTINGS, 0, lambda chunk: 0) as log:
        assert list(log.share()) == [] and list(log.chunks()) == []
        log.remove()
    assert list(tmp_path.iterdir()) == []
