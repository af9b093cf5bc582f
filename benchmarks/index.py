"""Measures the index at growing sizes: building, disk, memory, opening, and each kind of query.

    python benchmarks/index.py --tokens 1000000 10000000 100000000
    python benchmarks/index.py --data corpus.jsonl

With `--data`, the passages are those of a corpus (any that `Corpus.read` reads), encoded by a byte-level BPE tokenizer
of 50,000 tokens trained on them; sizes are prefixes of the corpus. Without it, passages are random: phrases of one to
eight tokens, with phrases and tokens drawn by Zipf's law. Each size is measured in a separate process, and queries on
the index as loaded from the disk; times of queries are medians of five. The table also has the numbers of a C++ index
(sdsl, by way of SEAL) at 10 million tokens of English text on two cores of the same kind. A JSON object is printed
after each size, and one of all sizes in the last line.

`extract_tokens_per_s` reads passages by walks, `whole_text_tokens_per_s` all of the text as `FMIndex.compact` does.

The calls of a search are timed as a search makes them. `step_ms` is one step of 150 beams (10 queries of 15), n-grams
of 1 to 8 tokens: frequent ones are tried with 120 likely tokens until 30 are found to follow, the continuations of the
others are listed, then each beam is extended. `hits_ms` is finding and locating 3,000 identifiers of one query,
n-grams of 100 passages, and ranking the passages in which they occur. `scoring_ms` is reading the 1,500 best of these
and scoring them in full. `query_ms` is the sum for a query of three views: 53 steps of 15 beams (substrings of 8,
titles of 15 and pseudo-queries of 30 tokens), hits and scoring. The growth of these times is fitted, too. All of this
is of an index that is walked; what reads the text is also timed where a small index is unpacked into memory.
"""

import argparse
import json
import math
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from tqdm.auto import tqdm

from dgr_trainer import Corpus, FMIndex, SearchSettings
from dgr_trainer.candidates import MatchedIdentifier
from dgr_trainer.index import query_dispatch
from dgr_trainer.index.whole_text import whole_text
from dgr_trainer.retrieval.legal_tokens import _TRIED, LISTED
from dgr_trainer.retrieval.passage_scoring import PassageScorer

VOCABULARY = 50_000
SEPARATOR = 2
PASSAGE = 100
REPEATS = 5
BEAMS = 150
IDENTIFIERS = 3_000
SEARCH = SearchSettings(title_length=15, pseudo_query_length=30)
VIEWS = ("substring", "title", "pseudo_query")
GROWTH = ("build_s", "step_ms", "hits_ms", "scoring_ms", "query_ms")
_TEXT_CALLS = ("hits_ms", "scoring_ms")
SIZES = [1_000_000, 10_000_000, 100_000_000]
# The C++ index at 10 million tokens: its numbers, and whether more is better.
PEERS = {
    "build_tokens_per_s": (740_000, True),
    "bytes_per_token": (3.32, False),
    "open_ms": (150.0, False),
    "locate_per_s": (12_600, True),
    "count_ngrams_per_s": (60_000, True),
    "continuations_1_ms": (171.0, False),
    "continuations_2_ms": (41.0, False),
    "continuations_4_ms": (24.7, False),
    "continuations_8_ms": (13.0, False),
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="Corpus to index. By default tokens are drawn at random.")
    parser.add_argument("--tokens", type=int, nargs="+", default=SIZES, help="Sizes in tokens.")
    parser.add_argument("--segment-tokens", type=int, help="Split the index into segments of this many tokens.")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def zipf(generator: np.random.Generator, number: int, size: int, exponent: float) -> np.ndarray:
    """Draw numbers below `number` by Zipf's law, low numbers most often."""
    weights = np.cumsum(1 / (np.arange(number) + 2.7) ** exponent)
    return np.searchsorted(weights, generator.random(size) * weights[-1])


def write_random(path: Path, size: int, seed: int) -> None:
    """Write a text of Zipfian phrases, in passages of `PASSAGE` tokens with their separators."""
    generator = np.random.default_rng(seed)
    phrases = max(1000, size // 40)
    lengths = generator.integers(1, 9, phrases)
    starts = np.cumsum(lengths) - lengths
    words = zipf(generator, VOCABULARY - SEPARATOR - 1, int(lengths.sum()), 1.0) + SEPARATOR + 1
    text = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint16, shape=(size,))
    written = 0
    while written < size:
        chosen = zipf(generator, phrases, min(1_000_000, size), 0.9)
        counts = lengths[chosen]
        positions = np.repeat(starts[chosen] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        tokens = words[positions][: size - written]
        text[written : written + len(tokens)] = tokens
        written += len(tokens)
    text[PASSAGE - 1 :: PASSAGE] = SEPARATOR
    text[-1] = SEPARATOR
    text.flush()


def write_corpus(path: Path, data: Path) -> int:
    """Write the text of a corpus, and return its number of tokens."""
    from tokenizers import ByteLevelBPETokenizer

    corpus = Corpus.read(data)
    texts = [f"{passage.title} @@ {passage.text}" for passage in tqdm(corpus, desc="Reading")]
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        texts[:: max(1, len(texts) // 50_000)], VOCABULARY, special_tokens=["<s>", "<pad>", "</s>"]
    )
    parts = []
    for start in tqdm(range(0, len(texts), 10_000), desc="Encoding"):
        for encoding in tokenizer.encode_batch(texts[start : start + 10_000]):
            parts.append(np.array([*encoding.ids, SEPARATOR], np.uint16))
    text = np.concatenate(parts)
    np.save(path, text)
    return len(text)


def passages_of(text: np.ndarray) -> Iterator[np.ndarray]:
    """The passages of a text, without separators."""
    step = 1 << 22
    start = 0
    for begin in range(0, len(text), step):
        for end in (np.flatnonzero(text[begin : begin + step] == SEPARATOR) + begin).tolist():
            yield text[start:end]
            start = end + 1


class PeakMemory(threading.Thread):
    """The peak of this process's memory since the start, without mapped files."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.first = self.peak = self._now()
        self.done = threading.Event()

    def _now(self) -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("This system does not report the memory of a process without mapped files.")

    def run(self) -> None:
        while not self.done.wait(0.01):
            self.peak = max(self.peak, self._now())

    def stop(self) -> int:
        self.done.set()
        self.join()
        return self.peak - self.first


def seconds(run: Callable[[], Any]) -> float:
    """Median time of a call, in seconds."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return sorted(times)[REPEATS // 2]


def measure(file: Path, size: int, folder: Path, seed: int, segment_tokens: int | None, results: Any) -> None:
    """Build an index of the first `size` tokens in a fresh process, and measure it."""
    text = np.load(file, mmap_mode="r")[:size]
    last = len(text) - int(np.argmax(text[::-1] == SEPARATOR))
    text = text[:last]
    # Compiles every kernel.
    queries(build(np.asarray(text[: min(last, 20_000)]) if last <= 20_000 else with_end(text[:20_000])), seed, 200)
    memory = PeakMemory()
    memory.start()
    began = time.perf_counter()
    index = build(text, segment_tokens)
    built = time.perf_counter() - began
    peak = memory.stop()
    index.save(folder / "index")
    saved = time.perf_counter() - began
    del index
    files = sum(path.stat().st_size for path in (folder / "index").rglob("*") if path.is_file())
    result = {
        "tokens": len(text),
        "build_s": built,
        "build_tokens_per_s": len(text) / built,
        "build_and_save_tokens_per_s": len(text) / saved,
        "bytes_per_token": files / len(text),
        "peak_build_bytes_per_token": peak / len(text),
        "open_ms": 1000 * seconds(lambda: FMIndex.load(folder / "index")),
    }
    index = FMIndex.load(folder / "index")
    with mock.patch.object(query_dispatch, "MOST_TOKENS", 0):  # Walked, as an index of any size can be.
        result |= queries(index, seed, 200_000)
    result["unpacked"] = unpacked(index, seed) if index.num_tokens <= query_dispatch.MOST_TOKENS else None
    results.put(result)


def with_end(text: np.ndarray) -> np.ndarray:
    return np.append(text, np.uint16(SEPARATOR))


def build(text: np.ndarray, segment_tokens: int | None = None) -> FMIndex:
    passages = int(np.count_nonzero(text == SEPARATOR))
    return FMIndex.build(
        passages_of(text), passage_ids=map(str, range(passages)), vocab_size=VOCABULARY + 1, separator=SEPARATOR,
        segment_tokens=segment_tokens, progress=False,
    )  # fmt: skip


def queries(index: FMIndex, seed: int, number: int) -> dict[str, Any]:
    """Time each kind of query on n-grams of the corpus, drawn in proportion to their counts."""
    generator = np.random.default_rng(seed)
    long = np.flatnonzero(index.passage_lengths >= 8)
    indptr, tokens = index.extract_batch(generator.choice(long, 20_000))

    def ngrams(length: int, size: int) -> np.ndarray:
        passages = generator.integers(0, len(indptr) - 1, size)
        room = np.diff(indptr)[passages] - length
        starts = indptr[passages] + (generator.random(size) * (room + 1)).astype(np.int64)
        return tokens[starts[:, None] + np.arange(length)]

    patterns = ngrams(3, number)
    ranges = index.find_batch(patterns)
    rare = ranges[:50_000]
    occurrences = len(index.locate_batch(rare, 3, 5)[0])
    frequent = np.argsort(-index.token_counts, kind="stable")[:51]
    frequent = frequent[frequent != SEPARATOR][:50]
    beams = {1: index.find_batch(np.resize(frequent, (150, 1)))}
    beams |= {length: index.find_batch(ngrams(length, 150)) for length in (2, 4, 8)}
    by_count = np.argsort(-index.token_counts, kind="stable")
    likely = by_count[zipf(generator, 10_000, 150 * 60, 1.0).reshape(150, 60)]
    return {
        "count_ngrams_per_s": number / seconds(lambda: index.find_batch(patterns)),
        "locate_per_s": occurrences / seconds(lambda: index.locate_batch(rare, 3, 5)),
        "extract_tokens_per_s": len(tokens) / seconds(lambda: index.extract_batch(generator.choice(long, 20_000))),
        "whole_text_tokens_per_s": index.num_tokens
        / seconds(lambda: [whole_text(segment.arrays, SEPARATOR) for segment in index.segments]),
        "continuations_150_ranges_ms": {
            str(length): 1000 * seconds(lambda beam_ranges=beam_ranges: index.continuations_batch(beam_ranges))
            for length, beam_ranges in beams.items()
        },
        "extend_150_ranges_by_60_tokens_ms": 1000 * seconds(lambda: index.extend(beams[1], likely)),
        **search(index, seed),
    }


def search(index: FMIndex, seed: int) -> dict[str, float]:
    """Time the calls that a search makes."""
    generator = np.random.default_rng(seed)
    long = np.flatnonzero(index.passage_lengths >= SEARCH.substring_length)

    def ngrams(passages: np.ndarray, size: int) -> list[tuple[int, ...]]:
        """N-grams of 1 to 8 tokens from these passages, equally many of each length."""
        texts = [index.extract(passage) for passage in passages]
        drawn = []
        for number in range(size):
            text, length = texts[number % len(texts)], 1 + number % SEARCH.substring_length
            start = int(generator.integers(len(text) - length + 1))
            drawn.append(tuple(text[start : start + length].tolist()))
        return drawn

    best = 2 * SEARCH.beam_size
    beams = index.find_batch(ngrams(generator.choice(long, BEAMS), BEAMS))
    counts = index.counts(beams)
    wide = beams[counts > LISTED]
    likely = np.argsort(-index.token_counts, kind="stable")
    tried = likely[zipf(generator, min(10_000, len(likely)), len(wide) * _TRIED * best, 1.0)].reshape(
        -1, _TRIED * best
    )
    # A token that follows each beam.
    offsets, tokens, _ = index.continuations_batch(beams)
    chosen = tokens[offsets[:-1]]

    def step() -> None:
        enough = (index.counts(index.extend(wide, tried, enough=best)) > 0).sum(axis=1) >= best
        index.continuations_batch(np.concatenate([beams[counts <= LISTED], wide[~enough]]))
        index.extend(beams, chosen)

    patterns = list(dict.fromkeys(ngrams(generator.choice(long, 100), IDENTIFIERS)))
    occurrences = index.counts(index.find_batch(patterns)).tolist()
    weighted = [
        MatchedIdentifier("substring", ids, count, float(weight))
        for ids, count, weight in zip(patterns, occurrences, generator.random(len(patterns)), strict=True)
    ]
    unigrams = np.zeros(index.vocab_size)
    unigrams[likely[: SEARCH.unigrams]] = 0.1
    scorer = PassageScorer(index, NoMarkers(), weighted, unigrams, repetition=0.8)
    passages = scorer.find_passages(SEARCH.max_occurrences, SEARCH.max_passages)
    times = {
        "step_ms": 1000 * seconds(step),
        "hits_ms": 1000 * seconds(lambda: scorer.find_passages(SEARCH.max_occurrences, SEARCH.max_passages)),
        "scoring_ms": 1000 * seconds(lambda: scorer.score(passages)),
    }
    steps = sum(map(SEARCH.length, VIEWS)) * SEARCH.beam_size / BEAMS
    return times | {"query_ms": steps * times["step_ms"] + times["hits_ms"] + times["scoring_ms"]}


def unpacked(index: FMIndex, seed: int) -> dict[str, float]:
    """The calls that read the text, when it is in memory."""
    for _ in range(3):
        index.extract_batch(np.arange(index.num_passages))
    times = search(index, seed)
    return {name: times[name] for name in _TEXT_CALLS}


class NoMarkers:
    """Replaces [`Identifiers`]: the identifiers here are n-grams without markers."""

    @staticmethod
    def prefix(view: str) -> tuple[int, ...]:
        return ()


def main() -> None:
    options = parse()
    context = multiprocessing.get_context("spawn")
    measured = []
    with tempfile.TemporaryDirectory() as work:
        sizes = sorted(options.tokens)
        file = Path(work) / "text.npy"
        if options.data is not None:
            available = write_corpus(file, options.data)
            sizes = [size for size in sizes if size < available] + [available] * (max(sizes) >= available)
        else:
            write_random(file, max(sizes), options.seed)
        for size in tqdm(sizes, desc="Measuring"):
            results = context.Queue()
            folder = Path(work) / str(size)
            arguments = (file, size, folder, options.seed, options.segment_tokens, results)
            process = context.Process(target=measure, args=arguments)
            process.start()
            while process.is_alive() and results.empty():
                time.sleep(0.1)
            if results.empty():
                raise SystemExit(f"Measuring {size} tokens failed (exit status {process.exitcode}).")
            measured.append(results.get())
            print(json.dumps(measured[-1]), flush=True)
            process.join()
    report(measured)


def report(measured: list[dict[str, Any]]) -> None:
    rows = [
        {
            **result,
            **{f"continuations_{n}_ms": ms for n, ms in result["continuations_150_ranges_ms"].items()},
            **{
                f"{name}, unpacked": (result.get("unpacked") or {}).get(name, math.nan)
                for name in ("hits_ms", "scoring_ms")
            },
        }
        for result in measured
    ]
    reference = min(rows, key=lambda row: abs(np.log(row["tokens"] / 10_000_000)))
    print(f"{'':34}" + "".join(f"{row['tokens']:>14,}" for row in rows) + f"{'peer':>12}{'ratio':>8}")
    for name in rows[0]:
        if name in ("tokens", "continuations_150_ranges_ms", "unpacked"):
            continue
        line = f"{name:34}" + "".join(f"{row[name]:>14,.2f}" for row in rows)
        if name in PEERS:
            peer, more_is_better = PEERS[name]
            ratio = reference[name] / peer if more_is_better else peer / reference[name]
            line += f"{peer:>12,.2f}{ratio:>7.1f}x"
        print(line)
    print(f"The ratio is how many times better, at {reference['tokens']:,} tokens.")
    growth = {}
    if len(rows) > 1:
        sizes = np.log([row["tokens"] for row in rows])
        growth = {name: float(np.polyfit(sizes, np.log([row[name] for row in rows]), 1)[0]) for name in GROWTH}
        for name, exponent in growth.items():
            print(f"{name} grows with the size to the power of {exponent:.3f}.")
    print(json.dumps({"sizes": measured, "growth_exponent": growth.get("build_s"), "growth_exponents": growth}))


if __name__ == "__main__":
    main()
