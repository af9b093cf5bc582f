"""A summarisation script (query in, title out) swapped to `DistillationGenerativeRetrievalTrainer`, options and all.

Such scripts train a Seq2SeqTrainer on a column of texts and a column of targets, from CSV or JSON files, with
HfArgumentParser, resuming, metrics files and predictions. Here the text is a query, and the target the title of its
passage. The lines that were changed are marked `# <-`; what became of the others is said where they were.

    python examples/run_retrieval.py --do_train --do_eval --do_predict --train_file train.csv \\
        --validation_file dev.csv --test_file test.csv --passages_file corpus.jsonl --run_file teacher.trec \\
        --model_name_or_path google/flan-t5-base --source_prefix "find: " --output_dir student
    torchrun --nproc_per_node 8 examples/run_retrieval.py --do_train --bf16 --train_file train.json \\
        --passages_file corpus.jsonl --run_file teacher.trec --model_name_or_path facebook/bart-base

Files of queries have the columns `query_id`, `query` (or `--query_column`) and, but for the test file, `passage_id`.
A second run with the same `--output_dir` resumes from the last complete checkpoint.
"""

import csv
import logging
import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from datasets import Dataset, load_dataset
from small_student import load_student
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    HfArgumentParser,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from dgr_trainer import (  # <-
    Corpus,
    DistillationCollator,
    DistillationGenerativeRetrievalTrainer,
    DistillationTrainingArguments,
    FMIndex,
    Identifiers,
    IdentifierSettings,
    Rankings,
    RetrievalEvaluator,
    ScoringSettings,
    SearchSettings,
    evaluate_run,
)

logger = logging.getLogger(__name__)

METRICS = ["hits@1", "hits@10", "mrr@10"]


@dataclass
class ModelArguments:
    """The model to train."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "A seq2seq checkpoint. Default: a small BART with random weights."}
    )
    tokenizer_name: str | None = field(default=None, metadata={"help": "Tokenizer, if it is not the model's."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the model."})


@dataclass
class DataTrainingArguments:
    """The data to train and evaluate on."""

    train_file: str | None = field(default=None, metadata={"help": "Training queries, .csv or .json (JSON Lines)."})
    validation_file: str | None = field(default=None, metadata={"help": "Queries for --do_eval."})
    test_file: str | None = field(default=None, metadata={"help": "Queries for --do_predict."})
    query_column: str = field(default="query", metadata={"help": "Column of the texts."})
    passages_file: str | None = field(default=None, metadata={"help": "Passages with titles, as `Corpus.read` takes."})
    run_file: str | None = field(default=None, metadata={"help": "The teacher's rank lists, a TREC run."})  # <-
    source_prefix: str = field(default="", metadata={"help": "Put before every query, as T5 needs it."})
    max_source_length: int = field(default=1024, metadata={"help": "Longest query in tokens, with its prefix."})
    num_beams: int = field(default=10, metadata={"help": "Beams of a search."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on this many queries only."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on this many queries only."})
    max_predict_samples: int | None = field(default=None, metadata={"help": "Predict for this many queries only."})


def read(file: str | None, option: str, data_args: DataTrainingArguments, limit: int | None) -> Dataset:
    """Queries of a file, with the columns that the trainer knows."""
    if file is None:
        raise ValueError(f"Give --{option}.")
    if file.endswith(".csv"):
        # load_dataset("csv") would take the id 007 for a number, and the query NA for a missing value.
        with open(file, encoding="utf-8", newline="") as lines:
            rows = Dataset.from_list(list(csv.DictReader(lines)))
    else:
        rows = load_dataset("json", data_files=file, split="train")
    if data_args.query_column != "query":
        rows = rows.rename_column(data_args.query_column, "query")
    return rows if limit is None else rows.select(range(min(limit, len(rows))))


def relevant_passages(rows: Dataset) -> dict[str, dict[str, int]]:
    if "passage_id" not in rows.column_names:
        raise ValueError("There is nothing to compare with: give a --validation_file with the column passage_id.")
    qrels: dict[str, dict[str, int]] = {}
    for row in rows:
        qrels.setdefault(row["query_id"], {})[row["passage_id"]] = 1
    return qrels


def main() -> None:
    parser = HfArgumentParser((ModelArguments, DataTrainingArguments, DistillationTrainingArguments))  # <-
    if len(sys.argv) == 2 and sys.argv[1].endswith(".json"):
        model_args, data_args, training_args = parser.parse_json_file(os.path.abspath(sys.argv[1]))
    else:
        model_args, data_args, training_args = parser.parse_args_into_dataclasses()
    logging.basicConfig(level=logging.INFO if training_args.should_log else logging.WARNING)
    set_seed(training_args.seed)

    # A run that was interrupted goes on.
    last_checkpoint = None
    if training_args.do_train and os.path.isdir(training_args.output_dir):
        last_checkpoint = get_last_checkpoint(training_args.output_dir)

    # Data. The target of a query is the title of its passage, so there are targets for passages, not for rows.
    if data_args.passages_file is None:
        raise ValueError("Give --passages_file.")
    corpus = Corpus.read(data_args.passages_file)
    titles = {passage.id: passage.title for passage in corpus}
    train_rows = eval_rows = test_rows = None
    if training_args.do_train:
        train_rows = read(data_args.train_file, "train_file", data_args, data_args.max_train_samples)
    if training_args.do_eval or data_args.validation_file is not None:
        eval_rows = read(data_args.validation_file, "validation_file", data_args, data_args.max_eval_samples)
    if training_args.do_predict:
        test_rows = read(data_args.test_file, "test_file", data_args, data_args.max_predict_samples)

    # Model
    if model_args.model_name_or_path is None:
        model, tokenizer = load_student(None, (f"{passage.title} {passage.text}" for passage in corpus))
    else:
        name, revision = model_args.model_name_or_path, model_args.model_revision
        tokenizer = AutoTokenizer.from_pretrained(model_args.tokenizer_name or name, revision=revision)
        is_encoder_decoder = AutoConfig.from_pretrained(name, revision=revision).is_encoder_decoder
        auto_class = AutoModelForSeq2SeqLM if is_encoder_decoder else AutoModelForCausalLM
        # In float32 whatever the checkpoint is in: small steps are lost in half precision. `--bf16` computes in it.
        model = auto_class.from_pretrained(name, revision=revision, dtype="float32")

    # In place of preprocess_function: the prefix is part of the prompt, and the collator tokenises queries and titles.
    # There is no max_target_length: a title that is cut would be that of no passage.
    identifiers = Identifiers(  # <-
        tokenizer,
        IdentifierSettings(
            views=("docid",),
            prompts={"docid": f"{data_args.source_prefix}{{query}}"},
            max_query_length=data_args.max_source_length,
        ),
    )
    rankings = None if data_args.run_file is None else Rankings.from_trec(data_args.run_file)  # <-
    if rankings is None:
        training_args.ranking_weight = 0.0  # Without a teacher, only titles are learnt, as before.
    qrels = {}  # <-
    for rows in (train_rows, eval_rows):
        of_file = {} if rows is None else relevant_passages(rows)
        if twice := [query_id for query_id in of_file if qrels.get(query_id, of_file[query_id]) != of_file[query_id]]:
            raise ValueError(f"{twice[0]!r} is one query in train_file and another in validation_file. Change its id.")
        qrels |= of_file
    collator = DistillationCollator(identifiers, titles, rankings, qrels or None)  # <-

    # In place of compute_metrics and predict_with_generate: a search in the index of all titles.
    evaluator = None
    judged = eval_rows if eval_rows is not None else test_rows
    if judged is not None:
        docids = Corpus.from_passages(replace(passage, docid=passage.title) for passage in corpus)
        evaluator = RetrievalEvaluator(  # <-
            FMIndex.from_corpus(docids, identifiers),
            identifiers,
            judged.select_columns(["query_id", "query"]),
            relevant_passages(judged),
            metrics=METRICS,
            settings=SearchSettings(beam_size=data_args.num_beams),
            scoring=ScoringSettings(kind="log_likelihood"),
        )

    trainer = DistillationGenerativeRetrievalTrainer(  # <-
        model=model,
        args=training_args,
        train_dataset=train_rows,
        eval_dataset=eval_rows if training_args.do_eval else None,
        processing_class=tokenizer,
        data_collator=collator,
        retrieval_evaluator=evaluator,
    )

    if training_args.do_train:
        checkpoint = training_args.resume_from_checkpoint or last_checkpoint
        train_result = trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()  # The tokenizer comes along.
        metrics = train_result.metrics | {"train_samples": len(train_rows)}
        trainer.log_metrics("train", metrics)
        trainer.save_metrics("train", metrics)
        trainer.save_state()

    if training_args.do_eval:
        metrics = trainer.evaluate(metric_key_prefix="eval") | {"eval_samples": len(eval_rows)}
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)

    if training_args.do_predict:
        predict_results = trainer.predict(test_rows, metric_key_prefix="predict")
        rank_lists = (
            predict_results.predictions
        )  # In place of token ids: the passages of each query, and their scores.
        metrics = predict_results.metrics | {"predict_samples": len(test_rows)}
        if "passage_id" in test_rows.column_names:
            measured = evaluate_run(rank_lists, relevant_passages(test_rows), METRICS)
            metrics |= {f"predict_{name}": value for name, value in measured.items()}
        trainer.log_metrics("predict", metrics)
        trainer.save_metrics("predict", metrics)
        if trainer.is_world_process_zero():
            rank_lists.to_trec(Path(training_args.output_dir) / "generated_predictions.trec")

    if training_args.push_to_hub:
        trainer.push_to_hub(tasks="text-retrieval", finetuned_from=model_args.model_name_or_path)


if __name__ == "__main__":
    main()
