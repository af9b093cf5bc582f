"""Which files of a folder or a repository are taken, by their names: no pickles, no paths that leave the folder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

import numpy as np

from dgr_trainer.errors import DGRValueError

PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib", "*.dill")
"""Names of files that may hold pickles, which run code of whoever made them when they are opened."""
TRAINING_STATE = ("last-checkpoint/*", "checkpoint-*/*")
"""Where a trainer puts the state from which it resumes. It is never downloaded with a model."""
LOCAL_FILES = ("verified.json", "made_of.json", "*.lock", "*.lock.json", "*.lock-*", ".*")
"""Files that say something about a folder on this machine, and are never uploaded."""


def pickles(names: Iterable[str]) -> list[str]:
    """Names that may be those of pickles, without the state of a training, which is never read here."""
    return sorted(
        name for name in names if matches_any(name.lower(), PICKLES) and not matches_any(name, TRAINING_STATE)
    )


def check_names(names: Iterable[str], where: str) -> None:
    """Refuse a folder or a repository with files that must not be opened, or not be written.

    Args:
        names (`Iterable[str]`): Names of its files, with slashes.
        where (`str`): The folder or the repository, for the message.

    Raises:
        ValueError: if there is a pickle, or a name that is not a path within the folder.
    """
    names = list(names)
    found = pickles(names)
    if found:
        shown = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
        raise DGRValueError(
            f"{where} holds {shown}, which may be a pickle: opening one can run any program. Weights have to be "
            "safetensors. Save the model again with save_pretrained, and delete this file."
        )
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name or not path.parts:
            raise DGRValueError(
                f"{where} holds a file with the name {name!r}, which is not a path within a folder. Rename it."
            )


def files_to_upload(folder: Path, subfolders: Iterable[str]) -> list[str]:
    """Names of the files that are uploaded, with slashes: those of the folder itself and of some subfolders.

    Args:
        folder (`pathlib.Path`): The folder.
        subfolders (`Iterable[str]`): Names of subfolders, of which there may be none. Other ones are left out.

    Raises:
        ValueError: if there is a pickle, also one named `.npy`, or a link to something that is not a file.
    """
    names = []
    for root in (folder, *(folder / name for name in subfolders)):
        for parent, folders, files in os.walk(root):
            folders[:] = [] if root == folder else sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                if not matches_any(name, LOCAL_FILES):
                    names.append((Path(parent) / name).relative_to(folder).as_posix())
    check_names(names, str(folder))
    for name in names:
        if not (folder / name).is_file():
            raise DGRValueError(f"{folder / name} is a link to nothing, or no file. Delete it, or save again.")
        if name.endswith(".npy"):
            _check_array(folder / name)
    return names


def _check_array(file: Path) -> None:
    """Refuse an array of Python objects, which numpy stores as a pickle."""
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise DGRValueError(
            f"{file} holds an array of objects, which is a pickle, or it is damaged ({error}). Delete it, or save "
            "the retriever again."
        ) from error
    del array


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name matches a pattern, in which `*` stands for any characters, also slashes."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
