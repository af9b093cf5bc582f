"""Scores per second that two processes write to one cache and read back, for SQLite and another implementation.

    python benchmarks/score_cache.py [--other FILE.py] [--scores N] [--batch N] [--rounds N]

Each of two processes adds half of the scores in batches, and then looks up all of them. `--other` is a module with a
class `ScoreStore` of the same methods, such as append-only files of records.

Both sides run in alternating order, and the medians of the rounds are compared. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import multiprocessing
import statistics
import tempfile
import time
from typing import Any

import numpy as np

from dgr_trainer.teachers.score_cache import KEY, ScoreCache

PROCESSES = 2


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", help="Module of another implementation.")
    parser.add_argument("--scores", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=64, help="Scores per call of add.")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args(arguments)


def load(path: str | None) -> Any:
    """Return the class that caches scores."""
    if path is None:
        return ScoreCache
    specification = importlib.util.spec_from_file_location("other_score_store", path)
    if specification is None or specification.loader is None:
        raise SystemExit(f"{path} is not a Python module.")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.ScoreStore


def made_up_keys(count: int) -> np.ndarray:
    """Return `count` distinct keys."""
    digests = (hashlib.blake2b(number.to_bytes(8, "little"), digest_size=16).digest() for number in range(count))
    return np.frombuffer(b"".join(digests), KEY)


def work(path: str | None, folder: str, count: int, batch: int, process: int, barrier: Any, results: Any) -> None:
    """Write a share of the scores, wait for the other process, and read all of them."""
    implementation, keys = load(path), made_up_keys(count)
    scores = np.arange(count) / 7
    share = np.arange(process, count, PROCESSES)
    barrier.wait()
    began = time.perf_counter()
    with implementation(folder, {"model": "made up"}) as cache:
        for start in range(0, len(share), batch):
            rows = share[start : start + batch]
            cache.add(keys[rows], scores[rows])
    barrier.wait()
    written = time.perf_counter()
    with implementation(folder, {"model": "made up"}) as cache:
        found = cache.scores(keys)
    barrier.wait()
    results.put((written - began, time.perf_counter() - written, bool((found == scores).all())))


def measure(path: str | None, options: argparse.Namespace) -> tuple[float, float]:
    """Return how many seconds writing and reading took."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(PROCESSES), context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=work, args=(path, folder, options.scores, options.batch, number, barrier, results))
            for number in range(PROCESSES)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise SystemExit("A process failed.")
        measured = [results.get() for _ in processes]
    if not all(right for _, _, right in measured):
        raise SystemExit("The scores that were read are not those that were written.")
    return max(seconds for seconds, _, _ in measured), max(seconds for _, seconds, _ in measured)


def main(arguments: list[str] | None = None) -> dict[str, float]:
    options = parse(arguments)
    sides: dict[str, str | None] = {"SQLite": None} | ({"other": options.other} if options.other else {})
    seconds: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for number in range(options.rounds):
        for side in list(sides) if number % 2 == 0 else reversed(list(sides)):
            seconds[side].append(measure(sides[side], options))
    print("| | written/s (median) | read/s (median) |\n|---|---|---|")
    result: dict[str, float] = {"scores": options.scores, "batch": options.batch}
    medians = {}
    for side, rounds in seconds.items():
        write, read = (statistics.median(times) for times in zip(*rounds, strict=True))
        medians[side] = write, read
        print(f"| {side} | {options.scores / write:,.0f} | {options.scores * PROCESSES / read:,.0f} |")
        result |= {f"{side}_write_seconds": round(write, 3), f"{side}_read_seconds": round(read, 3)}
    if options.other:
        for position, name in enumerate(("write", "read")):
            result[f"{name}_ratio"] = round(medians["SQLite"][position] / medians["other"][position], 2)
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
