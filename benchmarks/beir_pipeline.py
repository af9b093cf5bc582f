"""The whole flow on a BEIR folder with a pretrained student: what each stage costs, and the table it gives.

    python benchmarks/beir_pipeline.py --data DIR --student MODEL --cross-encoder MODEL --output OUT

`--articles N` keeps the passages of N titles and their questions, for machines without an accelerator. Each teacher
gives a student of its own, distilled from the same generation stage; LTRGR, which needs no teacher, is the baseline.
The training questions of a passage serve as its pseudo-queries; the other questions are never seen. The last line is
one JSON object.
"""

import argparse
import copy
import json
import logging
import time
from collections import defaultdict
from pathlib import Path

import datasets
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, set_seed

from dgr_trainer import (
    BM25Teacher,
    Corpus,
    CrossEncoderTeacher,
    DistillationCollator,
    DistillationGenerativeRetrievalTrainer,
    DistillationTrainingArguments,
    FMIndex,
    GenerativeRetriever,
    Identifiers,
    Passage,
    PyseriniTeacher,
    SearchSettings,
    generation_pairs,
    read_qrels,
    read_queries,
)
from dgr_trainer.evaluation.comparison import compare_runs
from dgr_trainer.quickstart.pipeline import METRICS


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BEIR folder with train and test splits.")
    parser.add_argument("--student", required=True, help="Pretrained sequence-to-sequence model.")
    parser.add_argument("--cross-encoder", help="Sequence-classification model; left out, there is no such teacher.")
    parser.add_argument("--template", help="Single-segment template of the cross-encoder.")
    parser.add_argument("--pyserini", action="store_true", help="Also distil from BM25 in Lucene.")
    parser.add_argument("--output", type=Path, required=True, help="Where runs and the table go.")
    parser.add_argument("--articles", type=int, help="Keep this many titles, spread evenly over the sorted ones.")
    parser.add_argument("--train-queries", type=int, default=300, help="Questions of the ranking stage.")
    parser.add_argument("--test-queries", type=int, default=300, help="Questions of the evaluation.")
    parser.add_argument("--generation-steps", type=int, default=300)
    parser.add_argument("--generation-batch", type=int, default=16)
    parser.add_argument("--generation-learning-rate", type=float, default=3e-4)
    parser.add_argument("--ranking-batch", type=int, default=4)
    parser.add_argument("--ranking-learning-rate", type=float, default=1e-4)
    parser.add_argument("--list-length", type=int, default=6)
    parser.add_argument("--margin", type=float, default=100.0, help="The published 300, for a corpus of 1/30,000.")
    parser.add_argument("--margin-gap", type=float, default=33.0)
    parser.add_argument("--generation-weight", type=float, default=150.0)
    parser.add_argument("--beam-size", type=int, default=5)
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    options = parse()
    logging.basicConfig(level=logging.WARNING)
    set_seed(options.seed)
    costs: dict[str, float] = {}
    began = time.monotonic()

    def done(stage: str) -> None:
        nonlocal began
        costs[stage] = round(time.monotonic() - began, 1)
        print(f"{stage}: {costs[stage]} s", flush=True)
        began = time.monotonic()

    corpus, train, train_qrels, test, test_qrels = read(options)
    done("reading")
    tokenizer = AutoTokenizer.from_pretrained(options.student)
    identifiers = Identifiers(tokenizer)
    index = FMIndex.from_corpus(corpus, identifiers, progress=False)
    done("index")
    print(f"{len(corpus)} passages, {index.num_tokens} tokens, {len(train)} training and {len(test)} test questions")

    def arguments(**others: object) -> DistillationTrainingArguments:
        return DistillationTrainingArguments(
            output_dir=str(options.output / "training"), save_strategy="no", report_to=[], seed=options.seed,
            bf16=True, use_cpu=not torch.cuda.is_available(), logging_steps=10, warmup_steps=10, **others,
        )  # fmt: skip

    def retriever(model: torch.nn.Module) -> GenerativeRetriever:
        settings = SearchSettings(beam_size=options.beam_size, pseudo_query_length=20, batch_size=10)
        return GenerativeRetriever(model, identifiers, index, settings=settings)

    student = AutoModelForSeq2SeqLM.from_pretrained(options.student, dtype=torch.float32)
    pairs = generation_pairs(
        corpus, identifiers, train, train_qrels, titles_per_query=1, substrings_per_query=3,
        pseudo_queries_per_query=1, samples_per_passage=1, seed=options.seed, progress=False,
    )  # fmt: skip
    DistillationGenerativeRetrievalTrainer(
        model=student,
        args=arguments(
            max_steps=options.generation_steps, per_device_train_batch_size=options.generation_batch,
            learning_rate=options.generation_learning_rate, ranking_weight=0.0,
        ),
        train_dataset=pairs,
        processing_class=tokenizer,
    ).train()  # fmt: skip
    done("generation stage")

    asked = train.shuffle(seed=options.seed).select(range(min(options.train_queries, len(train))))
    candidates = retriever(student).candidates(asked, k=options.candidates, relevant=train_qrels)
    own = candidates.to_rankings()
    done("candidates")

    bm25 = BM25Teacher(corpus, progress=False)
    teachers = {"BM25": bm25}
    if options.pyserini:
        teachers["Pyserini BM25"] = PyseriniTeacher(corpus, index_dir=options.output / "lucene")
    if options.cross_encoder:
        teachers["cross-encoder"] = CrossEncoderTeacher(
            options.cross_encoder, corpus, template=options.template, max_length=256
        )
    rankings, runs = {}, {}
    first_stage = bm25.rank(test, k=20)
    for name, teacher in teachers.items():
        rankings[name] = teacher.rank(asked, own, k=options.candidates)
        # A cross-encoder ranks what BM25 finds.
        runs[f"{name} (teacher)"] = teacher.rank(test, first_stage if name == "cross-encoder" else None, k=100)
        done(f"teacher {name}")

    runs["generation only"] = retriever(student).rank(test, k=100)
    done("evaluating generation only")
    if "Pyserini BM25" in rankings:
        del rankings["BM25"]
    stages = {}
    for name, ranked in rankings.items():
        stages[f"DGR from {name}"] = (ranked, "distilled_ranknet", options.list_length)
    stages["LTRGR"] = (own, "margin_rank", 3)
    for name, (ranked, loss, list_length) in stages.items():
        distilled = copy.deepcopy(student)
        trainer = DistillationGenerativeRetrievalTrainer(
            model=distilled,
            args=arguments(
                num_train_epochs=1, per_device_train_batch_size=options.ranking_batch,
                learning_rate=options.ranking_learning_rate, ranking_loss=loss, margin=options.margin,
                margin_gap=options.margin_gap, generation_weight=options.generation_weight,
            ),
            data_collator=DistillationCollator(
                identifiers, candidates, ranked, train_qrels, list_length=list_length, seed=options.seed
            ),
            train_dataset=asked,
        )  # fmt: skip
        trainer.train()
        done(f"training {name}")
        runs[name] = retriever(distilled).rank(test, k=100)
        done(f"evaluating {name}")
        (options.output / "runs").mkdir(parents=True, exist_ok=True)
        print(compare_runs(runs, test_qrels, METRICS, baseline="generation only").to_markdown(), flush=True)

    comparison = compare_runs(runs, test_qrels, METRICS, baseline="generation only")
    for name, run in runs.items():
        run.to_trec(options.output / "runs" / f"{name.replace(' ', '-')}.trec", tag=name.replace(" ", "-"))
    print(json.dumps({"seconds": costs, **comparison.to_dict()}))


def read(
    options: argparse.Namespace,
) -> tuple[Corpus, datasets.Dataset, dict, datasets.Dataset, dict]:
    """Corpus, training and test questions with their qrels, cut down to the articles asked for."""
    everything = Corpus.read(options.data)
    passages = list(everything)
    if options.articles:
        titles = sorted({passage.title for passage in passages})
        kept = {titles[i * len(titles) // options.articles] for i in range(options.articles)}
        passages = [passage for passage in passages if passage.title in kept]
    ids = {passage.id for passage in passages}
    splits = []
    for split in ("train", "test"):
        qrels = read_qrels(options.data / "qrels" / f"{split}.tsv")
        qrels = {query: relevant for query, relevant in qrels.items() if ids.issuperset(relevant)}
        queries = read_queries(options.data / f"queries.{split}.jsonl")
        splits += [queries.filter(lambda row, known=qrels: row["query_id"] in known), qrels]
    train, train_qrels, test, _ = splits
    asked_of = defaultdict(list)
    for row in train:
        for passage_id in train_qrels[row["query_id"]]:
            asked_of[passage_id].append(row["query"])
    corpus = Corpus.from_passages(Passage(p.id, p.title, p.text, tuple(asked_of[p.id])) for p in passages)
    test = test.shuffle(seed=options.seed).select(range(min(options.test_queries, len(test))))
    test_qrels = {query: splits[3][query] for query in test["query_id"]}
    return corpus, train, train_qrels, test, test_qrels


if __name__ == "__main__":
    main()
