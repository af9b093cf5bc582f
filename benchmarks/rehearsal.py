"""Rehearses a corpus of millions of passages on one machine: every stage, for real, with a kill and a resume in each.

    python benchmarks/rehearsal.py --data corpus.jsonl --passages 8800000 --tokens-per-passage 68 --output msmarco
    python benchmarks/rehearsal.py --data corpus.jsonl --passages 21000000 --tokens-per-passage 140 --output wikipedia

The sizes are those of MS MARCO and of Wikipedia. Passages are drawn from the phrases of a real text, `--data` (see
`benchmarks/dictionaries.py`): runs of one to eight of its words, so that words and short n-grams are as frequent as
they are there. Each passage has an id, a title and a pseudo-query; `--tokens-per-passage` counts all of its tokens in
the index.

The stages are those of a user, through the public API: `write` the corpus as JSON Lines, `read` it (Arrow), `index` it
segment by segment, `open` the index, `search` with a random model of BART-base's shape (three views, 15 beams), save
the `candidates` of queries, make training `pairs`, `change` one passage of a hundred, `compact` the segments. The long
ones (read, index, candidates, compact) are killed in the middle and started again; `killed` says after how long, and
how much more time both runs took than was expected of one. Each stage runs in a process of its own, whose peak memory
without mapped files is measured. A tenth of the corpus goes first, with a tenth of the queries for candidates:
`growth` is a stage's time over ten times the tenth's (that of the pairs, which are equally many, over the tenth's).

It may be interrupted: the same command goes on after the last finished stage. `results.json` in the output folder has
what is measured so far; the last line printed is the same object.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import datasets
import numpy as np
import torch
from decode import SEARCH, Clock, byte_level_bpe, frequency_bias, random_bart
from index import PeakMemory
from tqdm.auto import tqdm
from transformers import AutoTokenizer, set_seed

from dgr_trainer import Corpus, FMIndex, GenerativeRetriever, Identifiers, Passage, SearchSettings
from dgr_trainer.files.atomic import atomic_write
from dgr_trainer.processes.worker_processes import end_with_parent, map_chunks
from dgr_trainer.retrieval import search_engine
from dgr_trainer.training.pairs import generation_pairs

LONGEST_PHRASE = 8
TITLE_WORDS, PSEUDO_QUERY_WORDS, QUERY_WORDS = 3, 8, 12
BATCH = 10_000
QUERY_BATCH = 10


@dataclass(frozen=True)
class Rehearsal:
    """A corpus and where its stages write.

    Args:
        folder (`Path`): The output folder.
        data (`Path`): Corpus of real text.
        passages (`int`): Number of passages.
        options (`argparse.Namespace`): The options of the command.
    """

    folder: Path
    data: Path
    passages: int
    options: argparse.Namespace

    @property
    def candidates(self) -> int:
        """Number of queries whose candidates are saved: as much smaller as the corpus is."""
        return max(1, self.options.candidates * self.passages // self.options.passages)

    @property
    def corpus_file(self) -> Path:
        """The corpus as JSON Lines."""
        return self.folder / "corpus.jsonl"

    def corpus(self) -> Corpus:
        """The corpus, from the cache once it has been read."""
        return Corpus.read(self.corpus_file, cache_dir=self.folder / "cache")

    def identifiers(self) -> Identifiers:
        """A byte-level BPE tokenizer, trained once on the real text."""
        place = self.folder.parent / "tokenizer"
        if not place.is_dir():
            texts = (f" {passage.title} @@ {passage.text}" for passage in Corpus.read(self.data))
            with tempfile.TemporaryDirectory(dir=place.parent) as temporary:
                byte_level_bpe(texts, self.options.small).save_pretrained(temporary)
                shutil.copytree(temporary, place)
        return Identifiers(AutoTokenizer.from_pretrained(place))

    def retriever(self, index: FMIndex) -> GenerativeRetriever:
        """A random model that generates tokens as often as they occur in the corpus, over an index."""
        identifiers = self.identifiers()
        set_seed(0)
        model = random_bart(identifiers.tokenizer, self.options).eval()
        model.final_logits_bias = frequency_bias(index)[None]
        settings = SearchSettings(
            beam_size=self.options.beam_size, title_length=15, pseudo_query_length=30, batch_size=QUERY_BATCH
        )
        return GenerativeRetriever(model, identifiers, index, settings=settings)

    def queries(self, number: int) -> dict[str, str]:
        """Queries: words of the real text."""
        phrases = Phrases(self.data, seed=2)
        return {f"q{n}": phrases.text(QUERY_WORDS) for n in range(number)}


class Phrases:
    """Draws texts of phrases: runs of words of a real text, from its start to its end equally likely.

    Args:
        data (`Path`): Corpus of the real text.
        seed (`int`): Seed of the draw.
    """

    def __init__(self, data: Path, seed: int) -> None:
        corpus = Corpus.read(data)
        words = [word for passage in corpus for word in passage.text.split()]
        self.num_words = len(words)
        self.text_of_all = " ".join(words)
        lengths = np.fromiter(map(len, words), np.int64, len(words))
        self.starts = np.concatenate([[0], np.cumsum(lengths + 1)])
        self.random = np.random.default_rng(seed)

    def texts(self, sizes: np.ndarray) -> Iterator[str]:
        """Yield a text of each size, in words."""
        average = (1 + LONGEST_PHRASE) / 2
        counts = np.maximum(np.round(sizes / average).astype(int), 1)
        first = self.random.integers(0, self.num_words - LONGEST_PHRASE, int(counts.sum()))
        last = first + self.random.integers(1, LONGEST_PHRASE + 1, len(first))
        spans = iter(zip(self.starts[first].tolist(), (self.starts[last] - 1).tolist(), strict=True))
        text = self.text_of_all
        for count in counts.tolist():
            yield " ".join([text[start:stop] for _, (start, stop) in zip(range(count), spans, strict=False)])

    def text(self, size: int) -> str:
        """A text of about `size` words."""
        return next(self.texts(np.array([size])))


# Stages: each is given the rehearsal and returns what it measured.


def write(job: Rehearsal) -> dict[str, Any]:
    """Write the corpus."""
    phrases, identifiers = Phrases(job.data, seed=1), job.identifiers()
    sample = [phrases.text(100) for _ in range(200)]
    per_word = sum(len(identifiers.encode(text)) for text in sample) / sum(len(text.split()) for text in sample)
    # Markers and the separator take four tokens.
    words = (job.options.tokens_per_passage - 4) / per_word - TITLE_WORDS - PSEUDO_QUERY_WORDS
    began = time.perf_counter()
    lines_of = partial(passage_lines, phrases, words, job.passages)
    with atomic_write(job.corpus_file) as file, tqdm(total=job.passages, desc="Writing", unit=" passages") as bar:
        for lines in map_chunks(lines_of, range(0, job.passages, BATCH), job.options.threads):
            file.write("".join(lines))
            bar.update(len(lines))
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "bytes": job.corpus_file.stat().st_size, "passages_per_s": job.passages / seconds}


def passage_lines(phrases: Phrases, words: float, passages: int, start: int) -> list[str]:
    """Lines of some passages, of so many words on average; a line's text depends on its number alone."""
    count = min(BATCH, passages - start)
    phrases.random = np.random.default_rng([1, start])
    sizes = phrases.random.normal(words, words / 4, count).clip(1, 2 * words)
    titles, asked = (phrases.texts(np.full(count, size)) for size in (TITLE_WORDS, PSEUDO_QUERY_WORDS))
    lines = []
    for number, (title, query, text) in enumerate(zip(titles, asked, phrases.texts(sizes), strict=True), start):
        passage = {"id": f"p{number:08}", "title": title, "text": text, "pseudo_queries": [query]}
        lines.append(json.dumps(passage, ensure_ascii=False) + "\n")
    return lines


def read(job: Rehearsal) -> dict[str, Any]:
    """Read it into Arrow, and open what was read."""
    began = time.perf_counter()
    assert len(job.corpus()) == job.passages
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    corpus = job.corpus()
    opened = time.perf_counter() - began
    assert corpus[job.passages // 2].id == f"p{job.passages // 2:08}"
    return {
        "seconds": seconds, "passages_per_s": job.passages / seconds, "open_s": opened,
        "bytes": size_of(job.folder / "cache"),
    }  # fmt: skip


def index(job: Rehearsal) -> dict[str, Any]:
    """Tokenise and index it, segment by segment."""
    began = time.perf_counter()
    made = FMIndex.from_corpus(
        job.corpus(), job.identifiers(), folder=job.folder / "index", segment_tokens=job.options.segment_tokens,
        num_proc=job.options.threads,
    )  # fmt: skip
    return facts_of(made, job.folder / "index", time.perf_counter() - began)


def change(job: Rehearsal) -> dict[str, Any]:
    """Replace one passage of a hundred: remove it, and add a new one."""
    opened = FMIndex.load(job.folder / "index")
    phrases, new = Phrases(job.data, seed=3), max(1, job.passages // 100)
    removed = (opened.passage_ids[number] for number in range(0, job.passages, 100))
    added = Corpus.from_passages(
        (Passage(f"new{n}", phrases.text(TITLE_WORDS), phrases.text(40)) for n in range(new)),
        cache_dir=job.folder / "cache",
    )
    began = time.perf_counter()
    changed = opened.remove(removed).add_corpus(added, job.identifiers())
    changed.save(job.folder / "index")
    return facts_of(FMIndex.load(job.folder / "index"), job.folder / "index", time.perf_counter() - began)


def compact(job: Rehearsal) -> dict[str, Any]:
    """Index what remains again, in as few segments as memory allows."""
    began = time.perf_counter()
    FMIndex.load(job.folder / "index").compact(folder=job.folder / "index")
    return facts_of(FMIndex.load(job.folder / "index"), job.folder / "index", time.perf_counter() - began)


def open_index(job: Rehearsal) -> dict[str, Any]:
    """Open the index: with none of it in memory, and again."""
    times = {}
    for name, cold in (("cold_ms", True), ("warm_ms", False)):
        measured = []
        for _ in range(5):
            if cold:
                forget(job.folder / "index")
            began = time.perf_counter()
            FMIndex.load(job.folder / "index")
            measured.append(1000 * (time.perf_counter() - began))
        times[name] = median(measured)
    return times


def search(job: Rehearsal) -> dict[str, Any]:
    """Search: the first queries with none of the index in memory, then again and again."""
    queries = list(job.queries(QUERY_BATCH * (1 + job.options.searches)).values())
    retriever = job.retriever(FMIndex.load(job.folder / "index"))
    retriever.search(queries[:1], k=100)  # Compiles what is not compiled yet, and reads the model.
    forget(job.folder / "index")
    retriever = job.retriever(FMIndex.load(job.folder / "index"))
    memory = PeakMemory()
    memory.start()
    found = [timed_search(retriever, queries[start : start + QUERY_BATCH]) for start in
             range(0, len(queries), QUERY_BATCH)]  # fmt: skip
    peak = memory.stop()
    warm = {name: median(one[name] for one in found[1:]) for name in found[0]}
    return {
        "cold": found[0], "warm": warm, "cold_to_warm": found[0]["seconds_per_query"] / warm["seconds_per_query"],
        "memory": peak, "segments": retriever.index.num_segments,
    }  # fmt: skip


def timed_search(retriever: GenerativeRetriever, queries: list[str]) -> dict[str, float]:
    """Seconds of a query, and those that are not the model's."""
    clock = Clock(argparse.Namespace(device="cpu", cpu_time=False))
    model = [*SEARCH[1:], (search_engine, "score_identifiers", "query words")]
    with clock.watching(*model):
        began = clock.now()
        hits = retriever.search(queries, k=100)
        seconds = clock.now() - began
    assert all(hits)
    return {
        "seconds_per_query": seconds / len(queries),
        "without_model_s": (seconds - sum(clock.seconds.values())) / len(queries),
    }


def candidates(job: Rehearsal) -> dict[str, Any]:
    """Save the candidates of queries."""
    retriever, queries = job.retriever(FMIndex.load(job.folder / "index")), job.queries(job.candidates)
    began = time.perf_counter()
    retriever.save_candidates(job.folder / "candidates", queries, k=100)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "queries_per_s": len(queries) / seconds, "bytes": size_of(job.folder / "candidates")}


def pairs(job: Rehearsal) -> dict[str, Any]:
    """Make the training pairs of queries, each with one relevant passage."""
    corpus, queries = job.corpus(), job.queries(job.options.pairs)
    step = max(1, job.passages // len(queries))
    qrels = {query: {corpus.ids[number * step]: 1} for number, query in enumerate(queries)}
    began = time.perf_counter()
    made = generation_pairs(
        corpus, job.identifiers(), queries, qrels, samples_per_passage=0, num_proc=job.options.threads
    )
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "pairs": len(made), "queries_per_s": len(queries) / seconds}


STAGES: dict[str, Callable[[Rehearsal], dict[str, Any]]] = {
    "write": write, "read": read, "index": index, "open": open_index, "search": search, "candidates": candidates,
    "pairs": pairs, "change": change, "compact": compact,
}  # fmt: skip
KILLED = ("read", "index", "candidates", "compact")


def facts_of(made: FMIndex, folder: Path, seconds: float) -> dict[str, Any]:
    return {
        "seconds": seconds, "tokens": made.num_tokens, "segments": made.num_segments,
        "tokens_per_s": made.num_tokens / seconds, "bytes_per_token": size_of(folder) / made.num_tokens,
    }  # fmt: skip


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def forget(folder: Path) -> None:
    """Ask the operating system to drop files from memory; those that a process maps stay."""
    os.sync()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def work(job: Rehearsal, stage: str, file: Path) -> None:
    """Run a stage in this process, and write what it measured."""
    end_with_parent()
    torch.set_num_threads(job.options.threads)
    memory = PeakMemory()
    memory.start()
    result = STAGES[stage](job)
    result["peak_memory"] = memory.stop()
    with atomic_write(file) as stream:
        json.dump(result, stream)


def run(job: Rehearsal, stage: str, expected: float | None) -> dict[str, Any]:
    """Run a stage in a new process; a long one is killed in the middle first, and started again."""
    file = job.folder / f"{stage}.json"
    context = multiprocessing.get_context("spawn")
    killed_after, began = 0.0, time.perf_counter()
    if stage in KILLED and expected is not None and expected > 2 * job.options.shortest_kill:
        process = context.Process(target=work, args=(job, stage, file))
        process.start()
        process.join(expected / 2)
        if process.is_alive():
            process.kill()
            process.join()
            killed_after = time.perf_counter() - began
    resumed = time.perf_counter()
    if not file.exists():
        process = context.Process(target=work, args=(job, stage, file))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"The stage {stage} of {job.folder} failed (exit code {process.exitcode}).")
    result: dict[str, Any] = json.loads(file.read_text())
    if killed_after:
        # Without the time to start a process, which a short stage would be measured by.
        after = time.perf_counter() - resumed
        result["killed"] = {"after_s": killed_after, "resumed_s": after, "lost_s": killed_after + after - expected}
        for name in ("passages_per_s", "tokens_per_s", "queries_per_s"):  # Those of both runs together.
            if name in result:
                result[name] *= result["seconds"] / (killed_after + after)
        result["seconds"] = killed_after + after
    return result


def rehearse(job: Rehearsal, results: dict[str, Any], tenth: dict[str, Any] | None, save: Callable[[], None]) -> None:
    """Run the stages that are not finished; `tenth` has the results of a tenth of the corpus."""
    job.folder.mkdir(parents=True, exist_ok=True)
    for stage in STAGES:
        if stage in results:
            continue
        print(f"{job.passages:,} passages: {stage}", flush=True)
        expected = None
        if tenth is not None and "seconds" in tenth[stage]:
            expected = tenth[stage]["seconds"] * (1 if stage == "pairs" else 10)
        results[stage] = run(job, stage, expected)
        if expected is not None and "seconds" in results[stage]:
            results[stage]["growth"] = results[stage]["seconds"] / expected
        save()
        print(f"  {json.dumps(results[stage])}", flush=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Corpus of real text.")
    parser.add_argument("--output", type=Path, required=True, help="Folder of the results; kept between runs.")
    parser.add_argument("--passages", type=int, default=8_800_000)
    parser.add_argument("--tokens-per-passage", type=int, default=68)
    parser.add_argument("--segment-tokens", type=int, default=1_000_000_000, help="Most tokens of a segment.")
    parser.add_argument("--beam-size", type=int, default=15)
    parser.add_argument("--searches", type=int, default=5, help="Warm searches of ten queries.")
    parser.add_argument("--candidates", type=int, default=1000, help="Queries whose candidates are saved.")
    parser.add_argument("--pairs", type=int, default=10_000, help="Queries whose pairs are made.")
    parser.add_argument("--threads", type=int, default=2, help="Threads, and processes that tokenise.")
    parser.add_argument("--shortest-kill", type=float, default=20.0, help="Seconds that a killed stage has to run.")
    parser.add_argument("--small", action="store_true", help="Use a tiny random model, to check that the script runs.")
    parser.add_argument("--keep", action="store_true", help="Keep the files of the tenth.")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    results_file = options.output / "results.json"
    wanted = {
        name: getattr(options, name)
        for name in (
            *("passages", "tokens_per_passage", "segment_tokens", "beam_size", "small", "threads"),
            *("searches", "candidates", "pairs"),
        )
    }
    results: dict[str, Any] = {"options": wanted, "tenth": {}, "whole": {}}
    if results_file.exists():
        results = json.loads(results_file.read_text())
        if results["options"] != wanted:
            sys.exit(f"{results_file} was measured with {results['options']}. Give another --output.")

    def save() -> None:
        with atomic_write(results_file) as stream:
            json.dump(results, stream, indent=2)

    job = partial(Rehearsal, data=options.data, options=options)
    rehearse(job(options.output / "tenth", passages=options.passages // 10), results["tenth"], None, save)
    if not options.keep:
        shutil.rmtree(options.output / "tenth", ignore_errors=True)
    rehearse(job(options.output / "whole", passages=options.passages), results["whole"], results["tenth"], save)
    print(json.dumps(results))


if __name__ == "__main__":
    datasets.disable_progress_bars()
    main()
