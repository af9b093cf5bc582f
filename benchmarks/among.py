"""The cost of a search among some of the passages of an index, and of one without the queries' own texts.

    python benchmarks/among.py
    python benchmarks/among.py --small --cache DIR

Synthetic passages: titles, bodies and a pseudo-query of phrases that are drawn as often as words are (Zipf), so that
sequences of tokens repeat as in real text. The model is random, with the shape of BART-base, or tiny with `--small`;
then nearly all of the time is that of the index. It generates tokens as often as they occur.

For each share of the passages: how long it takes to prepare the search, what that holds in memory, and the CPU time of
a search as a ratio to that of the unrestricted search, in alternating runs. Then candidates of queries that are
pseudo-queries of passages, with and without their own texts. The last line is one JSON object.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from decode import byte_level_bpe, frequency_bias, random_bart
from transformers import set_seed

from dgr_trainer import FMIndex, GenerativeRetriever, Identifiers, SearchSettings
from dgr_trainer.index.passage_subset import index_of_passages

SHARES = (0.001, 0.01, 0.1, 0.9)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=2_000_000, help="Passages of the index.")
    parser.add_argument("--tokens", type=int, default=40, help="Tokens of a passage, about.")
    parser.add_argument("--queries", type=int, default=10, help="Queries, searched in one batch.")
    parser.add_argument("--beam-size", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3, help="Timed runs of each side.")
    parser.add_argument("--threads", type=int, default=2, help="Threads of torch and of the index.")
    parser.add_argument("--small", action="store_true", help="Use a tiny random model.")
    parser.add_argument("--cache", type=Path, help="Folder that keeps the index between runs.")
    return parser.parse_args()


def main() -> None:
    import numba

    options = parse()
    set_seed(0)
    torch.set_num_threads(options.threads)
    numba.config.NUMBA_NUM_THREADS = options.threads
    words = np.random.default_rng(1).permutation(
        [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in SYLLABLES]
    )
    tokenizer = byte_level_bpe((" ".join([*words[i : i + 50], "@@ ||"]) for i in range(0, len(words), 50)), False)
    identifiers = Identifiers(tokenizer)
    index = synthetic_index(options, identifiers)
    print(f"{index.num_passages:,} passages, {index.num_tokens:,} tokens, {index.num_bytes / 1e6:,.0f} MB, "
          f"{options.threads} threads")  # fmt: skip
    model = random_bart(tokenizer, options).eval()
    model.final_logits_bias = frequency_bias(index)[None]
    settings = SearchSettings(
        beam_size=options.beam_size, title_length=15, pseudo_query_length=30, batch_size=options.queries
    )
    retriever = GenerativeRetriever(model, identifiers, index, settings=settings)
    queries = own_queries(index, identifiers, options.queries)

    def seconds(run: Callable[[], Any]) -> float:
        """CPU time, which other processes of a busy machine change little."""
        began = time.process_time()
        run()
        return time.process_time() - began

    rows = []
    print(f"\n{'share':>6} {'way':>8} {'prepare s':>10} {'MB':>8} {'all s':>8} {'among s':>8} {'ratio':>6}")
    order = np.random.default_rng(2).permutation(index.num_passages)
    retriever.search(queries, k=100)
    for indexed_share in (0.0, 1.0):  # Loads the compiled code.
        index_of_passages(index, np.sort(order[:50]), indexed_share)
    for share in SHARES:
        mask = np.zeros(index.num_passages, bool)
        mask[order[: round(share * len(order))]] = True
        began = time.process_time()
        subset = index_of_passages(index, np.flatnonzero(mask))
        prepared = time.process_time() - began
        shared = subset.segments[0].arrays is index.segments[0].arrays
        size = sum(one.removed.rows.nbytes + one.removed.passages.nbytes if shared else one.num_bytes
                   for one in subset.segments)  # fmt: skip
        del subset
        retriever.search(queries, k=100, among=mask)
        times: dict[str, list[float]] = {"all": [], "among": []}
        for _ in range(options.rounds):
            times["all"].append(seconds(lambda: retriever.search(queries, k=100)))
            times["among"].append(seconds(lambda mask=mask: retriever.search(queries, k=100, among=mask)))
        whole, among = median(times["all"]), median(times["among"])
        row = {
            "share": share, "way": "hidden" if shared else "indexed", "prepare_s": round(prepared, 2),
            "mb": round(size / 1e6, 1), "all_s": round(whole, 3), "among_s": round(among, 3),
            "ratio": round(among / whole, 3),
        }  # fmt: skip
        rows.append(row)
        print(f"{share:>6} {row['way']:>8} {prepared:>10.2f} {row['mb']:>8} {whole:>8.3f} {among:>8.3f} "
              f"{row['ratio']:>6}", flush=True)  # fmt: skip

    texts = {f"q{number}": query for number, query in enumerate(queries)}
    with_text, without = [], []
    for number in range(options.rounds + 1):
        one = seconds(lambda: retriever.candidates(texts, k=100, leave_out_own_text=False))
        other = seconds(lambda: retriever.candidates(texts, k=100))
        if number:
            with_text.append(one)
            without.append(other)
    ratio = round(median(without) / median(with_text), 3)
    print(f"\ncandidates: {len(texts) / median(with_text):.2f} queries/s with their own texts, "
          f"{len(texts) / median(without):.2f} without; ratio of times {ratio}")  # fmt: skip
    print(json.dumps({"passages": index.num_passages, "tokens": index.num_tokens, "small": options.small,
                      "among": rows, "without_own_texts": ratio}))  # fmt: skip


SYLLABLES = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "r", "s")]


def synthetic_index(options: argparse.Namespace, identifiers: Identifiers) -> FMIndex:
    """An index of random passages."""
    folder = None if options.cache is None else options.cache / f"among-{options.passages}-{options.tokens}"
    if folder is not None and folder.is_dir():
        return FMIndex.load(folder, tokenizer_fingerprint=identifiers.fingerprint)
    ids = (f"p{number}" for number in range(options.passages))
    index = FMIndex.build(
        passages(options, identifiers), passage_ids=ids, vocab_size=identifiers.vocab_size,
        separator=identifiers.eos_token_id, tokenizer_fingerprint=identifiers.fingerprint, total=options.passages,
    )  # fmt: skip
    if folder is not None:
        index.save(folder)
    return index


def passages(options: argparse.Namespace, identifiers: Identifiers) -> Iterator[np.ndarray]:
    """Tokens of random passages: a title of one phrase, a body, and a pseudo-query of three phrases."""
    rng = np.random.default_rng(0)
    markers = {token for view in identifiers.views for token in (*identifiers.prefix(view), *identifiers.end(view))}
    usable = [
        token for token in range(identifiers.vocab_size) if token not in identifiers.forbidden_token_ids | markers
    ]
    tokens = rng.permutation(usable)
    phrases, length = 300_000, 3
    table = tokens[np.minimum(rng.zipf(1.3, (phrases, length)) - 1, len(tokens) - 1)]
    table[:, 1:] = np.where(
        rng.random((phrases, length - 1)) < 0.5, table[:, 1:], rng.choice(tokens, (phrases, length - 1))
    )
    per_passage = max(5, options.tokens // length)
    title, start, end = (np.array(ids) for ids in (
        identifiers.end("title"), identifiers.prefix("pseudo_query"), identifiers.end("pseudo_query")))  # fmt: skip
    for begin in range(0, options.passages, 50_000):
        count = min(50_000, options.passages - begin)
        drawn = np.minimum(rng.zipf(1.15, (count, per_passage)) - 1, 10 * phrases) % phrases
        drawn = np.where(rng.random(drawn.shape) < 0.4, rng.integers(0, phrases, drawn.shape), drawn)
        for words in table[drawn].reshape(count, -1):
            yield np.concatenate(
                [words[:length], title, words[length : -3 * length], start, words[-3 * length :], end]
            )


def own_queries(index: FMIndex, identifiers: Identifiers, number: int) -> list[str]:
    """Texts of pseudo-queries that have the same tokens when they are asked."""
    start = identifiers.prefix("pseudo_query")[0]
    queries: list[str] = []
    position = 0
    while len(queries) < number:
        ids = index.extract(position).tolist()
        ids = ids[ids.index(start) + 1 : -1]
        text = identifiers.decode(ids)
        if identifiers.encode_substrings([text])[0] == ids:
            queries.append(text)
        position += 1
    return queries


if __name__ == "__main__":
    main()
