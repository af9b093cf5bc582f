"""What look-ahead adds to a search, beside more beams.

    python benchmarks/lookahead.py RETRIEVER --data DIR --split dev
    python benchmarks/lookahead.py RETRIEVER --quickstart

RETRIEVER is a folder that holds a saved retriever with its corpus, DIR a BEIR folder with questions about the same
passages; `--quickstart` takes the quickstart's held-out questions. The questions are searched with a few beams, with
these and look-ahead, and with more beams, each batch in turn. CPU time is that of the searches, in one thread.
Prints a table with intervals and paired tests against the few beams; the last line is one JSON object.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset

from dgr_trainer import GenerativeRetriever, Rankings, compare_runs, read_qrels, read_queries
from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.queries import Qrels, queries_mapping
from dgr_trainer.quickstart.questions import load_questions

METRICS = ("hits@1", "hits@5", "hits@20", "hits@100", "ndcg@10")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("retriever", type=Path, help="Folder of a saved retriever.")
    parser.add_argument("--data", type=Path, help="BEIR folder with the questions.")
    parser.add_argument("--split", default="dev", help="Their split.")
    parser.add_argument("--quickstart", action="store_true", help="Ask the quickstart's held-out questions.")
    parser.add_argument("--queries", type=int, help="Most questions, chosen by a seed.")
    parser.add_argument("--beam-size", type=int, default=5)
    parser.add_argument("--more-beams", type=int, default=15)
    parser.add_argument("--lookahead", type=float, nargs="+", default=[3.0], help="Highest bonus, in nats.")
    parser.add_argument("--k", type=int, default=100, help="Passages of a question.")
    options = parser.parse_args()
    if (options.data is None) == (not options.quickstart):
        parser.error("give one of --data and --quickstart.")
    return options


def main() -> None:
    import numba

    options = parse()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    retriever = GenerativeRetriever.from_pretrained(options.retriever)
    queries, qrels = questions(options, retriever.corpus)
    few = replace(retriever.settings, beam_size=options.beam_size, lookahead=0.0)
    sides = {f"{options.beam_size} beams": few}
    sides |= {f"{options.beam_size} beams, look-ahead {x:g}": replace(few, lookahead=x) for x in options.lookahead}
    sides[f"{options.more_beams} beams"] = replace(few, beam_size=options.more_beams)
    runs, seconds = search(retriever, queries, sides, options.k)

    compared = compare_runs(
        runs, {query_id: qrels[query_id] for query_id in queries}, METRICS, baseline=next(iter(sides))
    )
    print(compared.to_markdown())
    print(f"\n| run | CPU time a question | ratio |\n|{'-' * 30}|--------------------:|------:|")
    first = seconds[next(iter(sides))]
    for name, value in seconds.items():
        print(f"| {name:<28} | {1000 * value / len(queries):16.0f} ms | {value / first:5.2f} |")
    result = {
        "queries": len(queries), "passages": retriever.index.num_passages,
        "cpu_seconds": {name: round(value, 2) for name, value in seconds.items()},
        "runs": compared.to_dict()["runs"],
    }  # fmt: skip
    print(json.dumps(result))


def questions(options: argparse.Namespace, corpus: Corpus | None) -> tuple[dict[str, str], Qrels]:
    """The questions that some passage is relevant to."""
    if corpus is None:
        raise SystemExit(f"{options.retriever} has no corpus: save it with one.")
    found: Dataset
    if options.quickstart:
        found, qrels = load_questions("test", corpus)
    else:
        found, qrels = read_queries(options.data, options.split), read_qrels(options.data, options.split)
    asked = {query_id: text for query_id, text in queries_mapping(found).items() if query_id in qrels}
    ids = np.random.default_rng(0).permutation(list(asked))[: options.queries].tolist()
    return {query_id: asked[query_id] for query_id in ids}, qrels


def search(retriever, queries, sides, k):  # type: ignore[no-untyped-def]
    """Rank lists and CPU seconds of each side; batch by batch, so that all of them meet the same machine."""
    lists, seconds = {name: {} for name in sides}, dict.fromkeys(sides, 0.0)
    ids, size = list(queries), retriever.settings.batch_size
    for settings in sides.values():  # Loads the compiled code.
        retriever.settings = settings
        retriever.rank({ids[0]: queries[ids[0]]}, k)
    for start in range(0, len(ids), size):
        batch = {query_id: queries[query_id] for query_id in ids[start : start + size]}
        for name, settings in sides.items():
            retriever.settings = settings
            began = time.process_time()
            lists[name] |= retriever.rank(batch, k)
            seconds[name] += time.process_time() - began
    return {name: Rankings(of_side) for name, of_side in lists.items()}, seconds


if __name__ == "__main__":
    main()
