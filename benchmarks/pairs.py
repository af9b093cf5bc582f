"""Generation pairs per second, against the way that takes one query and one passage at a time.

    python benchmarks/pairs.py [--data DIR] [--model MODEL] [--queries N] [--num-proc N] [--rounds N]

Both sides make the pairs of the same queries with the published targets, which have to be equal. Without `--data`, a
BEIR folder, the passages are those of Python's documentation, with made-up questions. Both sides run in alternating
order, and the medians of the rounds are compared. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rapidfuzz import fuzz, process
from transformers import AutoTokenizer

from dgr_trainer import Corpus, Identifiers, generation_pairs, read_qrels, read_queries
from dgr_trainer.identifiers.unknown_text import check_script
from dgr_trainer.quickstart.pipeline import CHECKPOINT
from dgr_trainer.training.stop_words import StopWords

COUNTS = {"title": 3, "docid": 3, "substring": 10, "pseudo_query": 5}
WORDS = 10


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="BEIR folder with a train split.")
    parser.add_argument("--model", default=str(CHECKPOINT), help="Whose tokenizer is used.")
    parser.add_argument("--queries", type=int, default=4000)
    parser.add_argument("--num-proc", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args(arguments)


def one_at_a_time(
    corpus: Corpus, identifiers: Identifiers, queries: Mapping[str, str], qrels: Mapping[str, Mapping[str, int]]
) -> Iterator[tuple[list[int], list[int]]]:
    """The pairs of queries with the default settings and the seed 42: prompt and labels of each."""
    # As it was: the tokenizer's own call, and every word of every passage.
    identifiers = Identifiers(identifiers.tokenizer, identifiers.settings)
    identifiers._encoder._backend = None
    check_script(corpus, identifiers)
    stop_words = StopWords(corpus, identifiers)
    eos = identifiers.eos_token_id
    chunk: list[tuple[str, str, Any]] = []

    def examples() -> Iterator[tuple[str, str, Any]]:
        for query_id in sorted(queries):
            for passage_id in sorted(p for p, grade in qrels.get(query_id, {}).items() if grade > 0):
                random = np.random.default_rng([42, zlib.crc32(query_id.encode()), zlib.crc32(passage_id.encode())])
                query, passage = queries[query_id], corpus.get(passage_id)
                (segments,) = identifiers.encode_segments([passage])
                for view in identifiers.views:
                    if view == "substring":
                        identifiers._encoder._word_ids.clear()
                        targets = substrings(passage.text, segments.body, query, random)
                    elif view == "pseudo_query":
                        others = [ids for ids in segments.pseudo_queries if identifiers.decode(ids) != query]
                        chosen = random.permutation(len(others))[: COUNTS[view]]
                        targets = [identifiers.target(view, others[i]) for i in chosen]
                    else:
                        segment = segments.title if view == "title" else segments.docid
                        targets = [identifiers.target(view, segment)] * (COUNTS[view] if segment else 0)
                    for ids in targets:
                        yield view, query, ids

    def substrings(text: str, body: list[int], query: str, random: np.random.Generator) -> list[Any]:
        if not body:
            return []
        words = identifiers.words(text, body)
        starts = list(range(len(body))) if words is None else words.starts
        probabilities = None
        if words is not None:
            query_words = identifiers.split_words(query)
            query_grams = [query_words.piece(i, 3) for i in range(len(query_words.spans))]
            grams = [words.piece(i, 3) for i in range(len(words.spans))]
            weights = np.zeros(len(grams))
            if query_grams:
                similar = process.cdist(query_grams, grams, scorer=fuzz.ratio, dtype=np.float32).sum(axis=0) / 100.0
                similar[[words.piece(i, 1) in stop_words for i in range(len(grams))]] = 0.0
                weights = np.asarray(similar, dtype=np.float64)
            probabilities = np.exp(weights - weights.max())
            probabilities /= probabilities.sum()
        bounds = [*starts, len(body)]
        chosen = random.choice(len(starts), size=COUNTS["substring"], p=probabilities)
        return [tuple(body[bounds[first] : bounds[min(first + WORDS, len(starts))]]) for first in chosen]

    def flush() -> Iterator[tuple[list[int], list[int]]]:
        prompts: dict[int, list[int]] = {}
        for view in {view for view, _, _ in chunk}:
            rows = [row for row, example in enumerate(chunk) if example[0] == view]
            prompts |= zip(rows, identifiers.encode_prompts([chunk[row][1] for row in rows], view, False), strict=True)
        for row, (_, _, ids) in enumerate(chunk):
            yield prompts[row], [*ids] if ids[-1] == eos else [*ids, eos]

    for example in examples():
        chunk.append(example)
        if len(chunk) == 256:
            yield from flush()
            chunk = []
    yield from flush()


def read(options: argparse.Namespace) -> tuple[Corpus, dict[str, str], Mapping[str, Mapping[str, int]]]:
    """Corpus, queries and qrels."""
    if options.data is not None:
        corpus, queries = Corpus.read(options.data), read_queries(options.data, "train")
        qrels: Mapping[str, Mapping[str, int]] = read_qrels(options.data, "train")
    else:
        from dgr_trainer.quickstart.python_docs import python_docs_corpus
        from dgr_trainer.quickstart.student import made_up_questions

        corpus = python_docs_corpus()
        queries, qrels = made_up_questions(corpus, 1, 0)
    queries = queries.select(range(min(options.queries, len(queries))))
    return corpus, dict(zip(queries["query_id"], queries["query"], strict=True)), qrels


def main(arguments: list[str] | None = None) -> dict[str, float]:
    options = parse(arguments)
    corpus, queries, qrels = read(options)
    identifiers = Identifiers(AutoTokenizer.from_pretrained(options.model))
    print(f"{len(corpus):,} passages, {len(queries):,} queries", flush=True)

    def batched(num_proc: int | None) -> Any:
        return generation_pairs(
            corpus, Identifiers(identifiers.tokenizer), queries, qrels,
            samples_per_passage=0, num_proc=num_proc, progress=False,
        )  # fmt: skip

    sides = {
        "one at a time": lambda: list(one_at_a_time(corpus, identifiers, queries, qrels)),
        "batched": lambda: batched(None),
        f"batched, {options.num_proc} processes": lambda: batched(options.num_proc),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    made = {}
    for number in range(options.rounds):
        for name in list(sides) if number % 2 == 0 else reversed(list(sides)):
            began = time.perf_counter()
            made[name] = sides[name]()
            seconds[name].append(time.perf_counter() - began)
    reference, *others = made.values()
    for pairs in others:
        if list(zip(pairs["input_ids"], pairs["labels"], strict=True)) != reference:
            raise SystemExit("The pairs are not the same.")
    print("| | queries/s (median) |\n|---|---|")
    medians = [statistics.median(times) for times in seconds.values()]
    for name, median in zip(sides, medians, strict=True):
        print(f"| {name} | {len(queries) / median:,.0f} |")
    result = {
        "queries": len(queries),
        "pairs": len(reference),
        "num_proc": options.num_proc,
        "one_at_a_time_seconds": round(medians[0], 3),
        "batched_seconds": round(medians[1], 3),
        "processes_seconds": round(medians[2], 3),
        "batched_ratio": round(medians[0] / medians[1], 2),
        "processes_ratio": round(medians[0] / medians[2], 2),
    }
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
