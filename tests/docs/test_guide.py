"""The guide's code and commands, run in order, page by page, on the data of examples/ and with small random models."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from teachers.lucene.lucene_files import index_impacts, missing_lucene, save_faiss_index, save_splade
from teachers.reranker_models import save_causal_lm, save_encoder, save_seq2seq
from tiny_models import make_bart, make_causal
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerBase

from dgr_trainer import BiEncoderTeacher, Corpus

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK = re.compile(
    r"(?:^<!-- (?P<note>[^>]*) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


def blocks(page: Path, skipped: tuple[str, ...] = ("run by hand", "command:", "needs")) -> list[tuple[str, str]]:
    """Return the Python and shell blocks of a page that can be run here, and the files that the reader is to write."""
    runnable = []
    for match in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        note, language, code = match["note"] or "", match["language"], match["code"]
        if language not in ("python", "bash") or note.startswith(skipped):
            continue
        if note.startswith("file: "):
            language = note
        if not code.startswith("pip install"):
            runnable.append((language, code))
    return runnable


def prepare(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Put into a folder what the guide assumes: `data`, and small models under the names that it uses."""
    shutil.copytree(ROOT / "examples" / "data", folder / "data")
    for name in ("facebook/bart-base", "castorini/doc2query-t5-base-msmarco"):
        make_bart(tokenizer).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    cross_encoder = folder / "cross-encoder" / "ms-marco-MiniLM-L6-v2"
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=1,
    )
    BertForSequenceClassification(config).save_pretrained(cross_encoder)
    tokenizer.save_pretrained(cross_encoder)
    shutil.copytree(cross_encoder, folder / "intfloat" / "simlm-msmarco-reranker")
    save_encoder(folder / "intfloat" / "e5-base-v2")
    save_seq2seq(folder / "castorini" / "monot5-base-msmarco")
    save_causal_lm(folder / "Qwen" / "Qwen3-Reranker-0.6B", "qwen3")
    save_student(folder / "Qwen" / "Qwen3-0.6B", tokenizer)


def save_student(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """A chat model, whose tokenizer puts nothing around a text."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.backend_tokenizer.post_processor = None
    tokenizer.chat_template = "User: {{ messages[0]['content'] }}\nAssistant: "
    tokenizer.save_pretrained(folder)
    make_causal(tokenizer).save_pretrained(folder)


def run(code: list[tuple[str, str]], folder: Path) -> str:
    (folder / "blocks.json").write_text(json.dumps(code), encoding="utf-8")
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TQDM_DISABLE": "1",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("page_runner.py")), "blocks.json"],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("index", "swap", "losses", "pipeline", "data", "teachers", "teachers-models", "evaluation", "cli"),
        *("search-at-scale", "storage", "semantic-ids", "among", "from-sft-trainer", "report", "tracking", "rounds"),
    ],
)
def test_the_code_of_a_page_runs(name: str, tmp_path: Path, bpe_tokenizer: PreTrainedTokenizerBase) -> None:
    code = blocks(ROOT / "docs" / f"{name}.md")
    assert code
    prepare(tmp_path, bpe_tokenizer)
    run(code, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("package", ["langchain_core", "llama_index", "pyterrier"])
def test_the_code_of_an_integration_runs(package: str, tmp_path: Path, bpe_tokenizer: PreTrainedTokenizerBase) -> None:
    pytest.importorskip(package, reason=f"needs {package}")
    page = ROOT / "docs" / "integrations.md"
    needed = set(re.findall(r"^<!-- (needs \w+) -->$", page.read_text(encoding="utf-8"), re.MULTILINE))
    code = blocks(page, ("run by hand", *(needed - {f"needs {package}"})))
    assert len(code) == 2
    prepare(tmp_path, bpe_tokenizer)
    run(code, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(missing_lucene() is not None, reason=str(missing_lucene()))
def test_the_code_of_the_page_on_lucene_runs(tmp_path: Path, bpe_tokenizer: PreTrainedTokenizerBase) -> None:
    """With a small index of each kind that the page assumes."""
    for name in ("openai", "onnxruntime"):
        pytest.importorskip(name, reason="pyserini.search imports it")
    code = blocks(ROOT / "docs" / "teachers-lucene.md", ("command:",))
    assert len(code) == 5
    prepare(tmp_path, bpe_tokenizer)
    corpus = Corpus.read(tmp_path / "data")
    index_impacts(corpus, tmp_path / "splade-index")
    save_splade(tmp_path / "naver" / "splade-cocondenser-ensembledistil")
    e5 = BiEncoderTeacher(tmp_path / "intfloat" / "e5-base-v2", corpus, passage_prefix="passage: ", progress=False)
    save_faiss_index(e5, corpus, tmp_path / "e5-faiss")
    checks = """
assert all(len(run) == len(queries) for run in (lucene.rank(queries), expanded, likely, by_fields, rankings))
assert sum(len(rankings[query_id].scores) for query_id in rankings) > 20
assert all(len(of_candidates[query_id].scores) == min(20, len(rankings[query_id].scores)) for query_id in rankings)
"""
    run([*code, ("python", checks)], tmp_path)
    assert (tmp_path / "rm3.run").stat().st_size > 1000


@pytest.mark.slow
def test_the_swap_of_the_readme_runs(tmp_path: Path, bpe_tokenizer: PreTrainedTokenizerBase) -> None:
    prepare(tmp_path, bpe_tokenizer)
    shutil.copy(tmp_path / "data" / "bm25.run", tmp_path)
    (swap,) = (code for language, code in blocks(ROOT / "README.md") if language == "python")
    given = """
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from dgr_trainer import read_queries
model = AutoModelForSeq2SeqLM.from_pretrained("facebook/bart-base")
tokenizer = AutoTokenizer.from_pretrained("facebook/bart-base")
queries = read_queries("data", split="train")
"""
    # The ids of the run are p01 to p24.
    swap = swap.replace('"p1"', '"p01"').replace('"p2"', '"p02"').replace('"p3"', '"p03"')
    run([("python", given + swap)], tmp_path)


def test_the_readme_has_two_set_up_commands_of_one_line() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = {match["note"]: match["code"] for match in _BLOCK.finditer(text) if "command:" in (match["note"] or "")}
    assert list(commands) == ["command: quickstart", "command: tests"]
    assert text.count("<!-- command:") == 2
    for command in commands.values():
        assert command.count("\n") == 1
        assert command.startswith("pip install -c constraints.txt ")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_compile(page: Path) -> None:
    for match in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        if match["language"] == "python":
            compile(match["code"], page.name, "exec")
