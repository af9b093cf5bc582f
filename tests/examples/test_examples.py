"""The scripts of examples/, run as their users run them."""

import csv
import difflib
import json
import os
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from tiny_models import make_t5, unigram_tokenizer
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from dgr_trainer import (
    BM25Teacher,
    Candidates,
    Corpus,
    DistillationTrainingArguments,
    FMIndex,
    GenerativeRetriever,
    Identifiers,
    IdentifierSettings,
    Rankings,
    ScoringSettings,
    SearchSettings,
    read_qrels,
    read_queries,
)

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(script: str, folder: Path, *options: str) -> str:
    """Run a script in a folder without a network, and return what it printed."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *options],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def metrics_of(line: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"(\w+@\d+) (\d\.\d+)", line)}


@pytest.mark.slow
@pytest.mark.parametrize("script", ["seq2seq_trainer.py", "swap_seq2seq_trainer.py"])
def test_both_sides_of_the_swap_learn_their_training_questions(script: str, tmp_path: Path) -> None:
    output = run(script, tmp_path, "--output_dir", "out")
    train, test = (next(line for line in output.splitlines() if f" {split} questions" in line) for split in SPLITS)
    assert train.startswith("48 train questions:")
    assert test.startswith("12 test questions:")
    assert metrics_of(train)["hits@1"] > 0.9
    assert set(metrics_of(test)) == {"hits@1", "hits@5"}
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert (tmp_path / "out" / "tokenizer.json").is_file()


SPLITS = ("train", "test")


def test_the_swap_is_ten_lines_all_of_them_marked() -> None:
    before, after = (
        (EXAMPLES / name).read_text(encoding="utf-8").split('"""', 2)[2].splitlines()
        for name in ("seq2seq_trainer.py", "swap_seq2seq_trainer.py")
    )
    added = [line[2:] for line in difflib.ndiff(before, after) if line.startswith("+ ")]
    assert 0 < len(added) <= 10
    assert all(line.endswith("# <-") for line in added)
    assert sum(line.endswith("# <-") for line in after) == len(added)


@pytest.mark.slow
def test_full_pipeline(tmp_path: Path) -> None:
    output = run("full_pipeline.py", tmp_path, "--output_dir", "out")
    stages = re.findall(r"^(\d)\. (\w+)", output, re.MULTILINE)
    assert stages == [
        ("1", "Corpus"),
        ("2", "Index"),
        ("3", "Generation"),
        ("4", "Candidates"),
        ("5", "Teacher"),
        ("6", "Distillation"),
        ("7", "Retriever"),
        ("8", "Search"),
        ("9", "Evaluation"),
    ]
    for term in ("loss_ranking", "loss_generation", "kendall_tau", "eval_hits@5"):
        assert term in output
    table = {row[0]: row[1:] for row in re.findall(r"^\| ([\w ]+?)(?: \(baseline\))? +\| (\d\.\d+)", output, re.M)}
    assert set(table) == {"generation only", "teacher", "distilled"}

    retriever = GenerativeRetriever.from_pretrained(tmp_path / "out" / "retriever")
    queries = read_queries(EXAMPLES / "data", split="test")
    saved = Rankings.from_trec(tmp_path / "out" / "distilled.run")
    found = retriever.rank(queries, k=20)
    assert {q: found[q].passage_ids for q in found} == {q: saved[q].passage_ids for q in saved}
    candidates = Candidates.load_from_disk(tmp_path / "out" / "candidates")
    relevant = read_qrels(EXAMPLES / "data", split="train")
    assert all(passage_id in candidates.passage_ids(q) for q in relevant for passage_id in relevant[q])


@pytest.mark.slow
def test_lora(tmp_path: Path) -> None:
    output = run("lora.py", tmp_path, "--output_dir", "out")
    trained, total = map(int, re.search(r"LoRA: (\d+) of (\d+) parameters", output).groups())  # type: ignore[union-attr]
    assert 0 < trained < total / 10
    assert "Loaded again, it ranks the same" in output
    assert {line.split(":")[0] for line in output.splitlines() if "ndcg@10" in line} == {"base", "adapter"}
    folder = tmp_path / "out" / "retriever"
    assert (folder / "adapter_config.json").is_file()
    assert not (folder / "model.safetensors").exists()


@pytest.mark.slow
def test_lora_on_a_language_model(tmp_path: Path) -> None:
    output = run("causal_lora.py", tmp_path, "--output_dir", "out")
    trained, total = map(int, re.search(r"LoRA: (\d+) of (\d+) parameters", output).groups())  # type: ignore[union-attr]
    assert 0 < trained < total / 3
    assert "Loaded again, it ranks the same" in output
    assert {line.split(":")[0] for line in output.splitlines() if "ndcg@10" in line} == {"generation", "distilled"}
    folder = tmp_path / "out" / "retriever"
    assert (folder / "adapter_config.json").is_file() and not (folder / "model.safetensors").exists()


def test_the_shipped_run_is_bm25s() -> None:
    corpus, queries = Corpus.read(EXAMPLES / "data"), read_queries(EXAMPLES / "data", split="train")
    shipped = Rankings.from_trec(EXAMPLES / "data" / "bm25.run")
    made = BM25Teacher(corpus, stop_words=(), progress=False).rank(queries, k=10)
    assert {q: shipped[q].passage_ids for q in shipped} == {q: made[q].passage_ids for q in made}


@pytest.mark.slow
def test_the_recommender_is_better_than_chance(tmp_path: Path) -> None:
    output = run("semantic_ids.py", tmp_path)
    assert output.startswith("residual ids of 200 passages: ")
    found = re.search(r"^200 other users: hits@10 (\d\.\d+) \(by chance (\d\.\d+)\)$", output, re.MULTILINE)
    assert found is not None and float(found[1]) > 2 * float(found[2])
    retriever = GenerativeRetriever.from_pretrained(tmp_path / "semantic-ids-output" / "retriever")
    assert retriever.semantic_ids is not None and len(retriever.semantic_ids) == 200


def summarisation_files(folder: Path, kind: str) -> None:
    """The example data as users of summarisation scripts have it: a table of texts and targets for each split."""
    for split in ("train", "test"):
        queries, qrels = read_queries(EXAMPLES / "data", split=split), read_qrels(EXAMPLES / "data", split=split)
        rows = [
            {"query_id": row["query_id"], "text": row["query"], "passage_id": max(qrels[row["query_id"]])}
            for row in queries
        ]
        if split == "train":
            rows[0]["text"] = "NA"  # A query, not a missing value.
        with (folder / f"{split}.{kind}").open("w", encoding="utf-8", newline="") as file:
            if kind == "json":
                file.writelines(json.dumps(row) + "\n" for row in rows)
                continue
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


@pytest.mark.parametrize("kind", ["csv", pytest.param("json", marks=pytest.mark.slow)])
def test_the_summarisation_script(kind: str, tmp_path: Path) -> None:
    summarisation_files(tmp_path, kind)
    corpus = Corpus.read(EXAMPLES / "data")
    make_t5(unigram_tokenizer()).save_pretrained(tmp_path / "model")
    unigram_tokenizer().save_pretrained(tmp_path / "model")
    options = [
        "--do_train", "--do_eval", "--do_predict", "--output_dir", "out", "--model_name_or_path", "model",
        "--train_file", f"train.{kind}", "--validation_file", f"test.{kind}", "--test_file", f"test.{kind}",
        "--query_column", "text", "--passages_file", str(EXAMPLES / "data" / "corpus.jsonl"),
        "--run_file", str(EXAMPLES / "data" / "bm25.run"), "--source_prefix", "find: ", "--num_beams", "4",
        "--max_train_samples", "16", "--max_predict_samples", "5", "--max_steps", "4", "--save_steps", "2",
        "--per_device_train_batch_size", "4", "--logging_steps", "2", "--report_to", "none", "--use_cpu",
    ]  # fmt: skip
    run("run_retrieval.py", tmp_path, *options)
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"train_results.json", "eval_results.json", "predict_results.json", "all_results.json"} <= files
    assert {"trainer_state.json", "model.safetensors", "tokenizer.json", "checkpoint-4"} <= files
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert results["train_samples"] == 16 and results["eval_samples"] == 12 and results["predict_samples"] == 5
    assert {"train_loss", "eval_loss", "predict_loss", "eval_hits@10", "predict_mrr@10"} <= results.keys()

    # What it wrote is what a search of the saved student finds.
    saved = Rankings.from_trec(tmp_path / "out" / "generated_predictions.trec")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    settings = IdentifierSettings(views=("docid",), prompts={"docid": "find: {query}"}, max_query_length=1024)
    identifiers = Identifiers(tokenizer, settings)
    docids = Corpus.from_passages(replace(passage, docid=passage.title) for passage in corpus)
    retriever = GenerativeRetriever(
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out"),
        identifiers,
        FMIndex.from_corpus(docids, identifiers),
        settings=SearchSettings(beam_size=4),
        scoring=ScoringSettings(kind="log_likelihood"),
    )
    found = retriever.rank(read_queries(EXAMPLES / "data", split="test").select(range(5)), k=100)
    assert {q: saved[q].passage_ids for q in saved} == {q: found[q].passage_ids for q in found}

    # The same command again resumes, from the checkpoint before where the last one was cut off.
    whole = (tmp_path / "out" / "model.safetensors").read_bytes()
    state = tmp_path / "out" / "checkpoint-4" / "optimizer.pt"
    state.write_bytes(state.read_bytes()[:100])
    run("run_retrieval.py", tmp_path, *options)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == whole


@pytest.mark.slow
def test_the_summarisation_script_refuses_ids_of_two_queries(tmp_path: Path) -> None:
    summarisation_files(tmp_path, "csv")
    with (tmp_path / "train.csv").open(encoding="utf-8", newline="") as file:
        first, *others = csv.DictReader(file)
    other = next(row for row in others if row["passage_id"] != first["passage_id"])
    with (tmp_path / "other.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(first))
        writer.writeheader()
        writer.writerow({**other, "query_id": first["query_id"]})
    options = [
        "--do_train", "--do_eval", "--output_dir", "out", "--train_file", "train.csv", "--validation_file",
        "other.csv", "--query_column", "text", "--passages_file", str(EXAMPLES / "data" / "corpus.jsonl"), "--use_cpu",
    ]  # fmt: skip
    with pytest.raises(AssertionError, match="is one query in train_file and another in validation_file"):
        run("run_retrieval.py", tmp_path, *options)


@pytest.mark.slow
def test_the_summarisation_script_without_a_teacher_learns_titles_alone(tmp_path: Path) -> None:
    summarisation_files(tmp_path, "csv")
    options = {
        "do_train": True,
        "train_file": "train.csv",
        "query_column": "text",
        "passages_file": str(EXAMPLES / "data" / "corpus.jsonl"),
        "output_dir": "out",
        "max_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "generation_max_length": 20,
    }
    (tmp_path / "options.json").write_text(json.dumps(options))
    run("run_retrieval.py", tmp_path, "options.json")
    log = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert "train_loss" in log[-1] and not any("loss_ranking" in entry for entry in log)


@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("*.py") if path.stem != "small_student"))
def test_command_lines_on_top_name_options_that_exist(script: str) -> None:
    source = (EXAMPLES / script).read_text(encoding="utf-8")
    top = source.split('"""')[1].replace("\\\\\n", " ")
    commands = [line.split() for line in top.splitlines() if line.startswith("    python examples/")]
    assert ["python", f"examples/{script}"] in [words[:2] for words in commands]
    known = set(re.findall(r'add_argument\("(--\w+)"', source))
    if "HfArgumentParser" in source:
        known |= {f"--{name}" for name in re.findall(r"^    (\w+): [^=\n]+ = field\(", source, re.M)}
        known |= {f"--{option.name}" for option in fields(DistillationTrainingArguments)}
    for words in commands:
        assert {word for word in words if word.startswith("--")} <= known
