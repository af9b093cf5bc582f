"""Locks that processes hold, give back, and lose when they are killed."""

import errno
import fcntl
import json
import multiprocessing
import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest

from dgr_trainer.files import job_lock
from dgr_trainer.files.job_lock import JobLock

CONTEXT = multiprocessing.get_context("fork")
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")


def started(work, *arguments):
    process = CONTEXT.Process(target=work, args=arguments)
    process.start()
    return process


def until(true):
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def holding(path, ready):
    lock = JobLock(path)
    assert lock.acquire()
    Path(ready).touch()
    time.sleep(100)


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock, until it is killed."""
    process = started(holding, tmp_path / "work.lock", tmp_path / "ready")
    until((tmp_path / "ready").exists)
    (tmp_path / "ready").unlink()
    yield process
    process.kill()
    process.join()


def test_lock_and_note_are_there_as_long_as_it_is_held(tmp_path):
    lock = JobLock(tmp_path / "new" / "work.lock")
    assert not lock.is_held and lock.acquire() and lock.is_held
    assert sorted(file.name for file in lock.path.parent.iterdir()) == ["work.lock", "work.lock.json"]
    note = json.loads(lock.note.read_text())
    assert note["process"] == os.getpid() and note["host"] == socket.gethostname()
    lock.release()
    lock.release()
    assert not lock.is_held and list(lock.path.parent.iterdir()) == []


def test_it_excludes_other_locks_of_the_same_process(tmp_path):
    first, second = JobLock(tmp_path / "work.lock"), JobLock(tmp_path / "work.lock")
    assert first.acquire() and not second.acquire()
    assert second.holder().startswith(f"process {os.getpid()} on ")
    second.release()  # It holds nothing, so this changes nothing.
    assert not JobLock(tmp_path / "work.lock").acquire()
    first.release()
    assert second.acquire()
    second.release()


def test_the_holder_is_named_with_process_host_and_start(holder, tmp_path):
    lock = JobLock(tmp_path / "work.lock")
    assert not lock.acquire()
    expected = rf"process {holder.pid} on {re.escape(socket.gethostname())} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    assert re.fullmatch(expected, lock.holder())


def test_a_killed_holder_holds_nothing(holder, tmp_path):
    holder.kill()
    holder.join()
    lock = JobLock(tmp_path / "work.lock")
    assert lock.path.exists() and lock.note.exists() and lock.acquire()
    assert json.loads(lock.note.read_text())["process"] == os.getpid()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_holder_still_holds_it(holder, tmp_path):
    os.kill(holder.pid, signal.SIGSTOP)
    lock = JobLock(tmp_path / "work.lock")
    assert not lock.acquire(0.3) and f"process {holder.pid} " in lock.holder()


@pytest.mark.parametrize("left", ["", "nonsense", "[1]", '{"process": 1}'])
def test_a_note_that_says_nothing(left, holder, tmp_path, monkeypatch):
    monkeypatch.setattr(job_lock, "_NOTE_TRIES", 2)
    (tmp_path / "work.lock.json").write_text(left)
    lock = JobLock(tmp_path / "work.lock")
    assert not lock.acquire() and lock.holder() == "another process, which left no note"


def test_the_note_of_an_earlier_holder_is_not_believed(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(job_lock, "_NOTE_TRIES", 2)
    ended = started(print)
    ended.join()
    note = {"process": ended.pid, "host": socket.gethostname(), "since": "2026-01-01 00:00:00 UTC"}
    (tmp_path / "work.lock.json").write_text(json.dumps(note))
    lock = JobLock(tmp_path / "work.lock")
    assert not lock.acquire()
    assert lock.holder().startswith(f"a process started by process {ended.pid} on ")
    (tmp_path / "work.lock.json").write_text(json.dumps({**note, "host": "elsewhere"}))
    assert lock.holder() == f"process {ended.pid} on elsewhere since 2026-01-01 00:00:00 UTC"


def counting(path, number, rounds):
    """Increase a number in a file, with time for others to come in between if they are not kept out."""
    for _ in range(rounds):
        lock = JobLock(path)
        assert lock.acquire(60)
        count = int(number.read_text())
        time.sleep(0.001)
        number.write_text(str(count + 1))
        lock.release()


def test_one_at_a_time_though_each_deletes_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(job_lock, "_SECONDS_BETWEEN_TRIES", 0.0005)
    number = tmp_path / "number"
    number.write_text("0")
    processes = [started(counting, tmp_path / "work.lock", number, 60) for _ in range(4)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4 and number.read_text() == "240"
    assert [file.name for file in tmp_path.iterdir()] == ["number"]


def test_files_of_a_folder_that_was_replaced_are_left_alone(tmp_path):
    old, new = tmp_path / "index", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    first = JobLock(old / "index.lock")
    assert first.acquire()
    os.rename(old, tmp_path / "aside")
    os.rename(new, old)
    second = JobLock(old / "index.lock")
    assert second.acquire()
    first.release()
    assert second.path.exists() and second.note.exists() and not JobLock(second.path).acquire()
    second.release()
    assert list(old.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_an_error_of_the_disk(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        JobLock(tmp_path / "file" / "work.lock").acquire()


newer = pytest.mark.skipif(
    not job_lock._NO_FALLBACK, reason="older versions of filelock take every error for the lock of another process"
)


@newer
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_disk_without_locks_is_warned_of(number, tmp_path, monkeypatch, caplog):
    def no_flock(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_flock)
    lock = JobLock(tmp_path / "work.lock")
    assert lock.acquire() and not lock.is_held
    assert f"The file system of {tmp_path} has no locks (flock), so nothing keeps other jobs" in caplog.text
    lock.release()
    assert list(tmp_path.iterdir()) == []


@newer
def test_an_error_of_the_disk_is_not_taken_for_a_lock(tmp_path, monkeypatch):
    def broken(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="Input/output error"):
        JobLock(tmp_path / "work.lock").acquire()
