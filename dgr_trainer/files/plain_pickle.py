"""Pickles of plain data. A pickle is a program; only those that merely build containers are read."""

from __future__ import annotations

import copyreg
import os
import pickle
from typing import Any, NoReturn

from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.compression import open_bytes, whole
from dgr_trainer.files.lines import existing_file


def read_plain_pickle(path: str | os.PathLike[str]) -> Any:
    """Read a pickle of dicts, lists, tuples, sets, strings, bytes and numbers without running any code.

    Any other object in a pickle refers to a class or function by name, and all names are refused.

    Args:
        path (`str` or `os.PathLike`): The pickle, perhaps compressed (`.gz`, `.zst`, `.bz2`, `.xz`).

    Raises:
        ValueError: if it holds anything else, or is no complete pickle.
    """
    path = existing_file(path)
    with open_bytes(path) as file, whole(path, [0], "byte"):
        try:
            return _PlainUnpickler(file).load()
        except _Refused as error:
            raise DGRValueError(
                f"{path}: the pickle refers to {error}, and loading that could run code of whoever wrote it. Only "
                "plain data are read: dicts, lists, strings and numbers."
            ) from None
        except (
            pickle.UnpicklingError,
            EOFError,
            ValueError,
            IndexError,
            KeyError,
            AttributeError,
            TypeError,
        ) as error:
            raise DGRValueError(f"{path}: no whole pickle of plain data ({type(error).__name__}: {error}).") from None


class _Refused(Exception):
    """A name that a pickle refers to."""


class _PlainUnpickler(pickle.Unpickler):
    """Refuses every global, extension and persistent object, so that nothing can be called."""

    def load(self) -> Any:
        # Extensions that were used before come from a cache and bypass find_class.
        copyreg.clear_extension_cache()
        return super().load()

    def find_class(self, module: str, name: str) -> NoReturn:
        raise _Refused(f"{module}.{name}")

    def persistent_load(self, id: Any) -> NoReturn:
        raise _Refused("an object outside of the pickle")
