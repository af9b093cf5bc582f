"""All stages in Python: corpus, index, generation stage, candidates, teacher, distillation, retriever, evaluation.

    python examples/full_pipeline.py
    python examples/full_pipeline.py --model facebook/bart-large --data my-beir-folder --beam_size 15 \\
        --generation_epochs 5 --distillation_epochs 3 --learning_rate 2e-5 --warmup_steps 500

Needs the extra `bm25` for the teacher: pip install "dgr-trainer[bm25]". The default is a small BART with random
weights on the 24 passages of `examples/data`, which shows only that the stages work.
"""

import argparse
from pathlib import Path

from small_student import load_student

from dgr_trainer import (
    BM25Teacher,
    Corpus,
    DistillationCollator,
    DistillationGenerativeRetrievalTrainer,
    DistillationTrainingArguments,
    FMIndex,
    GenerativeRetriever,
    Identifiers,
    RetrievalEvaluator,
    SearchSettings,
    generation_pairs,
    read_qrels,
    read_queries,
)
from dgr_trainer.evaluation import compare_runs


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a generative retriever by distillation, from corpus to table.")
    parser.add_argument("--model", help="A seq2seq checkpoint. Default: a small BART with random weights.")
    parser.add_argument("--data", type=Path, default=Path(__file__).parent / "data", help="A BEIR folder.")
    parser.add_argument("--output_dir", type=Path, default=Path("full-pipeline"), help="Folder of all outputs.")
    parser.add_argument("--generation_epochs", type=float, default=20)
    parser.add_argument("--distillation_epochs", type=float, default=10)
    parser.add_argument("--learning_rate", type=float, default=2e-3, help="Generation stage; distillation: half.")
    parser.add_argument("--warmup_steps", type=int, default=20)
    parser.add_argument("--beam_size", type=int, default=5)
    options = parser.parse_args()
    output_dir: Path = options.output_dir

    # 1. Corpus, queries, judgements
    corpus = Corpus.read(options.data)
    queries, qrels = read_queries(options.data, split="train"), read_qrels(options.data, split="train")
    test_queries, test_qrels = read_queries(options.data, split="test"), read_qrels(options.data, split="test")
    print(f"1. Corpus: {len(corpus)} passages, {len(queries)} training and {len(test_queries)} test queries")

    # 2. Identifiers and index. The tokenizer is the student's: an identifier is a sequence of its tokens.
    model, tokenizer = load_student(
        options.model, (" ".join([p.title, p.text, *p.pseudo_queries, "@@ || body title query +"]) for p in corpus)
    )
    identifiers = Identifiers(tokenizer)
    index = FMIndex.from_corpus(corpus, identifiers)
    print(f"2. Index: {index.num_tokens} tokens, {index.num_bytes / 1e6:.1f} MB")

    # 3. Generation stage: the student learns which identifiers go with a query. Ranking has no weight yet.
    settings = SearchSettings(beam_size=options.beam_size)
    evaluator = RetrievalEvaluator(index, identifiers, test_queries, test_qrels, k=20, settings=settings)
    pairs = generation_pairs(corpus, identifiers, queries, qrels)
    common = {
        "warmup_steps": options.warmup_steps,
        "logging_strategy": "epoch",
        "save_strategy": "no",
        "report_to": "none",
    }
    trainer = DistillationGenerativeRetrievalTrainer(
        model=model,
        args=DistillationTrainingArguments(
            output_dir=str(output_dir / "generation"),
            ranking_weight=0.0,
            num_train_epochs=options.generation_epochs,
            learning_rate=options.learning_rate,
            per_device_train_batch_size=64,
            **common,
        ),
        train_dataset=pairs,
        processing_class=tokenizer,
        retrieval_evaluator=evaluator,
    )
    trainer.train()
    generation_only = GenerativeRetriever(model, identifiers, index, corpus=corpus, settings=settings)
    runs = {"generation only": generation_only.rank(test_queries, k=20)}
    print(f"3. Generation stage: {len(pairs)} pairs")

    # 4. Candidates: what the student finds for the training queries, with the identifiers that make up the scores.
    candidates = generation_only.candidates(queries, k=20, relevant=qrels)
    candidates.save_to_disk(output_dir / "candidates")
    print(f"4. Candidates: {sum(len(candidates.passage_ids(query_id)) for query_id in candidates)}")

    # 5. Teacher: ranks the candidates.
    teacher = BM25Teacher(corpus)
    rankings = teacher.rank(queries, candidates.to_rankings())
    rankings.to_trec(output_dir / "teacher.run")
    runs["teacher"] = teacher.rank(test_queries, k=20)
    print(f"5. Teacher: {len(rankings)} rank lists")

    # 6. Distillation: the student learns the teacher's order of its own candidates.
    trainer = DistillationGenerativeRetrievalTrainer(
        model=model,
        args=DistillationTrainingArguments(
            output_dir=str(output_dir / "distillation"),
            num_train_epochs=options.distillation_epochs,
            learning_rate=options.learning_rate / 2,
            per_device_train_batch_size=8,
            eval_strategy="epoch",
            **common,
        ),
        train_dataset=queries,
        data_collator=DistillationCollator(identifiers, candidates, rankings, qrels),
        retrieval_evaluator=evaluator,
    )
    trainer.train()
    print(f"6. Distillation: {trainer.state.global_step} steps")

    # 7. Retriever: model, tokenizer, index, corpus and settings in one folder.
    GenerativeRetriever(model, identifiers, index, corpus=corpus, settings=settings).save_pretrained(
        output_dir / "retriever"
    )
    retriever = GenerativeRetriever.from_pretrained(output_dir / "retriever")
    print(f"7. Retriever: {output_dir / 'retriever'}")

    # 8. Search
    query = test_queries[0]["query"]
    print(f"8. Search: {query}")
    for hit in retriever.search(query, k=3)[0]:
        scores = ", ".join(f"{retriever.identifier_text(match)!r} {match.score:.0f}" for match in hit.identifiers[:3])
        print(f"   {hit.score:9.1f}  {corpus.get(hit.passage_id).title}: {scores}")

    # 9. Evaluation
    runs["distilled"] = retriever.rank(test_queries, k=20)
    for name, run in runs.items():
        run.to_trec(output_dir / f"{name.replace(' ', '-')}.run", tag=name.replace(" ", "-"))
    print("9. Evaluation on the test queries")
    print(compare_runs(runs, test_qrels, baseline="generation only").to_markdown())


if __name__ == "__main__":
    main()
