"""Exit codes, messages, and what an interruption leaves behind."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from dgr_trainer import __version__
from dgr_trainer.cli import evaluate, main, train
from dgr_trainer.cli.parsing import UsageError
from dgr_trainer.cli.tables import print_json, print_result
from dgr_trainer.errors import (
    ISSUES_URL,
    DGRArithmeticError,
    DGRError,
    DGRIndexError,
    DGRKeyError,
    DGRMemoryError,
    DGRRuntimeError,
    DGRTypeError,
    DGRValueError,
    MissingPackageError,
    missing_extra,
)

DGR = [sys.executable, "-m", "dgr_trainer.cli.main"]


def test_unknown_command(dgr):
    found = dgr("serach")
    assert found.code == 2 and "invalid choice: 'serach'" in found.err and "dgr --help" in found.err and not found.out


def test_an_error_is_one_message(dgr, files, tmp_path):
    found = dgr("evaluate", tmp_path / "run.trec", "--qrels", files / "qrels.txt")
    assert found.code == 2 and found.out == ""
    assert found.err.startswith(f"dgr evaluate: error: RUN: {tmp_path / 'run.trec'} does not exist.")
    assert "Traceback" not in found.err and len(found.err.splitlines()) == 1


def test_debug_shows_the_traceback(dgr, files, tmp_path):
    for arguments in (("--debug", "evaluate", "no.trec"), ("evaluate", "no.trec", "--debug")):
        found = dgr(*arguments, "--qrels", files / "qrels.txt")
        assert found.code == 2 and "Traceback" in found.err and "FileNotFoundError" in found.err


# What is the user's to correct is one line and status 2; anything else is a bug: traceback and status 70.


def failing(monkeypatch, error):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(evaluate, "run", fail)


FAMILY = [
    DGRValueError("the message"),
    DGRTypeError("the message"),
    DGRKeyError("the message"),
    DGRIndexError("the message"),
    DGRRuntimeError("the message"),
    DGRArithmeticError("the message"),
    DGRMemoryError("the message"),
    MissingPackageError("the message"),
    UsageError("the message"),
]


@pytest.mark.parametrize("error", FAMILY, ids=lambda error: type(error).__name__)
def test_errors_of_the_family_are_one_line(dgr, files, monkeypatch, error):
    failing(monkeypatch, error)
    found = dgr("evaluate", "a", "--qrels", files / "qrels.txt")
    assert (found.code, found.out, found.err) == (2, "", "dgr evaluate: error: the message\n")


def test_the_family_is_complete():
    assert {type(error) for error in FAMILY} >= set(DGRError.__subclasses__())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device", "index/text.npy"), "No space left on device: 'index/text.npy'\n"),
        (DGRValueError("Two\n  lines."), "error: Two lines.\n"),
        (DGRMemoryError(), "error: DGRMemoryError\n"),
        (ModuleNotFoundError("No module named 'bm25s'", name="bm25s"), 'with: pip install "dgr-trainer[bm25]"\n'),
        (ModuleNotFoundError("No module named 'faiss.x'", name="faiss.x"), 'with: pip install "dgr-trainer[faiss]"\n'),
    ],
)
def test_other_errors_of_the_user_are_one_line(dgr, files, monkeypatch, error, message):
    failing(monkeypatch, error)
    found = dgr("evaluate", "a", "--qrels", files / "qrels.txt")
    assert found.code == 2 and found.err.endswith(message) and len(found.err.splitlines()) == 1


@pytest.mark.parametrize(
    "error",
    [
        IndexError("list index out of range"),
        TypeError("unsupported operand"),
        ValueError("not of the family"),
        KeyError("missing"),
        RuntimeError("impossible"),
        AssertionError(),
        MemoryError(),
        ImportError("cannot import name 'x' from 'dgr_trainer'", name="dgr_trainer"),
        ModuleNotFoundError("No module named 'other'", name="other"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_bug_keeps_its_traceback_and_says_where_to_report_it(dgr, files, monkeypatch, error):
    failing(monkeypatch, error)
    found = dgr("evaluate", "a", "--qrels", files / "qrels.txt")
    assert found.code == 70 and found.out == ""
    *traceback, last = found.err.splitlines()
    assert traceback[0] == "Traceback (most recent call last):"
    assert traceback[-1].startswith(type(error).__name__) and str(error) in traceback[-1]
    assert last == (
        f"dgr evaluate: error: this is a bug of dgr-trainer {__version__} or of a library that it uses. Please report "
        f"it with the traceback above: {ISSUES_URL}"
    )


def test_the_issue_tracker_and_the_extras_are_those_of_the_package():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["urls"]["Issues"] == ISSUES_URL
    modules = {"PyStemmer": "Stemmer", "faiss-cpu": "faiss", "sentence-transformers": "sentence_transformers"}
    modules["prometheus-client"] = "prometheus_client"
    for extra, requirements in project["optional-dependencies"].items():
        for requirement in requirements if extra not in ("dev", "docs") else ():
            package = re.match(r"[\w-]+", requirement)[0]
            error = ModuleNotFoundError("missing", name=modules.get(package, package))
            assert missing_extra(error) == extra, package


def test_output_that_the_terminal_cannot_show(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    print_result("café \ud800")
    print_json({"name": "café \ud800"})
    sys.stdout.seek(0)
    shown, record = sys.stdout.read().splitlines()
    assert shown == "caf? ?" and json.loads(record) == {"name": "café \ud800"}


def test_interrupted(dgr, files, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "run", interrupt)
    found = dgr("evaluate", "a", "--qrels", files / "qrels.txt")
    assert found.code == 130
    assert found.err == "\ndgr evaluate: interrupted; its output was not written.\n"


class LosesInterrupts:
    """Ctrl-C while it is deleted."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)


class FailsToBeDeleted:
    def __del__(self):
        raise AttributeError("half made")


@pytest.mark.parametrize("then", ["goes on", "fails", "hides it"])
def test_an_interrupt_that_python_loses(dgr, files, monkeypatch, then):
    """As in callbacks of the compiler, whose caller goes on, or fails because its callback has."""

    def run(*arguments):
        if then == "hides it":
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt as interrupt:
                raise ValueError("not compiled") from interrupt
        LosesInterrupts()
        LosesInterrupts()  # The one that comes again may be lost, too.
        FailsToBeDeleted()
        if then == "fails":
            raise ValueError("not compiled")
        time.sleep(60)

    hook = sys.unraisablehook
    monkeypatch.setattr(evaluate, "run", run)
    began = time.monotonic()
    found = dgr("evaluate", "a", "--qrels", files / "qrels.txt")
    assert time.monotonic() - began < 50  # A wait ends, too.
    assert found.code == 130
    assert found.err == "\ndgr evaluate: interrupted; its output was not written.\n"
    time.sleep(0.2)  # No other interrupt comes when the command has ended.
    assert sys.unraisablehook is hook


def test_what_cannot_be_raised_is_told_where_nothing_was_interrupted(dgr, files, monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(str(unraisable.exc_value)))
    monkeypatch.setattr(evaluate, "run", lambda *arguments: FailsToBeDeleted() and None)
    assert dgr("evaluate", "a", "--qrels", files / "qrels.txt").code == 0
    assert told == ["half made"]


def test_an_interrupted_training_tells_how_it_goes_on(dgr, tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "run", interrupt)
    found = dgr("train", "--stage", "generation", "--model", "m", "--output_dir", tmp_path / "out")
    assert found.code == 130
    assert "with --rounds, the same command goes on from there; without, --resume_from_checkpoint last" in found.err


def test_colour_is_for_terminals(monkeypatch):
    assert main._coloured("error", "31") == "error"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert main._coloured("error", "31") == "\033[31merror\033[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert main._coloured("error", "31") == "error"


def test_nobody_reads_the_output(files):
    """As under `dgr ... | head`: the reader is gone before the first line."""
    command = [*DGR, "evaluate", str(files / "best.trec"), "--qrels", str(files / "qrels.txt")]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writer)
    assert done.returncode == 141 and done.stderr == ""


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_what_is_written_to_a_closed_stream_is_discarded(files, monkeypatch, stream):
    """As after `dgr ... >&-`, where Python has `None` in place of the stream."""
    monkeypatch.setattr(sys, stream, None)
    qrels = ("--qrels", str(files / "qrels.txt"))
    assert main.main(["evaluate", str(files / "best.trec"), *qrels]) == 0
    assert main.main(["evaluate", str(files / "none.trec"), *qrels]) == 2
    assert getattr(sys, stream) is None


@pytest.mark.slow
def test_ctrl_c_in_training(files, tmp_path):
    output = tmp_path / "out"
    command = [*DGR, "train", "--stage", "generation", "--model", str(files / "bart")]
    command += ["--corpus", str(files / "corpus.jsonl"), "--output_dir", str(output), "--use_cpu"]
    command += ["--max_steps", "100000", "--save_steps", "5", "--save_total_limit", "2", "--logging_steps", "5"]
    code, err = _interrupt(
        command, lambda: (output / "checkpoint-5" / "trainer_state.json").is_file(), tmp_path / "log"
    )
    assert code == 130 and "Traceback" not in err
    assert "dgr train: interrupted" in err and "--resume_from_checkpoint last" in err
    assert not (output / "model").exists()
    assert {path.name.split("-")[0] for path in output.iterdir()} <= {"checkpoint", "train.yaml", "dgr_run.json"}


@pytest.mark.slow
def test_ctrl_c_while_candidates_are_found(dgr, files, tmp_path):
    made = dgr(
        "train", "--stage", "generation", "--model", files / "bart", "--index", _index(dgr, files, tmp_path),
        "--output_dir", tmp_path / "gen", "--use_cpu", "--max_steps", 1,
    )  # fmt: skip
    assert made.code == 0, made.err
    queries = tmp_path / "queries.tsv"
    queries.write_text("".join(f"q{number}\tanimal number {number} with stripes\n" for number in range(20_000)))
    command = [*DGR, "candidates", str(tmp_path / "gen" / "retriever"), "--queries", str(queries)]
    command += ["--output", str(tmp_path / "found" / "candidates"), "--beam_size", "2"]
    log = tmp_path / "log"
    code, err = _interrupt(command, lambda: "Searching" in log.read_text(encoding="utf-8"), log)
    assert code == 130 and "dgr candidates: interrupted" in err and "Traceback" not in err
    # No candidates yet, but those that were found are kept for the same command to go on from.
    assert [path.name for path in (tmp_path / "found").iterdir()] == ["candidates.unfinished"]


def _index(dgr, files, tmp_path):
    assert dgr("index", files / "corpus.jsonl", "--model", files / "bart", "--output", tmp_path / "index").code == 0
    return tmp_path / "index"


def _interrupt(command, ready, log):
    """Run a command until it is ready, press Ctrl-C, and return its exit code and what it wrote to standard error."""
    with open(log, "w", encoding="utf-8") as stream:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stream)
        try:
            for _ in range(1200):
                if ready() or process.poll() is not None:
                    break
                time.sleep(0.1)
            assert process.poll() is None, log.read_text(encoding="utf-8")
            process.send_signal(signal.SIGINT)
            code = process.wait(timeout=60)
        finally:
            process.kill()
            process.wait()
    return code, log.read_text(encoding="utf-8")
