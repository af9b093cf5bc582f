"""Jobs of one or more processes, of which one at a time writes something."""

import logging
import os
import re
import signal
import time

import pytest
from launched_processes import exit_codes, kill, launch, results_of

from dgr_trainer.errors import DGRError
from dgr_trainer.files.job_lock import JobLock
from dgr_trainer.processes import jobs
from dgr_trainer.processes.jobs import in_every_process, job_lock

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")


def working(processes, folder, name, wait, until=None):
    """Add a line to a file when the work starts and when it ends; returns the error instead if it does not start."""
    logging.basicConfig(force=True)  # In a forked process, without the handlers of pytest.
    number = 0 if processes is None else processes.process_index
    try:
        with job_lock(folder / "work.lock", "The work", processes, wait_for_others=wait):
            with open(folder / "log", "a") as log:
                print("start", name, number, os.getpid(), file=log)
            while until is not None and not until.exists():
                time.sleep(0.01)
            time.sleep(0.1)
            with open(folder / "log", "a") as log:
                print("end", name, number, os.getpid(), file=log)
    except DGRError as error:
        return f"{type(error).__name__}: {error}"


def lines(folder):
    return [line.split() for line in (folder / "log").read_text().splitlines()] if (folder / "log").exists() else []


def until_running(folder, count):
    end = time.monotonic() + 60
    while len(lines(folder)) < count:
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("second", [1, 2])
def test_a_second_job_is_refused_in_all_of_its_processes(tmp_path, first, second):
    running = launch(first, working, tmp_path, "first", False, tmp_path / "stop")
    until_running(tmp_path, first)
    errors = results_of(second, working, tmp_path, "second", False)
    (tmp_path / "stop").touch()
    assert exit_codes(running) == [0] * first
    (pid,) = [pid for _, _, number, pid in lines(tmp_path)[:first] if number == "0"]
    for error in errors:
        assert re.search(
            rf"^DGRRuntimeError: The work is being written by process {pid} on \S+ since [-\d]+ [:\d]+ UTC, so this "
            "process cannot write it at the same time. Start it again when the other one has ended, or give",
            error,
        )
    assert results_of(second, working, tmp_path, "third", False) == [None] * second
    assert {name for _, name, _, _ in lines(tmp_path)} == {"first", "third"}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log", "stop"]


@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("second", [1, 2])
def test_a_second_job_waits(tmp_path, first, second, monkeypatch, capfd):
    monkeypatch.setattr(jobs, "_SECONDS_PER_TRY", 0.2)
    running = launch(first, working, tmp_path, "first", True, tmp_path / "stop")
    until_running(tmp_path, first)
    waiting = launch(second, working, tmp_path, "second", True)
    time.sleep(2)
    assert len(lines(tmp_path)) == first
    (tmp_path / "stop").touch()
    assert exit_codes([*running, *waiting]) == [0] * (first + second)
    assert [name for _, name, _, _ in lines(tmp_path)] == ["first"] * 2 * first + ["second"] * 2 * second
    said = [line for line in capfd.readouterr().err.splitlines() if "Waiting until it has ended" in line]
    (pid,) = [pid for _, _, number, pid in lines(tmp_path)[:first] if number == "0"]
    assert len(said) == 1 and f"The work is being written by process {pid} on " in said[0]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_jobs_that_start_together_run_one_after_the_other(tmp_path, count, monkeypatch):
    monkeypatch.setattr(jobs, "_SECONDS_PER_TRY", 0.2)
    started = [process for name in "abc" for process in launch(count, working, tmp_path, name, True)]
    assert exit_codes(started) == [0] * 3 * count
    names = [name for _, name, _, _ in lines(tmp_path)]
    assert len(names) == 6 * count
    assert all(len(set(names[start : start + 2 * count])) == 1 for start in range(0, 6 * count, 2 * count))
    assert [file.name for file in tmp_path.iterdir()] == ["log"]


@pytest.mark.parametrize("wait", [False, True])
def test_a_killed_job_stands_in_nobodys_way(tmp_path, wait):
    running = launch(2, working, tmp_path, "first", False, tmp_path / "never")
    until_running(tmp_path, 2)
    kill(running)
    assert len(list(tmp_path.glob("work.lock*"))) == 4
    assert results_of(2, working, tmp_path, "second", wait) == [None, None]
    assert [file.name for file in tmp_path.iterdir()] == ["log"]


def test_processes_that_outlive_their_first_one_are_not_disturbed(tmp_path):
    running = launch(2, working, tmp_path, "first", False, tmp_path / "never")
    until_running(tmp_path, 2)
    os.kill(running[0].pid, signal.SIGKILL)
    running[0].join()
    (error,) = results_of(1, working, tmp_path, "second", False)
    assert f"is being written by process {running[1].pid} on " in error
    kill(running)
    assert results_of(1, working, tmp_path, "third", False) == [None]
    assert [file.name for file in tmp_path.iterdir()] == ["log"]


def test_an_error_in_the_work_gives_the_lock_back(tmp_path):
    with pytest.raises(ZeroDivisionError), job_lock(tmp_path / "work.lock", "The work", None):
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []


def test_processes_that_were_launched_together_are_told_how_to_share(tmp_path, monkeypatch):
    lock = JobLock(tmp_path / "work.lock")
    assert lock.acquire()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="If the other one was launched together with this one, give both the acc"):
        with job_lock(lock.path, "The work", None):
            pass
    lock.release()


def failing(processes, number):
    def fail():
        if processes.process_index == number:
            raise ValueError(f"no luck in {number}")
        return processes.process_index * 10

    try:
        return in_every_process(fail, processes)
    except (DGRError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


def test_an_error_in_one_process_is_an_error_in_all():
    assert results_of(3, failing, 7) == [0, 10, 20]
    others = "DGRRuntimeError: Process 1 of this job has failed: ValueError: no luck in 1"
    assert results_of(3, failing, 1) == [others, "ValueError: no luck in 1", others]
