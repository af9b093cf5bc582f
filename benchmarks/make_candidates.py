"""Real candidates for the benchmarks of training: what a student finds for the training questions of a BEIR folder.

    python benchmarks/make_candidates.py --data DIR --student MODEL --output OUT

A pretrained student first learns to generate identifiers for a few hundred steps, since one that was never taught
finds what no trained student would. The training questions of a passage serve as its pseudo-queries. OUT then holds
`candidates` (`Candidates.load_from_disk`) and `tokenizer`, which train_step.py and train_scaling.py take.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, set_seed

from dgr_trainer import (
    Corpus,
    DistillationGenerativeRetrievalTrainer,
    DistillationTrainingArguments,
    FMIndex,
    GenerativeRetriever,
    Identifiers,
    Passage,
    generation_pairs,
    read_qrels,
    read_queries,
)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BEIR folder with a train split.")
    parser.add_argument("--student", required=True, help="Pretrained sequence-to-sequence model.")
    parser.add_argument("--output", type=Path, required=True, help="Folder that is made.")
    parser.add_argument("--queries", type=int, default=32, help="Questions that get candidates.")
    parser.add_argument("--candidates", type=int, default=100, help="Passages a question.")
    parser.add_argument("--steps", type=int, default=300, help="Steps of the generation stage.")
    parser.add_argument("--batch", type=int, default=16, help="Pairs a step.")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    options = parse()
    set_seed(options.seed)
    qrels = read_qrels(options.data / "qrels" / "train.tsv")
    queries = read_queries(options.data / "queries.train.jsonl").filter(lambda row: row["query_id"] in qrels)
    asked_of = defaultdict(list)
    for row in queries:
        for passage_id in qrels[row["query_id"]]:
            asked_of[passage_id].append(row["query"])
    corpus = Corpus.from_passages(
        Passage(p.id, p.title, p.text, tuple(asked_of[p.id])) for p in Corpus.read(options.data)
    )
    tokenizer = AutoTokenizer.from_pretrained(options.student)
    identifiers = Identifiers(tokenizer)
    student = AutoModelForSeq2SeqLM.from_pretrained(options.student, dtype=torch.float32)
    pairs = generation_pairs(
        corpus, identifiers, queries, qrels, titles_per_query=1, substrings_per_query=3, pseudo_queries_per_query=1,
        seed=options.seed, progress=False,
    )  # fmt: skip
    DistillationGenerativeRetrievalTrainer(
        model=student,
        args=DistillationTrainingArguments(
            output_dir=str(options.output / "training"), save_strategy="no", report_to=[], seed=options.seed,
            use_cpu=not torch.cuda.is_available(), logging_steps=50, max_steps=options.steps, ranking_weight=0.0,
            per_device_train_batch_size=options.batch, learning_rate=options.learning_rate,
        ),
        train_dataset=pairs,
        processing_class=tokenizer,
    ).train()  # fmt: skip
    index = FMIndex.from_corpus(corpus, identifiers, progress=False)
    asked = queries.shuffle(seed=options.seed).select(range(options.queries))
    candidates = GenerativeRetriever(student, identifiers, index).candidates(asked, options.candidates, qrels)
    candidates.save_to_disk(options.output / "candidates")
    tokenizer.save_pretrained(options.output / "tokenizer")


if __name__ == "__main__":
    main()
