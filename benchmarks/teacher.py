"""Texts per second of a teacher and of sentence-transformers, on the same texts.

    python benchmarks/teacher.py --model MODEL [--data BEIR_FOLDER] [--pairs N] [--rounds N]
    python benchmarks/teacher.py --model MODEL --bi_encoder [--passages N]

CrossEncoderTeacher scores pairs as CrossEncoder.predict does; with --bi_encoder, BiEncoderTeacher encodes passages as
SentenceTransformer.encode does, which sorts by length, too, but has a number of texts a batch and no budget of tokens.

Passages are cut to mixed lengths: most are short, some whole. Both sides score the same pairs in alternating order,
and the medians of the rounds are compared. Both run with their defaults, in the same precision, on the same device and
with the same threads. --cpu_time counts the time of the CPU instead of that on the wall, for a machine that others use
meanwhile. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from dgr_trainer import BiEncoderTeacher, Corpus, CrossEncoderTeacher, Passage, Rankings


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", required=True, help="Cross-encoder with one or two labels, or bi-encoder: a folder or a name."
    )
    parser.add_argument("--bi_encoder", action="store_true", help="The model is a bi-encoder.")
    parser.add_argument("--passages", type=int, default=600, help="Passages that a bi-encoder encodes.")
    parser.add_argument("--data", type=Path, help="BEIR folder of the passages; left out, passages of random words.")
    parser.add_argument("--pairs", type=int, default=600, help="How many pairs.")
    parser.add_argument("--rounds", type=int, default=5, help="How often each side scores them.")
    parser.add_argument("--max_length", type=int, default=512)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--batch_tokens", type=int, help="Tokens a batch of the teacher.")
    parser.add_argument("--batch_size", type=int, default=32, help="Texts per batch of sentence-transformers.")
    parser.add_argument("--cached", action="store_true", help="Keep the scores of CrossEncoderTeacher in a cache.")
    parser.add_argument("--cpu_time", action="store_true", help="Count the time of the CPU.")
    parser.add_argument("--threads", type=int, help="Threads of torch.")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> dict[str, float]:
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    return bi_encoder(options) if options.bi_encoder else cross_encoder(options)


def bi_encoder(options: argparse.Namespace) -> dict[str, float]:
    """Measure the vectors of passages."""
    from sentence_transformers import SentenceTransformer

    passages = list(mixed_pairs(options)[0])
    corpus = Corpus.from_passages(passages[: options.passages])
    settings = {"dtype": options.dtype, "batch_tokens": options.batch_tokens, "max_length": options.max_length}
    theirs = SentenceTransformer(options.model, model_kwargs={"dtype": getattr(torch, options.dtype)})
    theirs.max_seq_length = options.max_length
    texts = [": ".join(part for part in (passage.title, passage.text) if part) for passage in corpus]
    teacher = BiEncoderTeacher(options.model, corpus, progress=False, **settings)

    def ours() -> np.ndarray:
        teacher._vectors = None
        return teacher.passage_vectors

    def encode() -> np.ndarray:
        return np.asarray(
            theirs.encode(
                texts, batch_size=options.batch_size, normalize_embeddings=teacher._normalise, show_progress_bar=False
            )
        )

    lengths = [
        len(ids) for ids in theirs.tokenizer(texts, truncation=True, max_length=options.max_length)["input_ids"]
    ]
    return compared(options, {"BiEncoderTeacher": ours, "SentenceTransformer.encode": encode}, lengths, "passages")


def cross_encoder(options: argparse.Namespace) -> dict[str, float]:
    """Measure the scores of pairs."""
    from sentence_transformers import CrossEncoder

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

    lengths = [
        len(one.ids)
        for one in teacher.encode([(query, passages[id]) for (query, _), (_, id) in zip(pairs, names, strict=True)])
    ]
    return compared(options, {"CrossEncoderTeacher": ours, "CrossEncoder.predict": predict}, lengths, "pairs")


def compared(
    options: argparse.Namespace, sides: dict[str, Callable[[], np.ndarray]], lengths: list[int], what: str
) -> dict[str, float]:
    """Run two sides in alternating order, print their texts a second, and return the ratio of the medians."""
    now = time.process_time if options.cpu_time else time.perf_counter
    our_side, their_side = sides
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    results = {side: compute() for side, compute in sides.items()}  # Warms both up.
    for number in range(options.rounds):
        for side in list(sides) if number % 2 == 0 else reversed(list(sides)):
            began = now()
            results[side] = sides[side]()
            seconds[side].append(now() - began)
    difference = float(np.abs(results[our_side] - results[their_side]).max())
    print(
        f"{len(lengths)} {what} of {min(lengths)} to {max(lengths)} tokens (median {statistics.median(lengths):.0f}), "
        f"{options.dtype}, {torch.get_num_threads()} threads, {options.rounds} rounds"
    )
    print(f"| | {what}/s (median) | slowest | fastest |\n|---|---|---|---|")
    for side, found in seconds.items():
        cells = [len(lengths) / value for value in (statistics.median(found), max(found), min(found))]
        print(f"| {side} | {cells[0]:.1f} | {cells[1]:.1f} | {cells[2]:.1f} |")
    speedup = statistics.median(seconds[their_side]) / statistics.median(seconds[our_side])
    result = {
        "speedup_vs_sentence_transformers": round(speedup, 3),
        "largest_difference": difference,
        what: len(lengths),
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
