"""Tokens per second of a corpus on its way into an index, against a tokenizer that is given whole texts.

    python benchmarks/tokenise.py [--data CORPUS] [--model MODEL] [--passages N] [--num-proc N] [--rounds N]

`whole` gives every text to the tokenizer, in one process, where the tokenizer may use threads. `words` takes words
that occurred before from memory; `whole_processes` and `words_processes` do the two in several processes. All have to
make the same tokens; nothing is indexed. Without `--data`, the passages are those of Python's documentation, which are
so few that starting counts. The sides run in alternating order, each with an empty memory, and the medians of the
rounds are compared. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from dgr_trainer import Corpus, Identifiers
from dgr_trainer.index.corpus_texts import corpus_texts
from dgr_trainer.quickstart.pipeline import CHECKPOINT
from dgr_trainer.quickstart.python_docs import python_docs_corpus


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="A corpus.")
    parser.add_argument("--model", default=str(CHECKPOINT), help="Whose tokenizer is used.")
    parser.add_argument("--passages", type=int, default=200_000)
    parser.add_argument("--num-proc", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args(arguments)


def tokens_of(corpus: Corpus, options: argparse.Namespace, side: str) -> tuple[np.ndarray, float]:
    """The tokens of a corpus, and the seconds that they took."""
    identifiers = Identifiers(AutoTokenizer.from_pretrained(options.model))
    if side.startswith("whole"):
        identifiers._encoder._from_words = lambda texts: [None] * len(texts)  # type: ignore[method-assign]
    began = time.perf_counter()
    num_proc = options.num_proc if side.endswith("processes") else None
    texts = list(corpus_texts(corpus, identifiers, max_tokens=None, num_proc=num_proc, progress=False))
    return texts[0].tokens, time.perf_counter() - began


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    corpus = python_docs_corpus() if options.data is None else Corpus.read(options.data)
    corpus = Corpus.from_passages(corpus[: options.passages])
    sides = ["whole", "words", "whole_processes", "words_processes"]
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    tokens = None
    for number in range(options.rounds):
        for side in sides if number % 2 == 0 else sides[::-1]:
            made, took = tokens_of(corpus, options, side)
            assert tokens is None or np.array_equal(tokens, made), side
            tokens = made
            seconds[side].append(took)
            print(f"{side}: {len(made) / took:,.0f} tokens per second", flush=True)
    assert tokens is not None
    medians = {side: statistics.median(times) for side, times in seconds.items()}
    print(
        json.dumps(
            {
                "passages": len(corpus),
                "tokens": len(tokens),
                "num_proc": options.num_proc,
                **{f"{side}_tokens_per_s": round(len(tokens) / medians[side]) for side in sides},
                **{f"{side}_ratio": medians["whole"] / medians[side] for side in sides[1:]},
            }
        )
    )


if __name__ == "__main__":
    main()
