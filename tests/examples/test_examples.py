"""The scripts of examples/, run as their users run them."""

import difflib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dgr_trainer import BM25Teacher, Candidates, Corpus, GenerativeRetriever, Rankings, read_qrels, read_queries

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
    for term in ("loss_ranking", "loss_generation", "violated_margins", "kendall_tau", "eval_hits@5"):
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


def test_the_shipped_run_is_bm25s() -> None:
    corpus, queries = Corpus.read(EXAMPLES / "data"), read_queries(EXAMPLES / "data", split="train")
    shipped = Rankings.from_trec(EXAMPLES / "data" / "bm25.run")
    made = BM25Teacher(corpus, stop_words=(), progress=False).rank(queries, k=10)
    assert {q: shipped[q].passage_ids for q in shipped} == {q: made[q].passage_ids for q in made}


@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("*.py") if path.stem != "small_student"))
def test_command_lines_on_top_name_options_that_exist(script: str) -> None:
    source = (EXAMPLES / script).read_text(encoding="utf-8")
    top = source.split('"""')[1].replace("\\\\\n", " ")
    commands = [line.split() for line in top.splitlines() if line.startswith("    python examples/")]
    assert ["python", f"examples/{script}"] in commands
    known = set(re.findall(r'add_argument\("(--\w+)"', source))
    for words in commands:
        assert {word for word in words if word.startswith("--")} <= known
