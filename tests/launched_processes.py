"""Processes that belong together, as `torchrun` starts them, but forked from this one, which takes no time."""

import multiprocessing
import os
import pickle
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch
from accelerate import PartialState

CONTEXT = multiprocessing.get_context("fork")


def wait_until(condition, seconds=60):
    """Wait for what another process does; fails if it takes too long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the other process does not get on"
        time.sleep(0.005)


def launch(count, work, *arguments, result_files=()):
    """Start `work(processes, *arguments)` in several processes that reach each other; in one alone with `None`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        CONTEXT.Process(target=_run, args=(rank, count, port, work, arguments, [*result_files, *[None] * count][rank]))
        for rank in range(count)
    ]
    for process in started:
        process.start()
    return started


def _run(rank, count, port, work, arguments, result_file):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    torch.set_num_threads(1)
    PartialState._reset_state()
    try:
        processes = PartialState(cpu=True) if count > 1 else None
        result = work(processes, *arguments)
        if result_file is not None:
            Path(result_file).write_bytes(pickle.dumps(result))
        if processes is not None:
            processes.wait_for_everyone()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def results_of(count, work, *arguments):
    """What `work(processes, *arguments)` returns in each of several processes."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / str(rank) for rank in range(count)]
        assert exit_codes(launch(count, work, *arguments, result_files=files)) == [0] * count
        return [pickle.loads(file.read_bytes()) for file in files]


def exit_codes(started, seconds=100):
    """Wait until processes have ended. Those that take too long are killed."""
    end = time.monotonic() + seconds
    for process in started:
        process.join(max(0, end - time.monotonic()))
    kill(started)
    return [process.exitcode for process in started]


def kill(started):
    """Kill processes as nothing in them can prevent."""
    for process in started:
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
    for process in started:
        process.join()


def killed_until_done(start, seconds):
    """Start jobs and kill each after a while, until one ends by itself; returns how many were killed.

    Args:
        start (`Callable[[], list[Process]]`): Starts the processes of a job.
        seconds (`Callable[[int], float]`): How long the job of a number, from 0, may run.
    """
    for kills in range(300):
        started = start()
        time.sleep(seconds(kills))
        kill(started)
        if all(process.exitcode == 0 for process in started):
            return kills
    raise AssertionError("the work does not get on")
