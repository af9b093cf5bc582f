"""The command `dgr`: finds the subcommand, runs it, and turns errors into a message and an exit code.

Errors that the library raises on purpose, `OSError`s and missing optional packages are told in one line. Any other
error is a bug: it keeps its traceback.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import Any, NoReturn

from dgr_trainer._version import __version__
from dgr_trainer.cli.interrupts import LostInterrupts
from dgr_trainer.cli.start_up import paused_collection
from dgr_trainer.errors import ISSUES_URL, DGRError, missing_extra, one_line

# A subcommand is the module of its name, which is imported only when it is run.
COMMANDS = {
    "semantic_ids": "Make docids of codes from the vectors of passages.",
    "index": "Index a corpus; change or verify an index.",
    "pseudo_queries": "Write pseudo-queries for passages with a model.",
    "pairs": "Make the training pairs of the generation stage.",
    "train": "Train a student: the generation stage, or distillation.",
    "candidates": "Find candidates for training queries with a retriever.",
    "rank": "Rank passages with a teacher: BM25, Lucene, neural models.",
    "fuse": "Fuse several runs into one: an ensemble of teachers.",
    "inspect": "Inspect runs before training: lists, quality, agreement.",
    "search": "Search with a retriever.",
    "serve": "Serve a retriever: an HTTP API and a page.",
    "evaluate": "Measure and compare runs.",
    "push": "Upload a retriever to the Hugging Face Hub.",
    "pull": "Download a retriever from the Hugging Face Hub.",
    "report": "Write the report of a training: one HTML file.",
    "tune": "Fit the settings of a search to development queries.",
    "quickstart": "Run all stages on Python's own documentation.",
}
_FLOW = """the flow:
  dgr index corpus.jsonl --model facebook/bart-base --output index
  dgr train --stage generation --model facebook/bart-base --index index \\
      --queries train.jsonl --qrels train.qrels --output_dir generation
  dgr candidates generation/retriever --queries train.jsonl \\
      --qrels train.qrels --output candidates
  dgr rank --teacher bm25 --corpus corpus.jsonl --queries train.jsonl \\
      --candidates candidates --output teacher.trec
  dgr train --stage distillation --model generation/retriever \\
      --queries train.jsonl --qrels train.qrels --candidates candidates \\
      --run teacher.trec --output_dir distilled
  dgr search distilled/retriever "a question"

`dgr COMMAND --help` lists the options of a command."""

USER_ERROR, BUG, INTERRUPTED, BROKEN_PIPE = 2, 70, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run `dgr`.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments after `dgr`. By default those of the process.

    Returns:
        `int`: The exit code: 0, 2 after an error of the user, 70 after a bug, 130 after Ctrl-C, 141 if the reader of
        the output has gone.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = next((position for position, argument in enumerate(arguments) if not argument.startswith("-")), None)
    head = arguments if command is None else arguments[: command + 1]
    parser = _parser()
    try:
        options = parser.parse_args(head)
    except SystemExit as exit:  # --help, --version, or a message that was printed
        return _code(exit)
    if options.command is None:
        parser.print_help(sys.stderr)
        return USER_ERROR
    rest = arguments[len(head) :]
    debug = options.debug or (options.command != "train" and "--debug" in rest)
    interrupts = LostInterrupts()
    try:
        with _open_streams():
            return _run(options.command, rest, debug, interrupts)
    finally:
        if argv is not None:  # The caller's process goes on.
            interrupts.remove()
            gc.unfreeze()


@contextmanager
def _open_streams() -> Iterator[None]:
    """Discard what is written to a stream that was closed (`dgr ... >&-`), for which Python has `None`."""
    with ExitStack() as stack:
        for stream, redirect in ((sys.stdout, redirect_stdout), (sys.stderr, redirect_stderr)):
            if stream is None:
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(redirect(nowhere))
        yield


def _run(command: str, arguments: Sequence[str], debug: bool, interrupts: LostInterrupts) -> int:
    name = f"dgr {command}"
    with _logs(name):
        try:
            with paused_collection():
                module = importlib.import_module(f"dgr_trainer.cli.{command}")
                options = module.make_parser().parse(arguments)
            module.run(*options)
            sys.stdout.flush()
        except SystemExit as exit:
            return _code(exit)
        except KeyboardInterrupt:
            return _interrupted(command, interrupts)
        except BrokenPipeError:
            # The interpreter would complain once more when it flushes standard output at its end.
            _discard_output()
            return BROKEN_PIPE
        except Exception as error:
            if interrupts.is_why(error):
                return _interrupted(command, interrupts)
            message = _user_message(error)
            if message is None or debug:
                traceback.print_exc()
            if message is None:
                _print_error(
                    name,
                    f"this is a bug of dgr-trainer {__version__} or of a library that it uses. Please report it with "
                    f"the traceback above: {ISSUES_URL}",
                )
                return BUG
            _print_error(name, message)
            return USER_ERROR
    return 0


def _interrupted(command: str, interrupts: LostInterrupts) -> int:
    interrupts.handled()
    advice = "its output was not written"
    if command == "train":
        advice = (
            "with --rounds, the same command goes on from there; without, --resume_from_checkpoint last resumes from "
            "the last complete checkpoint, if there is one"
        )
    if command in ("push", "pull"):
        advice = "the same command goes on from there"
    print(f"\ndgr {command}: interrupted; {advice}.", file=sys.stderr)
    return INTERRUPTED


def _user_message(error: Exception) -> str | None:
    """What to tell the user of an error that is theirs to correct; `None` if it is a bug."""
    if isinstance(error, (DGRError, OSError)):
        return one_line(error)
    extra = missing_extra(error) if isinstance(error, ImportError) else None
    if extra is not None:
        return f'{one_line(error)}. Install it with: pip install "dgr-trainer[{extra}]"'
    return None


def _print_error(name: str, message: str) -> None:
    print(f"{name}: {_coloured('error', '31;1')}: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = _TopParser(
        prog="dgr",
        description="Train generative retrievers to rank as a strong teacher does.",
        epilog=_FLOW,
        formatter_class=_TopFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"dgr-trainer {__version__}", help="Show the version.")
    parser.add_argument("--debug", action="store_true", help="Show the traceback of an error.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, summary in COMMANDS.items():
        commands.add_parser(name, help=summary, add_help=False)
    return parser


class _TopFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, **{**settings, "max_help_position": 20})


class _TopParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"dgr: error: {message}\n`dgr --help` lists the commands.\n")


def _code(exit: SystemExit) -> int:
    return exit.code if isinstance(exit.code, int) else 0 if exit.code is None else USER_ERROR


def _coloured(text: str, code: str) -> str:
    if not sys.stderr.isatty() or "NO_COLOR" in os.environ:
        return text
    return f"\033[{code}m{text}\033[0m"


def _discard_output() -> None:
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        pass  # Standard output is not a file of the operating system: an embedding program replaced it.


class _Stderr(logging.Handler):
    """Writes log records to standard error, above a progress bar if one is shown."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        warning = record.levelno >= logging.WARNING
        level = f"{_coloured(record.levelname.lower(), '33;1')}: " if warning else ""
        tqdm.write(f"{self._name}: {level}{record.getMessage()}", file=sys.stderr)


@contextmanager
def _logs(name: str) -> Iterator[None]:
    """Write the library's log to standard error while a command runs."""
    logger = logging.getLogger("dgr_trainer")
    handler, level = _Stderr(name), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


if __name__ == "__main__":
    sys.exit(main())
