"""Folders of `.npy` files named by a checksum of their content, in which the arrays of an index are stored."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.links import link_file

# The checksum of a file up to this size is verified whenever the file is opened.
_ALWAYS_VERIFIED = 1 << 20


class ArrayFolder(NamedTuple):
    """A folder of arrays inside the folder of an index.

    Attributes:
        index_folder (`pathlib.Path`): the folder of the index.
        description (`dict[str, Any]`): the name of the folder and its files, with sizes and checksums.
    """

    index_folder: Path
    description: dict[str, Any]


def is_complete(folder: Path, description: dict[str, Any]) -> bool:
    """Whether all files of an array folder exist and have the right size."""
    try:
        return all(
            (folder / description["name"] / name).stat().st_size == file["bytes"]
            for name, file in description["files"].items()
        )
    except OSError:
        return False


def write_arrays(folder: Path, prefix: str, arrays: Any) -> dict[str, Any]:
    """Write the arrays of a dataclass to a new folder, which appears only when it is complete on the disk.

    Args:
        folder (`pathlib.Path`): the folder of the index.
        prefix (`str`): the first word of the new folder's name; a checksum of the content follows.
        arrays: a dataclass of arrays.

    Returns:
        `dict[str, Any]`: the folder's name and files, with checksums. A folder that already exists is kept.
    """
    temporary = _temporary_folder(folder, prefix)
    try:
        files = {}
        for field in fields(arrays):
            array = getattr(arrays, field.name)
            file = temporary / f"{field.name}.npy"
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
        content = "".join(f"{name} {file['sha256']}\n" for name, file in sorted(files.items()))
        name = f"{prefix}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
        description = {"name": name, "files": files}
        if is_complete(folder, description) and all(
            _sha256(folder / name / file) == expected["sha256"] for file, expected in files.items()
        ):
            shutil.rmtree(temporary)
        else:
            shutil.rmtree(folder / name, ignore_errors=True)
            os.rename(temporary, folder / name)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return description


def link_arrays(folder: Path, source: ArrayFolder) -> dict[str, Any]:
    """Hard-link an array folder of another index into this one; its files are copied if the disk has no links.

    Args:
        folder (`pathlib.Path`): the folder of this index.
        source (`ArrayFolder`): the array folder of the other index.

    Returns:
        `dict[str, Any]`: the description of the array folder.
    """
    description = source.description
    if not is_complete(folder, description):
        temporary = _temporary_folder(folder, description["name"].split("-")[0])
        try:
            for name in description["files"]:
                link_file(source.index_folder / description["name"] / name, temporary / name)
            shutil.rmtree(folder / description["name"], ignore_errors=True)
            os.rename(temporary, folder / description["name"])
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return description


def read_arrays(
    folder: Path, description: dict[str, Any], names: Sequence[str], verify: Callable[[str], bool]
) -> dict[str, np.ndarray]:
    """Map the arrays of an array folder into memory.

    Args:
        folder (`pathlib.Path`): the folder of the index.
        description (`dict[str, Any]`): what `write_arrays` returned.
        names (`Sequence[str]`): the names of the arrays.
        verify (`Callable[[str], bool]`): whether to verify the checksum of a file, given as `FOLDER/FILE`; those of
            small files are always verified.

    Returns:
        `dict[str, np.ndarray]`: the arrays by name, read-only.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged.
    """
    arrays = {}
    for name in names:
        path = f"{description['name']}/{name}.npy"
        file, expected = folder / path, description["files"][f"{name}.npy"]
        _check_file(file, expected, expected["bytes"] <= _ALWAYS_VERIFIED or verify(path))
        try:
            array = np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
        except ValueError as error:
            raise DGRValueError(
                f"The index is damaged: {file} cannot be read as an array ({error}). Copy the file again, or build "
                "the index again."
            ) from error
        if array.dtype.str != expected["dtype"] or list(array.shape) != expected["shape"]:
            raise DGRValueError(
                f"{file} holds an array of {array.dtype.str}{list(array.shape)}, but {expected['dtype']}"
                f"{expected['shape']} was written: the files belong to different indexes. Build the index again."
            )
        arrays[name] = array
    return arrays


def _check_file(file: Path, expected: dict[str, Any], verify: bool) -> None:
    if not file.is_file():
        raise FileNotFoundError(
            f"The index is incomplete: {file} is missing. Copy all of its files, or build it again."
        )
    size = file.stat().st_size
    if size != expected["bytes"]:
        raise DGRValueError(
            f"The index is incomplete: {file} has {size} bytes, but {expected['bytes']} were written. "
            "Copy the file again, or build the index again."
        )
    if verify and _sha256(file) != expected["sha256"]:
        raise DGRValueError(
            f"The index is damaged: {file} does not have the SHA-256 it was written with. "
            "Copy the file again, or build the index again."
        )


def _temporary_folder(folder: Path, prefix: str) -> Path:
    """A new folder for arrays that are being written."""
    temporary = folder / f".{prefix}-{uuid.uuid4().hex[:12]}.tmp"
    temporary.mkdir()
    return temporary


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
