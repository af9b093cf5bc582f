"""The load that `dgr serve` bears, and whether it stays well under good and bad requests.

    python benchmarks/serve.py distilled/retriever
    python benchmarks/serve.py distilled/retriever --queries data --split test --minutes 1 --seconds 3

The server is a process of its own on the loopback interface, and so is the loop over `retriever.search`, one query at
a time with the same threads, that it is compared with. The retriever needs its corpus; without `--queries`, the first
words of passages are the queries.

Throughput: 1, 2, 4, ... clients send one query after another for some seconds. Latency: queries arrive at random
times, at half of the largest throughput. Soak: for some minutes, good requests, whose answers are compared with those
of the loop, are mixed with bad ones; memory is read from `/metrics`. All is bounded in time and number. The last line
is one JSON object; the exit status is 1 if an answer was a 500, differed, or memory grew by more than a tenth.
"""

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from statistics import mean

import httpx
import torch

from dgr_trainer import GenerativeRetriever, read_queries

TOLERANCE = 1e-3
CLIENTS = (1, 2, 4, 8, 16, 32, 64)
GROWTH = 0.1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("retriever", type=Path, help="Folder of a retriever with its corpus.")
    parser.add_argument("--queries", type=Path, help="Queries: JSON Lines, TSV or a BEIR folder.")
    parser.add_argument("--split", help="Split of a BEIR folder.")
    parser.add_argument("--number", type=int, default=100, help="Different queries, at most.")
    parser.add_argument("-k", type=int, default=10, help="Passages per query.")
    parser.add_argument("--clients", type=int, default=CLIENTS[-1], help="Most clients at a time.")
    parser.add_argument("--seconds", type=float, default=5, help="Seconds of each load.")
    parser.add_argument("--minutes", type=float, default=10, help="Minutes of good and bad requests.")
    parser.add_argument("--threads", type=int, default=2, help="Threads of torch, of the server and of the loop.")
    return parser.parse_args()


def main() -> int:
    options = parse()
    torch.set_num_threads(options.threads)
    retriever = GenerativeRetriever.from_pretrained(options.retriever)
    queries = choose_queries(options, retriever)
    loop, expected = search_one_by_one(retriever, queries, options)
    print(f"loop over retriever.search: {loop:.1f} queries/s ({len(queries)} queries, {options.threads} threads)")
    with Server(options) as server:
        found = asyncio.run(measure(server.url, queries, expected, options))
    best = max(level["queries_per_second"] for level in found["throughput"])
    result = {
        "retriever_search_queries_per_second": round(loop, 2),
        "largest_queries_per_second": round(best, 2),
        "speedup": round(best / loop, 2),
        **found,
        "queries": len(queries),
        "k": options.k,
        "threads": options.threads,
        "cores": os.cpu_count(),
    }
    print(json.dumps(result))
    soak = found["soak"]
    return int(soak["errors_500"] > 0 or soak["different"] > 0 or soak["memory_growth"] > GROWTH)


def choose_queries(options: argparse.Namespace, retriever: GenerativeRetriever) -> list[str]:
    if options.queries is not None:
        texts = list(read_queries(options.queries, options.split)["query"])
    else:
        corpus = retriever.corpus
        step = max(1, len(corpus) // options.number)
        texts = [" ".join(corpus[number].text.split()[:8]) for number in range(0, len(corpus), step)]
    return [text for text in dict.fromkeys(texts) if text.strip()][: options.number]


def search_one_by_one(retriever: GenerativeRetriever, queries: list[str], options: argparse.Namespace):
    """Queries per second of a loop, and what it finds; the first search is not counted."""
    retriever.search(queries[0], options.k)
    began = time.perf_counter()
    expected = {}
    for query in queries:
        expected[query] = [(hit.passage_id, hit.score) for hit in retriever.search(query, options.k)[0]]
    return len(queries) / (time.perf_counter() - began), expected


class Server:
    """`dgr serve` as a process, ready to answer."""

    def __init__(self, options: argparse.Namespace) -> None:
        command = [sys.executable, "-m", "dgr_trainer.cli.main", "serve", str(options.retriever), "--port", "0"]
        threads = str(options.threads)
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "TQDM_DISABLE": "1"}
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self._log: list[str] = []

    def __enter__(self) -> "Server":
        threading.Thread(target=lambda: self._log.extend(self._process.stderr), daemon=True).start()
        self.url = self._logged(r"at (http://127\.0\.0\.1:\d+)/")
        self._logged("(is ready)")
        return self

    def _logged(self, pattern: str) -> str:
        end = time.monotonic() + 300
        while time.monotonic() < end and self._process.poll() is None:
            if match := re.search(pattern, "".join(self._log)):
                return match[1]
            time.sleep(0.05)
        raise SystemExit("the server did not start:\n" + "".join(self._log))

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(90)
        except subprocess.TimeoutExpired:
            self._process.kill()


async def measure(url: str, queries: list[str], expected: dict, options: argparse.Namespace) -> dict:
    limits = httpx.Limits(max_connections=2 * options.clients, max_keepalive_connections=2 * options.clients)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=90, trust_env=False) as client:
        await load(client, queries, 4, min(2.0, options.seconds), options.k)  # Warms up.
        levels = []
        for clients in (one for one in CLIENTS if one <= options.clients):
            level = await load(client, queries, clients, options.seconds, options.k)
            levels.append(level)
            print(
                f"{clients:>3} clients: {level['queries_per_second']:>8.1f} queries/s, "
                f"p50 {level['p50_ms']:.0f} ms, p95 {level['p95_ms']:.0f} ms, refused {level['refused']}"
            )
        rate = max(level["queries_per_second"] for level in levels) / 2
        half = await arrivals(client, queries, rate, options.seconds * 2, options.k)
        print(f"at {rate:.1f} queries/s: p50 {half['p50_ms']:.0f} ms, p99 {half['p99_ms']:.0f} ms")
        soaked = await soak(client, queries, expected, options)
        print(f"soak: {json.dumps(soaked)}")
    return {"throughput": levels, "latency_at_half": half, "soak": soaked}


def body_of(query: str, k: int) -> dict:
    return {"queries": [query], "k": k, "identifiers": 0, "texts": False}


def percentiles(seconds: list[float]) -> dict:
    ordered = sorted(seconds) or [float("nan")]
    return {f"p{p}_ms": round(1000 * ordered[min(len(ordered) - 1, p * len(ordered) // 100)], 1) for p in (50, 95, 99)}


async def load(client: httpx.AsyncClient, queries: list[str], clients: int, seconds: float, k: int) -> dict:
    """Clients that send one query after another."""
    times: list[float] = []
    refused = 0
    began = time.perf_counter()
    end = began + seconds

    async def ask(number: int) -> None:
        nonlocal refused
        choose = random.Random(number)
        while (start := time.perf_counter()) < end:
            reply = await client.post("/search", json=body_of(choose.choice(queries), k))
            if reply.status_code == 503:
                refused += 1
                await asyncio.sleep(0.1)
                continue
            reply.raise_for_status()
            times.append(time.perf_counter() - start)

    await asyncio.gather(*map(ask, range(clients)))
    rate = len(times) / (time.perf_counter() - began)
    return {"clients": clients, "queries_per_second": round(rate, 2), **percentiles(times), "refused": refused}


async def arrivals(client: httpx.AsyncClient, queries: list[str], rate: float, seconds: float, k: int) -> dict:
    """Queries that arrive at random times, whether or not those before them were answered."""
    choose = random.Random(0)
    times: list[float] = []

    async def ask(query: str) -> None:
        start = time.perf_counter()
        reply = await client.post("/search", json=body_of(query, k))
        if reply.status_code == 200:
            times.append(time.perf_counter() - start)

    asked = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        asked.append(asyncio.create_task(ask(choose.choice(queries))))
        await asyncio.sleep(choose.expovariate(rate))
    await asyncio.gather(*asked)
    return {"queries_per_second": round(rate, 2), "answered": len(times), "asked": len(asked), **percentiles(times)}


async def soak(client: httpx.AsyncClient, queries: list[str], expected: dict, options: argparse.Namespace) -> dict:
    """Good and bad requests of eight clients."""
    statuses: Counter[int] = Counter()
    wrong_status = different = compared = gone = 0
    memory: list[float] = []
    end = time.monotonic() + 60 * options.minutes

    async def good(choose: random.Random) -> None:
        nonlocal different, compared
        asked = choose.choices(queries, k=choose.choice((1, 1, 1, 2, 4)))
        body = {**body_of("", options.k), "queries": asked, "identifiers": choose.choice((0, 5, None))}
        reply = await client.post("/search", json=body)
        statuses[reply.status_code] += 1
        if reply.status_code != 200:
            await asyncio.sleep(0.1)
            return
        for query, result in zip(asked, reply.json()["results"], strict=True):
            compared += 1
            found = [(hit["passage_id"], hit["score"]) for hit in result["hits"]]
            different += not is_same(found, expected[query])

    async def bad(choose: random.Random) -> None:
        nonlocal wrong_status
        method, path, sent, allowed = choose.choice(BAD)
        reply = await client.request(method, path, **sent)
        statuses[reply.status_code] += 1
        wrong_status += reply.status_code not in allowed

    async def impatient(choose: random.Random) -> None:
        nonlocal gone
        try:
            await client.post("/search", json=body_of(choose.choice(queries), options.k), timeout=0.02)
        except httpx.TimeoutException:
            gone += 1

    async def ask(number: int) -> None:
        choose = random.Random(number)
        while time.monotonic() < end:
            await choose.choices((good, bad, impatient), (7, 3, 0.5))[0](choose)

    async def watch() -> None:
        while time.monotonic() < end:
            text = (await client.get("/metrics")).text
            memory.append(float(re.search(r"^process_resident_memory_bytes (\S+)", text, re.MULTILINE)[1]))
            await asyncio.sleep(min(1.0, options.minutes * 2))

    await asyncio.gather(watch(), *map(ask, range(8)))
    fifth = max(1, len(memory) // 5)
    before, after = mean(memory[fifth : 2 * fifth] or memory), mean(memory[-fifth:])
    return {
        "minutes": options.minutes,
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "errors_500": sum(count for status, count in statuses.items() if status >= 500 and status != 503),
        "unexpected_statuses": wrong_status,
        "compared": compared,
        "different": different,
        "given_up_by_clients": gone,
        "memory_mib": [round(before / 2**20, 1), round(after / 2**20, 1)],
        "memory_growth": round(after / before - 1, 4),
    }


JSON = {"content-type": "application/json"}
BAD = [
    ("POST", "/search", {"content": b"{", "headers": JSON}, {400}),
    ("POST", "/search", {"content": b"\xff\x00", "headers": JSON}, {400}),
    ("POST", "/search", {"content": b"queries=a"}, {422}),
    ("POST", "/search", {"json": {}}, {422}),
    ("POST", "/search", {"json": {"queries": []}}, {422}),
    ("POST", "/search", {"json": {"queries": ["a"] * 1000}}, {422}),
    ("POST", "/search", {"json": {"queries": ["a" * 5000]}}, {422}),
    ("POST", "/search", {"json": {"queries": ["a"], "k": 0}}, {422}),
    ("POST", "/search", {"json": {"queries": ["a"], "k": 10**9}}, {422}),
    ("POST", "/search", {"json": {"queries": ["a"], "other": 1}}, {422}),
    ("POST", "/search", {"json": {"queries": ["a"], "system": "none"}}, {404}),
    ("POST", "/search", {"content": b"x" * (2 << 20), "headers": JSON}, {413}),
    ("GET", "/search", {}, {405}),
    ("GET", "/passages/no-such-passage", {}, {404}),
    ("GET", "/passages/%2e%2e/%2e%2e/etc/passwd", {}, {404}),
    ("GET", "/nothing", {}, {404}),
    ("DELETE", "/", {}, {405}),
]


def is_same(found: list, expected: list) -> bool:
    """Whether two lists are equal but for rounding: passages of nearly equal scores may change places."""
    if len(found) != len(expected):
        return False
    for (passage_id, score), (_, wanted) in zip(found, expected, strict=True):
        tolerance = TOLERANCE * max(1.0, abs(wanted))
        if abs(score - wanted) > tolerance:
            return False
        last = abs(wanted - expected[-1][1]) <= 2 * tolerance  # One that the end of the list has cut off.
        near = {other for other, of in expected if abs(of - wanted) <= 2 * tolerance}
        if passage_id not in near and not last:
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
