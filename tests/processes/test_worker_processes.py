"""Work on chunks in several processes: its order, its errors and its end."""

import multiprocessing
import os
import time

import pytest

from dgr_trainer.errors import DGRRuntimeError, DGRValueError
from dgr_trainer.processes.worker_processes import map_chunks


def test_results_come_in_the_order_of_the_chunks():
    assert list(map_chunks(lambda n: n * n, range(40), 2)) == [n * n for n in range(40)]
    assert list(map_chunks(len, [], 2)) == []


def _stop(number):
    if number == 3:
        os._exit(1)
    return number


def _raise(number):
    raise DGRValueError("what was wrong")


def test_a_process_that_ends_and_an_error_in_one():
    with pytest.raises(DGRRuntimeError, match="One of the 2 processes ended before its work was done"):
        list(map_chunks(_stop, range(9), 2))
    with pytest.raises(DGRValueError, match="what was wrong"):
        list(map_chunks(_raise, range(9), 2))


def _report_and_wait(file):
    with open(file, "a") as stream:
        stream.write(f"{os.getpid()}\n")
    time.sleep(100)


def test_processes_end_when_the_one_that_started_them_is_killed(tmp_path):
    file = tmp_path / "pids"
    file.touch()
    job = multiprocessing.get_context("fork").Process(target=lambda: list(map_chunks(_report_and_wait, [file] * 2, 2)))
    job.start()
    end = time.monotonic() + 30
    while len(pids := file.read_text().split()) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    job.kill()
    job.join()
    while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    assert len(pids) == 2 and time.monotonic() < end


def test_no_processes_where_the_platform_cannot_fork(monkeypatch):
    monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda: ["spawn"])
    with pytest.raises(DGRValueError, match="num_proc=2: this platform cannot fork processes"):
        list(map_chunks(len, [[1]], 2))
