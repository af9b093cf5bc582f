"""Paths on the command line: what is to be read is there, and what is to be written can be."""

from __future__ import annotations

import os
from pathlib import Path

from dgr_trainer.data.sources import named_source
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.atomic import restore_folder
from dgr_trainer.files.compression import compression
from dgr_trainer.files.lines import file_kind, listing


def input_path(option: str, path: str, *, folder: bool | None = None) -> Path:
    """A path to be read, after a look whether it is there and readable.

    Args:
        option (`str`): What the user gave it as, for the message.
        path (`str`): The path.
        folder (`bool`, *optional*): Whether it has to be a folder, or a file; by default either will do, and so will
            `irds:ID` and `hf:NAME`, which are no paths.

    Raises:
        OSError: if it is not there, of the other kind, or not readable.
    """
    found = Path(path)
    if folder is None and named_source(path) is not None:
        return found
    restore_folder(found)
    if not found.exists():
        near = f" Its folder holds: {listing(found.parent)}." if found.parent.is_dir() else " Nor is its folder."
        raise FileNotFoundError(f"{option}: {path} is not there.{near}")
    if folder is True and not found.is_dir():
        raise NotADirectoryError(f"{option}: {path} is a file, but a folder is needed.")
    if folder is False and found.is_dir():
        raise IsADirectoryError(f"{option}: {path} is a folder, but a file is needed. It holds: {listing(found)}.")
    if not os.access(found, os.R_OK | (os.X_OK if found.is_dir() else 0)):
        raise PermissionError(f"{option}: {path} may not be read by this user.")
    return found


def model_name(option: str, name: str) -> str:
    """Name of a model on the hub, or the absolute path of one on the disk.

    Raises:
        FileNotFoundError: if it can only be a path and is not there, or holds no model.
    """
    path = Path(name)
    if path.is_dir():
        if not any((path / file).is_file() for file in ("config.json", "adapter_config.json")):
            raise FileNotFoundError(
                f"{option}: {name} holds no model: it has no config.json and no adapter_config.json. "
                f"It holds: {listing(path)}."
            )
        return str(path.resolve())
    if path.exists():
        raise NotADirectoryError(f"{option}: {name} is a file, but a model is a folder or a name on the hub.")
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or not name.strip():
        raise FileNotFoundError(f"{option}: there is no model at {name!r}.")
    return name


def output_file(option: str, path: str, overwrite: bool, *, compressed: bool = True) -> Path:
    """A file to be written.

    Args:
        overwrite (`bool`): Whether a file that is there may be replaced.
        compressed (`bool`, *optional*, defaults to `True`): Whether the command compresses what it writes, if the name
            says so. Tables are compressed inside, never as a whole.

    Raises:
        OSError: if it is there already and must not be overwritten, or cannot be written.
        ValueError: if its name is that of a compressed file, and this would not be one.
    """
    place = Path(path)
    if compression(place) and (not compressed or file_kind(place) in ("parquet", "arrow")):
        raise DGRValueError(f"{option}: {path} would be written as it is. Leave {compression(place)} out of the name.")
    if place.is_dir():
        raise IsADirectoryError(f"{option}: {path} is a folder, but the output is a file. Give the path of a file.")
    if place.exists() and not overwrite:
        raise FileExistsError(f"{option}: {path} is there already. Add --overwrite to replace it.")
    _check_parent(option, place)
    return place


def output_folder(option: str, path: str, marker: str, overwrite: bool) -> Path:
    """A folder to be written.

    Args:
        marker (`str`): A file that folders of its kind hold.
        overwrite (`bool`): Whether one of its kind may be replaced. Others never are.

    Raises:
        OSError: if it is there already and must not be replaced, or cannot be written.
    """
    place = Path(path)
    restore_folder(place)
    if place.exists() and not place.is_dir():
        raise FileExistsError(f"{option}: {path} is a file, but the output is a folder. Give another path.")
    if place.is_dir() and any(place.iterdir()):
        if not (place / marker).is_file():
            raise FileExistsError(
                f"{option}: {path} holds other files ({listing(place, 4)}), which are not overwritten. Give a new or "
                "empty folder."
            )
        if not overwrite:
            raise FileExistsError(f"{option}: {path} is there already. Add --overwrite to replace it.")
    _check_parent(option, place)
    return place


def _check_parent(option: str, place: Path) -> None:
    parent = place.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise NotADirectoryError(f"{option}: {place} cannot be written, since {parent} is a file.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{option}: {place} cannot be written: this user may not write to {parent}.")
