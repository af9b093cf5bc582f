"""An FM-index on disk: a folder of `.npy` files, which are mapped into memory, and `index.json`, which lists them."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from dgr_trainer.atomic import atomic_folder
from dgr_trainer.index.build import IndexArrays

FORMAT = "dgr-trainer FM-index"
FORMAT_VERSION = 1
DESCRIPTION = "index.json"
_SETTINGS = (
    "num_tokens",
    "num_passages",
    "vocab_size",
    "separator",
    "sample_rate",
    "tokenizer_fingerprint",
    "corpus_fingerprint",
)


def save_index(path: str | os.PathLike[str], arrays: IndexArrays, settings: dict[str, Any]) -> None:
    """Write an index. The folder appears, or takes the place of an older index, only when all of it is on the disk.

    Args:
        path (`str` or `os.PathLike`): the folder.
        arrays (`IndexArrays`): the arrays.
        settings (`dict[str, Any]`): numbers and fingerprints that describe them.

    Raises:
        FileExistsError: if `path` is a file, or a folder with anything but an index in it.
        OSError: if the disk is full, for one; `path` is then as it was.
    """
    with atomic_folder(path, marker=DESCRIPTION) as folder:
        files = {}
        for field in fields(arrays):
            array = getattr(arrays, field.name)
            file = folder / f"{field.name}.npy"
            with open(file, "wb") as stream:
                np.save(stream, array, allow_pickle=False)
                stream.flush()
                os.fsync(stream.fileno())
            files[file.name] = {
                "dtype": array.dtype.str,
                "shape": list(array.shape),
                "bytes": file.stat().st_size,
                "sha256": _sha256(file),
            }
        description = {"format": FORMAT, "format_version": FORMAT_VERSION, **settings, "files": files}
        with open(folder / DESCRIPTION, "w", encoding="utf-8", newline="\n") as stream:
            json.dump(description, stream, indent=2, ensure_ascii=False)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())


def load_index(path: str | os.PathLike[str], verify: bool = False) -> tuple[IndexArrays, dict[str, Any]]:
    """Map an index into memory.

    Args:
        path (`str` or `os.PathLike`): a folder that `save_index` wrote.
        verify (`bool`, *optional*, defaults to `False`): read every file and compare its SHA-256.

    Returns:
        `tuple[IndexArrays, dict[str, Any]]`: the arrays and the settings.

    Raises:
        FileNotFoundError: if there is no folder, or a file of the index is missing.
        ValueError: if the folder is no index, of an unknown version, or damaged.
    """
    folder = Path(path)
    description = _read_description(folder)
    arrays = {}
    for field in fields(IndexArrays):
        file = folder / f"{field.name}.npy"
        expected = description["files"][file.name]
        _check_file(file, expected, verify)
        array = np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
        if array.dtype.str != expected["dtype"] or list(array.shape) != expected["shape"]:
            raise ValueError(
                f"{file} holds an array of {array.dtype.str}{list(array.shape)}, but {DESCRIPTION} says "
                f"{expected['dtype']}{expected['shape']}: the files are not of one index. Build the index again."
            )
        arrays[field.name] = array
    return IndexArrays(**arrays), {name: description[name] for name in _SETTINGS}


def _read_description(folder: Path) -> dict[str, Any]:
    if not folder.exists():
        raise FileNotFoundError(f"There is no index at {folder}: no such folder. Build one, or give another path.")
    if not (folder / DESCRIPTION).is_file():
        raise ValueError(
            f"{folder} is not an index: it has no {DESCRIPTION}. Give the folder that FMIndex.save wrote "
            "(in a saved retriever, its subfolder 'index')."
        )
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / DESCRIPTION} is damaged ({error}). Build the index again.") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ValueError(
            f"{folder} is not an index: its {DESCRIPTION} is of another program. Give the folder FMIndex.save wrote."
        )
    if description.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"The index at {folder} has format version {description.get('format_version')}, but this version of "
            f"dgr-trainer reads version {FORMAT_VERSION}. Build the index again, or install the version that wrote it."
        )
    files = description.get("files")
    names = {f"{field.name}.npy" for field in fields(IndexArrays)}
    missing = [name for name in _SETTINGS if name not in description]
    if missing or not isinstance(files, dict) or not names <= files.keys():
        raise ValueError(f"{folder / DESCRIPTION} is damaged (parts of it are missing). Build the index again.")
    return description


def _check_file(file: Path, expected: dict[str, Any], verify: bool) -> None:
    if not file.is_file():
        raise FileNotFoundError(
            f"The index is not whole: {file} is missing. Copy all of its files, or build it again."
        )
    size = file.stat().st_size
    if size != expected["bytes"]:
        raise ValueError(
            f"The index is not whole: {file} has {size} bytes, but {expected['bytes']} were written. "
            "Copy the file again, or build the index again."
        )
    if verify and _sha256(file) != expected["sha256"]:
        raise ValueError(
            f"The index is damaged: {file} does not have the SHA-256 it was written with. "
            "Copy the file again, or build the index again."
        )


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
