"""Parts of an index on disk: folders of `.npy` files, named for what is in them, which are mapped into memory."""

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

# Files up to this size are compared with their checksums whenever they are opened.
_ALWAYS_VERIFIED = 1 << 20


class StoredPart(NamedTuple):
    """A part that is on the disk.

    Attributes:
        folder (`pathlib.Path`): the folder of the index.
        description (`dict[str, Any]`): the part's name and files, with checksums.
    """

    folder: Path
    description: dict[str, Any]


def is_whole(folder: Path, description: dict[str, Any]) -> bool:
    """Whether all files of a part are there, as far as their sizes tell."""
    try:
        return all(
            (folder / description["name"] / name).stat().st_size == file["bytes"]
            for name, file in description["files"].items()
        )
    except OSError:
        return False


def write_part(folder: Path, kind: str, part: Any) -> dict[str, Any]:
    """Write the arrays of a dataclass to a folder of their own, which appears only when all of it is on the disk.

    Args:
        folder (`pathlib.Path`): the folder of the index.
        kind (`str`): the first word of the part's name; a checksum of the content follows.
        part: a dataclass of arrays.

    Returns:
        `dict[str, Any]`: the part's name and files, with checksums. What is there already is not written again.
    """
    temporary = _temporary(folder, kind)
    try:
        files = {}
        for field in fields(part):
            array = getattr(part, field.name)
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
        name = f"{kind}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
        description = {"name": name, "files": files}
        if is_whole(folder, description) and all(
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


def link_part(folder: Path, part: StoredPart) -> dict[str, Any]:
    """Bring a part of another index to a folder without copying it, where the disk allows that.

    Args:
        folder (`pathlib.Path`): the folder of the index.
        part (`StoredPart`): a part elsewhere.

    Returns:
        `dict[str, Any]`: the part's description.
    """
    description = part.description
    if not is_whole(folder, description):
        temporary = _temporary(folder, description["name"].split("-")[0])
        try:
            for name in description["files"]:
                link_file(part.folder / description["name"] / name, temporary / name)
            shutil.rmtree(folder / description["name"], ignore_errors=True)
            os.rename(temporary, folder / description["name"])
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return description


def read_part(
    folder: Path, part: dict[str, Any], names: Sequence[str], verify: Callable[[str], bool]
) -> dict[str, np.ndarray]:
    """Map the arrays of a part into memory.

    Args:
        folder (`pathlib.Path`): the folder of the index.
        part (`dict[str, Any]`): what `write_part` returned.
        names (`Sequence[str]`): the arrays.
        verify (`Callable[[str], bool]`): whether to compare a file, given as `PART/FILE`, with its checksum; small
            ones are compared always.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged.
    """
    arrays = {}
    for name in names:
        file, expected = folder / part["name"] / f"{name}.npy", part["files"][f"{name}.npy"]
        _check_file(file, expected, expected["bytes"] <= _ALWAYS_VERIFIED or verify(f"{part['name']}/{name}.npy"))
        try:
            array = np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
        except ValueError as error:
            raise DGRValueError(
                f"The index is damaged: {file} is no array that can be read ({error}). Copy the file again, or build "
                "the index again."
            ) from error
        if array.dtype.str != expected["dtype"] or list(array.shape) != expected["shape"]:
            raise DGRValueError(
                f"{file} holds an array of {array.dtype.str}{list(array.shape)}, but {expected['dtype']}"
                f"{expected['shape']} was written: the files are not of one index. Build the index again."
            )
        arrays[name] = array
    return arrays


def _check_file(file: Path, expected: dict[str, Any], verify: bool) -> None:
    if not file.is_file():
        raise FileNotFoundError(
            f"The index is not whole: {file} is missing. Copy all of its files, or build it again."
        )
    size = file.stat().st_size
    if size != expected["bytes"]:
        raise DGRValueError(
            f"The index is not whole: {file} has {size} bytes, but {expected['bytes']} were written. "
            "Copy the file again, or build the index again."
        )
    if verify and _sha256(file) != expected["sha256"]:
        raise DGRValueError(
            f"The index is damaged: {file} does not have the SHA-256 it was written with. "
            "Copy the file again, or build the index again."
        )


def _temporary(folder: Path, kind: str) -> Path:
    """A new folder for a part that is being written."""
    temporary = folder / f".{kind}-{uuid.uuid4().hex[:12]}.tmp"
    temporary.mkdir()
    return temporary


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
