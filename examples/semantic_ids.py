"""A recommender: semantic ids of items from their vectors, and a student that reads a sequence of items.

    python examples/semantic_ids.py
    python examples/semantic_ids.py --model google/flan-t5-small --users 5000 --epochs 20

The items and users are made up: an item has a vector, and a user moves from an item to one nearby. The query is the
semantic ids of the items that a user saw; the teacher ranks items by how near they are to the last one; the student
learns to generate the id of the next item. Needs the extra `faiss`: pip install "dgr-trainer[faiss]".
"""

import argparse

import numpy as np
from datasets import Dataset
from small_student import load_student

from dgr_trainer import (
    Corpus,
    DistillationCollator,
    DistillationGenerativeRetrievalTrainer,
    DistillationTrainingArguments,
    FMIndex,
    GenerativeRetriever,
    Identifiers,
    IdentifierSettings,
    Passage,
    Rankings,
    ScoringSettings,
    SearchSettings,
    SemanticIds,
    evaluate_run,
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a recommender that generates semantic ids of items.")
    parser.add_argument("--model", help="A seq2seq checkpoint. Default: a small random BART.")
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--users", type=int, default=1000, help="Sequences to train on.")
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    parser.add_argument("--output_dir", default="semantic-ids-output")
    options = parser.parse_args()

    # Items with vectors, and what users saw: each next item is one of the four nearest to the last one.
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((options.items, 6)).astype(np.float32)
    items = [f"item{number}" for number in range(options.items)]
    near = np.argsort(((vectors[:, None] - vectors) ** 2).sum(-1), axis=1)[:, 1:51]  # The fifty nearest ones.
    seen = rng.integers(options.items, size=(options.users + 200, 4))
    for step in (1, 2, 3):
        seen[:, step] = near[seen[:, step - 1], rng.integers(4, size=len(seen))]

    # Semantic ids, and a student that has their tokens.
    ids = SemanticIds.fit(vectors, items, levels=3, size=8, progress=False)
    print(ids.statistics(vectors))
    model, tokenizer = load_student(options.model, ["items that a user saw"])
    ids.add_to(tokenizer, model)

    # A query is the ids of three items; the teacher ranks by the distance to the last of them.
    queries = {f"u{user}": "".join(ids[items[item]] for item in row[:3]) for user, row in enumerate(seen)}
    qrels = {f"u{user}": {items[row[3]]: 1} for user, row in enumerate(seen)}
    train, test = list(queries)[: options.users], list(queries)[options.users :]
    rankings = Rankings.from_order(
        {user: [items[item] for item in near[seen[row, 2]]] for row, user in enumerate(train)}
    )

    settings = IdentifierSettings(views=("docid",), prompts={"docid": "{query}"})
    identifiers = Identifiers(tokenizer, settings)
    trainer = DistillationGenerativeRetrievalTrainer(
        model=model,
        args=DistillationTrainingArguments(
            output_dir=options.output_dir,
            prefix_ranking=True,
            num_train_epochs=options.epochs,
            learning_rate=options.learning_rate,
            per_device_train_batch_size=32,
            logging_strategy="epoch",
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=Dataset.from_dict({"query_id": train, "query": [queries[user] for user in train]}),
        data_collator=DistillationCollator(identifiers, ids, rankings, qrels),
    )
    trainer.train()

    corpus = ids.with_docids(Corpus.from_passages(Passage(item, title=item) for item in items))
    retriever = GenerativeRetriever(
        model,
        identifiers,
        FMIndex.from_corpus(corpus, identifiers),
        corpus=corpus,
        settings=SearchSettings(beam_size=10),
        scoring=ScoringSettings(kind="log_likelihood"),
        semantic_ids=ids,
    )
    retriever.save_pretrained(f"{options.output_dir}/retriever")
    run = retriever.rank({user: queries[user] for user in test}, k=10)
    hits = evaluate_run(run, {user: qrels[user] for user in test}, metrics=["hits@10"])["hits@10"]
    print(f"{len(test)} other users: hits@10 {hits:.3f} (by chance {10 / options.items:.3f})")


if __name__ == "__main__":
    main()
