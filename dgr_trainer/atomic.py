"""Files and folders that appear whole or not at all: written beside their place, then moved into it."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file that takes the place of `path` only when everything was written.

    The folders above `path` are made. When the block raises, `path` stays as it was.

    Args:
        path (`str` or `os.PathLike`): the file to write or to replace.
        mode (`str`, *optional*, defaults to `"w"`): `"w"` for UTF-8 text with `\\n` line ends, `"wb"` for bytes.

    Yields:
        a file object, open for writing.

    Raises:
        ValueError: if `mode` is neither `"w"` nor `"wb"`.
        IsADirectoryError: if `path` is a folder.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"mode is {mode!r}, but a file is only ever written whole: use 'w' (text) or 'wb' (bytes).")
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, so no file can be written there. Give the path of a file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    text = mode == "w"
    try:
        with open(temporary, mode, encoding="utf-8" if text else None, newline="\n" if text else None) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: str | os.PathLike[str], *, marker: str) -> Iterator[Path]:
    """Fill a folder that takes the place of `path` only when everything was written.

    A folder that is there already is replaced only when it is empty or holds the file `marker`, by which it shows
    that it was written by the same function: a folder of the user's is never deleted. When the block raises,
    `path` stays as it was.

    Args:
        path (`str` or `os.PathLike`): the folder to write or to replace.
        marker (`str`): name of a file that every folder of this kind holds. The block has to write it.

    Yields:
        `pathlib.Path`: an empty folder beside `path`, to be filled.

    Raises:
        FileExistsError: if `path` is a file, or a folder with other things in it.
        FileNotFoundError: if the block did not write `marker`.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file, so no folder can be written there. Give another path.")
    if path.is_dir() and any(path.iterdir()) and not (path / marker).is_file():
        raise FileExistsError(
            f"The folder {path} holds other files (and no {marker}), which would be lost. "
            "Give a folder that is empty, new, or was written by this function before."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        if not (temporary / marker).is_file():
            raise FileNotFoundError(f"{marker} was not written, so the folder {path} would not be recognised later.")
        if path.exists():
            replaced = _beside(path)
            os.rename(path, replaced)
            os.rename(temporary, path)
            shutil.rmtree(replaced)
        else:
            os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
