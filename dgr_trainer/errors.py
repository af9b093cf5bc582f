"""The errors that this library raises on purpose: each is also the built-in error that its callers would expect.

An error that is none of these, no `OSError` and no missing package is a fault of the library or of one that it uses;
the command line shows it with its traceback.
"""


class DGRError(Exception):
    """Base class of the errors that the library raises on purpose, with a message that says what to do."""


class DGRValueError(DGRError, ValueError):
    """An argument, a file or a setting holds something that cannot be used."""


class DGRTypeError(DGRError, TypeError):
    """Something is of another type than it has to be."""


class DGRKeyError(DGRError, KeyError):
    """An id is not among those that are known."""

    def __str__(self) -> str:
        # A KeyError shows the repr of its message.
        return str(self.args[0]) if len(self.args) == 1 else super().__str__()


class DGRIndexError(DGRError, IndexError):
    """A position lies outside what there is."""


class DGRRuntimeError(DGRError, RuntimeError):
    """Something outside the library failed: a program, another process, a model."""


class DGRArithmeticError(DGRError, FloatingPointError):
    """A computation gave a value that is not finite."""


class MissingPackageError(DGRError, ImportError):
    """An optional package is not installed; the message names the extra that installs it."""


class DGRMemoryError(DGRError, MemoryError):
    """A device has no memory for what it was asked to compute at once."""
