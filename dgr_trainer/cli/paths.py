"""Checks of paths on the command line: inputs exist and can be read, outputs can be written."""

from __future__ import annotations

import os
from pathlib import Path

from dgr_trainer.data.sources import named_source
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.atomic import link_target, restore_folder, with_own_name
from dgr_trainer.files.compression import compression
from dgr_trainer.files.lines import file_kind, listing


def input_path(option: str, path: str, *, folder: bool | None = None) -> Path:
    """Check that a path to be read exists and can be read.

    Args:
        option (`str`): The option that it was given for, for the message.
        path (`str`): The path.
        folder (`bool`, *optional*): Whether it has to be a folder (or a file). By default either is accepted, and so
            are `irds:ID` and `hf:NAME`, which are not paths.

    Raises:
        OSError: if it does not exist, is a file instead of a folder (or the other way round), or cannot be read.
    """
    found = Path(path)
    if folder is None and named_source(path) is not None:
        return found
    restore_folder(found)
    if not found.exists():
        near = f"Its folder holds: {listing(found.parent)}." if found.parent.is_dir() else "Nor does its folder."
        raise FileNotFoundError(f"{option}: {path} does not exist. {near}")
    if folder is True and not found.is_dir():
        raise NotADirectoryError(f"{option}: {path} is a file, but a folder is needed.")
    if folder is False and found.is_dir():
        raise IsADirectoryError(f"{option}: {path} is a folder, but a file is needed. It holds: {listing(found)}.")
    if not os.access(found, os.R_OK | (os.X_OK if found.is_dir() else 0)):
        raise PermissionError(f"{option}: {path} cannot be read by this user.")
    return found


def model_name(option: str, name: str) -> str:
    """Check the name of a model on the hub, or the path of a model on the disk.

    Returns:
        `str`: The name on the hub, or the absolute path.

    Raises:
        FileNotFoundError: if it can only be a path and does not exist, or holds no model.
        NotADirectoryError: if it is a file.
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


def output_file(option: str, path: str, overwrite: bool | None, *, compressed: bool = True) -> Path:
    """Check that a file can be written.

    Args:
        option (`str`): The option that it was given for, for the message.
        path (`str`): The path.
        overwrite (`bool`, *optional*): Whether an existing file may be replaced; `None` if the command never does.
        compressed (`bool`, *optional*, defaults to `True`): Whether the command compresses a file that is named
            accordingly. Tables are compressed inside, never as a whole.

    Returns:
        `pathlib.Path`: The path.

    Raises:
        OSError: if it exists and must not be replaced, or cannot be written.
        ValueError: if its name is that of a compressed file, and it would not be one.
    """
    output = link_target(path)
    if compression(output) and (not compressed or file_kind(output) in ("parquet", "arrow")):
        raise DGRValueError(
            f"{option}: {path} would not be compressed as its name says. Leave {compression(output)} out of the name."
        )
    if output.is_dir():
        raise IsADirectoryError(f"{option}: {path} is a folder, but the output is a file. Give the path of a file.")
    if output.exists() and not overwrite:
        advice = "Give another path." if overwrite is None else "Add --overwrite to replace it."
        raise FileExistsError(f"{option}: {path} exists already. {advice}")
    _check_parent(option, output)
    return output


def output_folder(option: str, path: str, marker: str, overwrite: bool) -> Path:
    """Check that a folder can be written.

    Args:
        option (`str`): The option that it was given for, for the message.
        path (`str`): The path.
        marker (`str`): A file that every folder of this kind holds.
        overwrite (`bool`): Whether an existing folder of this kind may be replaced. Other folders never are.

    Returns:
        `pathlib.Path`: The path.

    Raises:
        OSError: if it exists and must not be replaced, or cannot be written.
    """
    output = with_own_name(link_target(path))
    restore_folder(output)
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"{option}: {path} is a file, but the output is a folder. Give another path.")
    if output.is_dir() and any(output.iterdir()):
        if not (output / marker).is_file():
            raise FileExistsError(
                f"{option}: {path} holds other files ({listing(output, 4)}), which are not overwritten. Give a new or "
                "empty folder."
            )
        if not overwrite:
            raise FileExistsError(f"{option}: {path} exists already. Add --overwrite to replace it.")
    _check_parent(option, output)
    return output


def _check_parent(option: str, output: Path) -> None:
    parent = output.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise NotADirectoryError(f"{option}: {output} cannot be written, since {parent} is a file.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{option}: {output} cannot be written: this user cannot write to {parent}.")
