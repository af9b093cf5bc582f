"""Distillation into a LoRA adapter: a few percent of the weights are trained, and saved with the retriever.

    python examples/lora.py
    python examples/lora.py --model my-generation-checkpoint --data my-beir-folder --learning_rate 1e-4 --epochs 5

`--model` is a checkpoint that has been through the generation stage (see full_pipeline.py). Without it a small random
BART goes through that stage first, on the 24 passages of `examples/data`. Needs the extra `bm25` for the teacher:
pip install "dgr-trainer[bm25]".
"""

import argparse
from pathlib import Path

from peft import LoraConfig, TaskType, get_peft_model
from small_student import load_student
from transformers import AutoModelForSeq2SeqLM

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
    parser = argparse.ArgumentParser(description="Distil a teacher into a LoRA adapter of a generative retriever.")
    parser.add_argument("--model", help="A seq2seq checkpoint after the generation stage. Default: a small one.")
    parser.add_argument("--data", type=Path, default=Path(__file__).parent / "data", help="A BEIR folder.")
    parser.add_argument("--output_dir", type=Path, default=Path("lora-output"), help="Folder of all outputs.")
    parser.add_argument("--rank", type=int, default=8, help="Rank of the adapter's matrices.")
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--learning_rate", type=float, default=5e-3)
    options = parser.parse_args()
    output_dir: Path = options.output_dir

    corpus = Corpus.read(options.data)
    queries, qrels = read_queries(options.data, split="train"), read_qrels(options.data, split="train")
    test_queries, test_qrels = read_queries(options.data, split="test"), read_qrels(options.data, split="test")
    model, tokenizer = load_student(
        options.model, (" ".join([p.title, p.text, *p.pseudo_queries, "@@ || body title query +"]) for p in corpus)
    )
    identifiers = Identifiers(tokenizer)
    index = FMIndex.from_corpus(corpus, identifiers)
    settings = SearchSettings(beam_size=5)
    common = {"logging_strategy": "epoch", "save_strategy": "no", "report_to": "none"}

    # The base: an adapter is loaded with the weights on which it was trained, so these have to be saved.
    base_path = options.model
    if base_path is None:
        DistillationGenerativeRetrievalTrainer(
            model=model,
            args=DistillationTrainingArguments(
                output_dir=str(output_dir / "generation"),
                ranking_weight=0.0,
                num_train_epochs=20,
                learning_rate=2e-3,
                warmup_steps=20,
                per_device_train_batch_size=64,
                **common,
            ),
            train_dataset=generation_pairs(corpus, identifiers, queries, qrels),
            processing_class=tokenizer,
        ).train()
        base_path = str(output_dir / "base")
        model.save_pretrained(base_path)
        tokenizer.save_pretrained(base_path)
        model = AutoModelForSeq2SeqLM.from_pretrained(base_path)  # It now knows its path.

    # What the base finds, ranked by the teacher.
    base = GenerativeRetriever(model, identifiers, index, settings=settings)
    before = evaluate_run(base.rank(test_queries, k=20), test_qrels)
    candidates = base.candidates(queries, k=20, relevant=qrels)
    rankings = BM25Teacher(corpus).rank(queries, candidates.to_rankings())

    # The adapter: any PeftModel that does not change the decoder's input can be trained.
    config = LoraConfig(
        task_type=TaskType.SEQ_2_SEQ_LM,
        r=options.rank,
        lora_alpha=2 * options.rank,
        target_modules=["q_proj", "v_proj"],  # BART's names; T5 calls them "q" and "v".
    )
    adapted = get_peft_model(model, config)
    trained, total = adapted.get_nb_trainable_parameters()
    print(f"LoRA: {trained} of {total} parameters are trained")
    DistillationGenerativeRetrievalTrainer(
        model=adapted,
        args=DistillationTrainingArguments(
            output_dir=str(output_dir / "distillation"),
            num_train_epochs=options.epochs,
            learning_rate=options.learning_rate,
            per_device_train_batch_size=8,
            **common,
        ),
        train_dataset=queries,
        data_collator=DistillationCollator(identifiers, candidates, rankings, qrels),
    ).train()

    # Saved: the adapter, tokenizer, index and corpus, and the path of the base; loaded: all of them together.
    retriever = GenerativeRetriever(adapted, identifiers, index, corpus=corpus, settings=settings)
    retriever.save_pretrained(output_dir / "retriever")
    loaded = GenerativeRetriever.from_pretrained(output_dir / "retriever")
    weights = output_dir / "retriever" / "adapter_model.safetensors"
    print(f"Adapter: {weights} ({weights.stat().st_size / 1e3:.0f} kB)")

    run, loaded_run = retriever.rank(test_queries, k=20), loaded.rank(test_queries, k=20)
    same = all(run[query_id].passage_ids == loaded_run[query_id].passage_ids for query_id in run)
    print("Loaded again, it ranks", "the same" if same else "DIFFERENTLY")
    for name, metrics in (("base", before), ("adapter", evaluate_run(loaded_run, test_qrels))):
        print(f"{name}:", ", ".join(f"{metric} {value:.3f}" for metric, value in metrics.items()))


if __name__ == "__main__":
    main()
