"""Pickles of plain data. A pickle is a program; this reads only those that do nothing but build containers."""

from __future__ import annotations

import copyreg
import os
import pickle
from typing import Any, NoReturn

from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.compression import open_bytes, whole
from dgr_trainer.files.lines import existing_file


def read_plain_pickle(path: str | os.PathLike[str]) -> Any:
    """Read a pickle of dicts, lists, tuples, sets, strings, bytes and numbers, running nothing.

    Whatever else a pickle holds is reached through the name of a class or function, and all names are refused.

    Args:
        path (`str` or `os.PathLike`): the pickle, perhaps compressed (`.gz`, `.zst`).

    Raises:
        ValueError: if it holds anything else, or is no whole pickle.
    """
    path = existing_file(path)
    with open_bytes(path) as file, whole(path, [0], "byte"):
        try:
            return _PlainUnpickler(file).load()
        except _Refused as error:
            raise DGRValueError(
                f"{path}: the pickle asks for {error}, and to load that would run code of whoever wrote it. Only "
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
    """What a pickle asked for."""


class _PlainUnpickler(pickle.Unpickler):
    """Refuses every global, extension and persistent object, so that nothing can be called."""

    def load(self) -> Any:
        # A registered extension that was used before is taken from a cache, past find_class.
        copyreg.clear_extension_cache()
        return super().load()

    def find_class(self, module: str, name: str) -> NoReturn:
        raise _Refused(f"{module}.{name}")

    def persistent_load(self, id: Any) -> NoReturn:
        raise _Refused("an object outside of it")
