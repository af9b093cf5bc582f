"""A decoder-only language model learns to retrieve, and to rank as a teacher does, in a LoRA adapter.

    python examples/causal_lora.py
    python examples/causal_lora.py --model Qwen/Qwen3-0.6B --data my-beir-folder --bf16 --learning_rate 1e-4 \\
        --generation_epochs 2 --epochs 3

The adapter goes through both stages, generation and distillation. Without `--model` a small random Qwen3 learns all
its weights in a first generation stage, on the 24 passages of `examples/data`: random weights cannot be adapted.
Needs the extra `bm25` for the teacher: pip install "dgr-trainer[bm25]".
"""

import argparse
from pathlib import Path
from typing import Any

from peft import LoraConfig, TaskType, get_peft_model
from small_student import load_student
from transformers import AutoModelForCausalLM

from dgr_trainer import (
    BM25Teacher,
    Corpus,
    DistillationCollator,
    DistillationGenerativeRetrievalTrainer,
    DistillationTrainingArguments,
    FMIndex,
    GenerativeRetriever,
    Identifiers,
    SearchSettings,
    evaluate_run,
    generation_pairs,
    read_qrels,
    read_queries,
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Distil a teacher into a LoRA adapter of a language model.")
    parser.add_argument("--model", help="A decoder-only checkpoint. Default: a small random one.")
    parser.add_argument("--data", type=Path, default=Path(__file__).parent / "data", help="A BEIR folder.")
    parser.add_argument("--output_dir", type=Path, default=Path("causal-output"), help="Folder of all outputs.")
    parser.add_argument("--rank", type=int, default=8, help="Rank of the adapter's matrices.")
    parser.add_argument("--bf16", action="store_true", help="Mixed precision, for accelerators.")
    parser.add_argument("--generation_epochs", type=float, default=1)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    options = parser.parse_args()
    output_dir: Path = options.output_dir

    corpus = Corpus.read(options.data)
    queries, qrels = read_queries(options.data, split="train"), read_qrels(options.data, split="train")
    test_queries, test_qrels = read_queries(options.data, split="test"), read_qrels(options.data, split="test")
    texts = (" ".join([p.title, p.text, *p.pseudo_queries, "@@ || body title query +"]) for p in corpus)
    model, tokenizer = load_student(options.model, texts, decoder_only=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    identifiers = Identifiers(tokenizer)
    index = FMIndex.from_corpus(corpus, identifiers)
    settings = SearchSettings(beam_size=5)
    pairs = generation_pairs(corpus, identifiers, queries, qrels)

    def train(student: Any, stage: str, **arguments: Any) -> None:
        given = {name: arguments.pop(name) for name in ("train_dataset", "data_collator") if name in arguments}
        args = DistillationTrainingArguments(
            output_dir=str(output_dir / stage),
            logging_strategy="epoch",
            save_strategy="no",
            report_to="none",
            bf16=options.bf16,
            **arguments,
        )
        DistillationGenerativeRetrievalTrainer(model=student, args=args, processing_class=tokenizer, **given).train()

    generation = {"train_dataset": pairs, "ranking_weight": 0.0, "per_device_train_batch_size": 64}
    if options.model is None:  # The base that the adapter is saved for.
        train(model, "base-training", num_train_epochs=12, learning_rate=4e-3, warmup_steps=20, **generation)
        model.save_pretrained(output_dir / "base")
        tokenizer.save_pretrained(output_dir / "base")
        model = AutoModelForCausalLM.from_pretrained(output_dir / "base")  # It now knows its path.

    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM, r=options.rank, lora_alpha=2 * options.rank, target_modules="all-linear"
    )
    adapted = get_peft_model(model, config)
    trained, total = adapted.get_nb_trainable_parameters()
    print(f"LoRA: {trained} of {total} parameters are trained")

    # Generation: prompt and identifier, the loss on the identifier.
    train(
        adapted,
        "generation",
        num_train_epochs=options.generation_epochs,
        learning_rate=options.learning_rate,
        **generation,
    )

    # Distillation: what the student finds, ranked by the teacher.
    retriever = GenerativeRetriever(adapted, identifiers, index, corpus=corpus, settings=settings)
    before = evaluate_run(retriever.rank(test_queries, k=20), test_qrels)
    candidates = retriever.candidates(queries, k=20, relevant=qrels)
    rankings = BM25Teacher(corpus).rank(queries, candidates.to_rankings())
    train(
        adapted,
        "distillation",
        num_train_epochs=options.epochs,
        learning_rate=options.learning_rate,
        per_device_train_batch_size=8,
        train_dataset=queries,
        data_collator=DistillationCollator(identifiers, candidates, rankings, qrels),
    )

    # Saved: the adapter, tokenizer, index and corpus, and the path of the base; loaded: all of them together.
    retriever.save_pretrained(output_dir / "retriever")
    loaded = GenerativeRetriever.from_pretrained(output_dir / "retriever")
    run, loaded_run = retriever.rank(test_queries, k=20), loaded.rank(test_queries, k=20)
    same = all(run[query_id].passage_ids == loaded_run[query_id].passage_ids for query_id in run)
    print("Loaded again, it ranks", "the same" if same else "DIFFERENTLY")
    for name, metrics in (("generation", before), ("distilled", evaluate_run(loaded_run, test_qrels))):
        print(f"{name}:", ", ".join(f"{metric} {value:.3f}" for metric, value in metrics.items()))


if __name__ == "__main__":
    main()
