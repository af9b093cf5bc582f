"""Pairs per second of CrossEncoderTeacher and of CrossEncoder.predict of sentence-transformers, on the same pairs.

    python benchmarks/teacher.py --model MODEL [--data BEIR_FOLDER] [--pairs N] [--rounds N]

Passages are cut to mixed lengths: most are short, some whole. Both sides score the same pairs in alternating order,
and the medians of the rounds are compared. Both run with their defaults, in the same precision, on the same device and
with the same threads. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from dgr_trainer import Corpus, CrossEncoderTeacher, Passage, Rankings


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Cross-encoder with one or two labels, a folder or a name.")
    parser.add_argument("--data", type=Path, help="BEIR folder of the passages; left out, passages of random words.")
    parser.add_argument("--pairs", type=int, default=600, help="How many pairs.")
    parser.add_argument("--rounds", type=int, default=5, help="How often each side scores them.")
    parser.add_argument("--max_length", type=int, default=512)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--batch_tokens", type=int, help="Tokens a batch of CrossEncoderTeacher.")
    parser.add_argument("--batch_size", type=int, default=32, help="Pairs per batch of CrossEncoder.predict.")
    parser.add_argument("--cached", action="store_true", help="Keep the scores of CrossEncoderTeacher in a cache.")
    parser.add_argument("--threads", type=int, help="Threads of torch.")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> dict[str, float]:
    from sentence_transformers import CrossEncoder

    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    corpus, queries, candidates = mixed_pairs(options)
    teacher = CrossEncoderTeacher(
        options.model, corpus, max_length=options.max_length, dtype=options.dtype,
        batch_tokens=options.batch_tokens, progress=False,
    )  # fmt: skip
    theirs = CrossEncoder(
        options.model, max_length=options.max_length, activation_fn=torch.nn.Identity(),
        model_kwargs={"dtype": getattr(torch, options.dtype)}, device=str(teacher.model.device),
    )  # fmt: skip
    names = [(query_id, passage_id) for query_id in candidates for passage_id in candidates[query_id].passage_ids]
    passages = {id: corpus.get(id) for id in {id for _, id in names}}
    pairs = [
        (queries[query_id], ": ".join(part for part in (passages[id].title, passages[id].text) if part))
        for query_id, id in names
    ]

    def ours() -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            teacher.cache = folder if options.cached else None
            run = teacher.rank(queries, candidates, k=len(names)).to_run()
        return np.array([run[query_id][passage_id] for query_id, passage_id in names])

    def predict() -> np.ndarray:
        scores = theirs.predict(pairs, batch_size=options.batch_size, show_progress_bar=False)
        return scores[:, 1] - scores[:, 0] if scores.ndim == 2 else scores

    sides = {"CrossEncoderTeacher": ours, "CrossEncoder.predict": predict}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    scores = {side: score() for side, score in sides.items()}  # Warms both up.
    for number in range(options.rounds):
        for side in list(sides) if number % 2 == 0 else reversed(list(sides)):
            began = time.perf_counter()
            scores[side] = sides[side]()
            seconds[side].append(time.perf_counter() - began)
    difference = float(np.abs(scores["CrossEncoderTeacher"] - scores["CrossEncoder.predict"]).max())

    lengths = [
        len(one.ids)
        for one in teacher.encode([(query, passages[id]) for (query, _), (_, id) in zip(pairs, names, strict=True)])
    ]
    print(
        f"{len(pairs)} pairs of {min(lengths)} to {max(lengths)} tokens (median {statistics.median(lengths):.0f}), "
        f"{options.dtype} on {teacher.model.device}, {torch.get_num_threads()} threads, {options.rounds} rounds"
    )
    print("| | pairs/s (median) | slowest | fastest |\n|---|---|---|---|")
    for side, found in seconds.items():
        cells = [len(pairs) / value for value in (statistics.median(found), max(found), min(found))]
        print(f"| {side} | {cells[0]:.1f} | {cells[1]:.1f} | {cells[2]:.1f} |")
    speedup = statistics.median(seconds["CrossEncoder.predict"]) / statistics.median(seconds["CrossEncoderTeacher"])
    result = {
        "speedup_vs_sentence_transformers": round(speedup, 3),
        "largest_difference": difference,
        "pairs": len(pairs),
    }
    print(json.dumps(result))
    return result


def mixed_pairs(options: argparse.Namespace) -> tuple[Corpus, dict[str, str], Rankings]:
    """Return passages cut to mixed lengths, queries, and `options.pairs` pairs of them."""
    chance = random.Random(options.seed)
    if options.data is None:
        words = ["sea", "moon", "river", "glass", "engine", "north", "paper", "cold", "king", "bread"]
        texts = [("", " ".join(chance.choices(words, k=300))) for _ in range(200)]
    else:
        texts = [(passage.title, passage.text) for passage in Corpus.read(options.data)]
    passages = []
    for number, (title, text) in enumerate(texts):
        words = text.split()
        passages.append(Passage(f"p{number}", title, " ".join(words[: 5 + int(len(words) * chance.random() ** 2)])))
    corpus = Corpus.from_passages(passages)
    queries = {
        f"q{number}": " ".join(chance.choice(texts)[1].split()[:8]) for number in range(max(1, options.pairs // 30))
    }
    lists: dict[str, dict[str, float]] = {query_id: {} for query_id in queries}
    asked = list(queries)
    while sum(map(len, lists.values())) < min(options.pairs, len(queries) * len(passages)):
        lists[chance.choice(asked)][chance.choice(passages).id] = 0.0
    return corpus, queries, Rankings(lists)


if __name__ == "__main__":
    main()
