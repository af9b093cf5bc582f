"""Processes that belong together, as `torchrun` starts them, but forked from this one, which takes no time."""

import multiprocessing
import os
import signal
import socket
import time
import traceback

import torch
from accelerate import PartialState

CONTEXT = multiprocessing.get_context("fork")


def launch(count, work, *arguments):
    """Start `work(processes, *arguments)` in several processes that can reach each other; `None` if there is one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A group of their own, so that they are killed together, as a launcher kills them.
    started = [CONTEXT.Process(target=_run, args=(rank, count, port, work, arguments)) for rank in range(count)]
    for process in started:
        process.start()
    return started


def _run(rank, count, port, work, arguments):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    torch.set_num_threads(1)
    PartialState._reset_state()
    try:
        processes = PartialState(cpu=True) if count > 1 else None
        work(processes, *arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def wait_for(started, seconds=100):
    """Wait until processes have ended; returns their exit codes. Those that take too long are killed."""
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
