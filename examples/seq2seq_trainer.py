"""An ordinary Seq2SeqTrainer script: the input is a question, the output the title of the passage that answers it.

    python examples/seq2seq_trainer.py
    python examples/seq2seq_trainer.py --model facebook/bart-base --epochs 10 --learning_rate 3e-5

`swap_seq2seq_trainer.py` is the same script with `DistillationGenerativeRetrievalTrainer`; compare them with

    diff examples/seq2seq_trainer.py examples/swap_seq2seq_trainer.py
"""

import argparse
from pathlib import Path

from small_student import load_student
from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments

from dgr_trainer import (
    Corpus,
    Rankings,
    evaluate_run,
    read_qrels,
    read_queries,
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a model to answer a question with the title of a passage.")
    parser.add_argument("--model", help="A seq2seq checkpoint. Default: a small BART with random weights.")
    parser.add_argument("--data", type=Path, default=Path(__file__).parent / "data", help="A BEIR folder.")
    parser.add_argument("--output_dir", default="seq2seq-output", help="Where checkpoints go.")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    options = parser.parse_args()

    # 1. Data: one identifier string per passage, here its title.
    corpus = Corpus.read(options.data)
    identifiers = {passage.id: passage.title for passage in corpus}
    queries, qrels = read_queries(options.data, split="train"), read_qrels(options.data, split="train")

    # 2. Student
    model, tokenizer = load_student(options.model, (f"{p.title} {p.text}" for p in corpus))

    # 3. Training examples and batches
    def encode(row: dict[str, str]) -> dict[str, list[int]]:
        title = identifiers[max(qrels[row["query_id"]])]
        return tokenizer(row["query"]) | {"labels": tokenizer(text_target=title)["input_ids"]}

    train_dataset = queries.map(encode)
    collator = DataCollatorForSeq2Seq(tokenizer, model)

    # 4. Training
    args = Seq2SeqTrainingArguments(
        output_dir=options.output_dir,
        num_train_epochs=options.epochs,
        learning_rate=options.learning_rate,
        per_device_train_batch_size=8,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Seq2SeqTrainer(
        model=model, args=args, train_dataset=train_dataset, data_collator=collator, processing_class=tokenizer
    )
    trainer.train()
    trainer.save_model()

    # 5. Ranking by plain beam search. Generated titles that belong to no passage are ignored.
    model.eval()
    passage_of = {title: passage_id for passage_id, title in identifiers.items()}
    for split in ("train", "test"):
        queries, qrels = read_queries(options.data, split=split), read_qrels(options.data, split=split)
        inputs = tokenizer(list(queries["query"]), padding=True, return_token_type_ids=False, return_tensors="pt")
        output = model.generate(
            **inputs.to(model.device),
            num_beams=10,
            num_return_sequences=10,
            max_new_tokens=16,
            return_dict_in_generate=True,
            output_scores=True,
        )
        titles = tokenizer.batch_decode(output.sequences, skip_special_tokens=True)
        lists: dict[str, dict[str, float]] = {query_id: {} for query_id in queries["query_id"]}
        for number, (title, score) in enumerate(zip(titles, output.sequences_scores.tolist(), strict=True)):
            if title.strip() in passage_of:
                query_id = queries[number // 10]["query_id"]
                lists[query_id].setdefault(passage_of[title.strip()], score)
        metrics = evaluate_run(Rankings(lists), qrels, ["hits@1", "hits@5"])
        print(f"{len(qrels)} {split} questions:", ", ".join(f"{name} {value:.3f}" for name, value in metrics.items()))


if __name__ == "__main__":
    main()
