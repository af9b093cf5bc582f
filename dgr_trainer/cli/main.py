"""The command `dgr`: finds the subcommand, runs it, and turns what can go wrong into a message and an exit code."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from dgr_trainer._version import __version__

# A subcommand lives in the module of its name, which is imported only when it is asked for.
COMMANDS = {
    "index": "Index a corpus, so that a model can generate what occurs in it.",
    "pseudo_queries": "Let a model write pseudo-queries for the passages of a corpus.",
    "pairs": "Make the training pairs of the generation stage.",
    "train": "Train a student to generate identifiers, or to rank as a teacher.",
    "candidates": "Find candidates for training queries with a retriever.",
    "rank": "Let a teacher rank: BM25, Lucene, a cross-encoder, a bi-encoder, an LLM.",
    "fuse": "Make one run of several: an ensemble of teachers.",
    "inspect": "Look at runs before training on them: lists, quality, agreement.",
    "search": "Search with a retriever.",
    "evaluate": "Measure and compare runs.",
    "quickstart": "Run all stages on the Python standard library's documentation.",
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

`dgr COMMAND --help` tells the options of a command."""

USER_ERROR, INTERRUPTED, BROKEN_PIPE = 2, 130, 141
# What the library raises on bad input and on what a machine lacks. Anything else is a fault of ours: a traceback.
_ANSWERED = (ValueError, TypeError, LookupError, OSError, ImportError, RuntimeError, ArithmeticError, MemoryError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `dgr`.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments after `dgr`. By default those of the process.

    Returns:
        `int`: the exit code: 0, 2 after an error of the user, 130 after Ctrl-C, 141 when nobody reads the output.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = next((place for place, argument in enumerate(arguments) if not argument.startswith("-")), None)
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
    return _run(options.command, rest, debug)


def _run(command: str, arguments: Sequence[str], debug: bool) -> int:
    name = f"dgr {command}"
    with _logs(name):
        try:
            module = importlib.import_module(f"dgr_trainer.cli.{command}")
            module.run(*module.make_parser().parse(arguments))
            sys.stdout.flush()
        except SystemExit as exit:
            return _code(exit)
        except KeyboardInterrupt:
            rest = "its output was not written"
            if command == "train":
                rest = "go on from the last whole checkpoint, if there is one, with --resume_from_checkpoint last"
            print(f"\n{name}: interrupted; {rest}.", file=sys.stderr)
            return INTERRUPTED
        except BrokenPipeError:
            # Whoever read the output has gone. The interpreter would complain once more when it flushes at its end.
            _discard_output()
            return BROKEN_PIPE
        except _ANSWERED as error:
            if debug:
                traceback.print_exc()
            print(f"{name}: {_coloured('error', '31;1')}: {_message(error)}", file=sys.stderr)
            return USER_ERROR
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _TopParser(
        prog="dgr",
        description="Train generative retrievers to rank as a strong teacher does.",
        epilog=_FLOW,
        formatter_class=_TopFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"dgr-trainer {__version__}", help="Tell the version.")
    parser.add_argument("--debug", action="store_true", help="Show the traceback of an error.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, summary in COMMANDS.items():
        commands.add_parser(name, help=summary, add_help=False)
    return parser


class _TopFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, **{**settings, "max_help_position": 16})


class _TopParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"dgr: error: {message}\n`dgr --help` lists the commands.\n")


def _code(exit: SystemExit) -> int:
    return exit.code if isinstance(exit.code, int) else 0 if exit.code is None else USER_ERROR


def _message(error: BaseException) -> str:
    # A KeyError prints the repr of its message; an error without one has only its name to tell.
    if isinstance(error, KeyError) and len(error.args) == 1:
        return str(error.args[0])
    return str(error) or type(error).__name__


def _coloured(text: str, code: str) -> str:
    if not sys.stderr.isatty() or "NO_COLOR" in os.environ:
        return text
    return f"\033[{code}m{text}\033[0m"


def _discard_output() -> None:
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        pass  # Standard output is no file of the system's (an embedding program put something in its place).


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
    """The library's log on standard error, for as long as a command runs."""
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
