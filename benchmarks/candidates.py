"""Candidates of training queries: queries a second, and where the time goes.

    python benchmarks/candidates.py --data corpus.jsonl [--passages 20000] [--queries 24] [--threads 1]
    python benchmarks/candidates.py --retriever RETRIEVER [--queries 300]

`benchmarks/dictionaries.py` makes such a corpus of real text. Without a retriever, a random model of BART-base's shape
searches in three views with 15 beams; as in training, each query is a pseudo-query of its relevant passage: the first
words of its text. `save_candidates` writes 100 passages a query. Times are those of the CPU, on one thread by default.

"model" is the student: its forward passes, its log-probabilities and its cache of keys and values, without the search.
`share_not_model` is the rest of the whole call, writing included. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from decode import Clock, byte_level_bpe, frequency_bias, random_bart
from transformers import set_seed

from dgr_trainer import Candidates, Corpus, FMIndex, GenerativeRetriever, Identifiers, Passage, SearchSettings
from dgr_trainer.retrieval import candidate_search, search_engine
from dgr_trainer.retrieval.candidate_search import CandidateSearch
from dgr_trainer.retrieval.legal_tokens import LegalTokens
from dgr_trainer.retrieval.search_engine import SearchEngine
from dgr_trainer.student.encoder_decoder_steps import EncoderDecoderSteps

PARTS: list[tuple[Any, str, str]] = [
    (EncoderDecoderSteps, "__init__", "model"),
    (EncoderDecoderSteps, "step", "model"),
    (search_engine, "score_identifiers", "model"),
    (LegalTokens, "__init__", "tokens that may follow"),
    (LegalTokens, "next", "tokens that may follow"),
    (LegalTokens, "extend", "tokens that may follow"),
    (search_engine, "search_views", "beams"),
    (search_engine, "own_texts", "own texts"),
    (search_engine, "query_ngrams", "words of the query"),
    (SearchEngine, "weigh", "weights"),
    (SearchEngine, "rank_passages", "passages"),
    (candidate_search, "columns_of", "columns"),
    (candidate_search, "row_of", "columns"),
    (CandidateSearch, "_more_identifiers", "identifiers of relevant passages"),
    (CandidateSearch, "save", "files"),  # without the other parts, which it calls
]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="A corpus: JSON Lines, or another format that Corpus.read knows.")
    source.add_argument("--retriever", type=Path, help="Folder of a retriever whose corpus has pseudo-queries.")
    parser.add_argument("--passages", type=int, default=20_000, help="Passages of --data to index.")
    parser.add_argument("--queries", type=int, default=24)
    parser.add_argument("--k", type=int, default=100, help="Passages per query.")
    parser.add_argument("--beams", type=int, default=15)
    parser.add_argument("--batch", type=int, help="Queries per batch.")
    parser.add_argument("--small", action="store_true", help="A tiny random model.")
    parser.add_argument("--threads", type=int, default=1, help="Threads of torch.")
    options = parser.parse_args(arguments)
    options.device, options.cpu_time = "cpu", True  # for the clock
    return options


def made_up(options: argparse.Namespace) -> GenerativeRetriever:
    """A random student over the first passages of a corpus, whose first words are their pseudo-queries."""
    chosen = []
    for passage in islice(Corpus.read(options.data), options.passages):
        asked = " ".join(passage.text.split()[:8])
        chosen.append(Passage(passage.id, passage.title, passage.text, (asked,) if asked else ()))
    corpus = Corpus.from_passages(chosen)
    tokenizer = byte_level_bpe((passage.text for passage in chosen), options.small)
    identifiers = Identifiers(tokenizer)
    index = FMIndex.from_corpus(corpus, identifiers, progress=False)
    model = random_bart(tokenizer, options)
    model.final_logits_bias = frequency_bias(index)[None]
    settings = SearchSettings(beam_size=options.beams)
    return GenerativeRetriever(model.eval(), identifiers, index, corpus=corpus, settings=settings)


def training_queries(corpus: Corpus, number: int) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    """Pseudo-queries of passages spread over the corpus, with these passages."""
    asked = [passage for passage in corpus if passage.pseudo_queries]
    chosen = [asked[place * len(asked) // number] for place in range(min(number, len(asked)))]
    queries = {f"q{place}": passage.pseudo_queries[0] for place, passage in enumerate(chosen)}
    return queries, {f"q{place}": {passage.id: 1} for place, passage in enumerate(chosen)}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    set_seed(0)
    retriever = (
        made_up(options) if options.retriever is None else GenerativeRetriever.from_pretrained(options.retriever)
    )
    if options.batch:
        retriever.settings = replace(retriever.settings, batch_size=options.batch)
    corpus = retriever.corpus
    if corpus is None:
        raise SystemExit(f"{options.retriever} has no corpus, from which the queries would be taken.")
    queries, qrels = training_queries(corpus, options.queries)
    clock = Clock(options)
    with tempfile.TemporaryDirectory() as folder:
        retriever.save_candidates(Path(folder) / "warm", dict(islice(queries.items(), 1)), options.k, qrels)
        began = clock.now()
        with clock.watching(*PARTS):
            retriever.save_candidates(Path(folder) / "candidates", queries, options.k, qrels)
        total = clock.now() - began
        found = Candidates.load_from_disk(Path(folder) / "candidates")
        identifiers = sum(len(candidate.identifiers) for candidates in found.values() for candidate in candidates)
    seconds = {name: clock.seconds[name] for _, _, name in PARTS}
    seconds["other"] = total - sum(seconds.values())
    print(f"{len(queries)} queries in {total:.1f} s; {identifiers / len(queries):,.0f} identifiers a query")
    print("| part | ms a query | share |\n|---|---|---|")
    for name, spent in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"| {name} | {1000 * spent / len(queries):,.1f} | {spent / total:.1%} |")
    result = {
        "queries": len(queries),
        "queries_per_second": round(len(queries) / total, 4),
        "share_not_model": round(1 - seconds["model"] / total, 4),
        "shares": {name: round(spent / total, 4) for name, spent in seconds.items()},
    }
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
