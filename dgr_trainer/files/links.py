"""Hard links: files that never change, in a second folder without a second copy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def link_file(source: Path, target: Path) -> None:
    """Hard-link a file under another name; it is copied if that is not possible, such as on another disk.

    Raises:
        FileNotFoundError: if there is no such file.
        FileExistsError: if the name is taken.
    """
    try:
        os.link(source, target)
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError:
        shutil.copy2(source, target)


def link_tree(source: Path, target: Path, leave_out: Callable[[str], bool] = lambda name: False) -> None:
    """Link all files of a folder and its subfolders into another folder.

    Args:
        source (`pathlib.Path`): The folder.
        target (`pathlib.Path`): The other folder; created if it is not there.
        leave_out (`Callable[[str], bool]`, *optional*): Whether a name directly in `source` is left out.
    """
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(source.iterdir()):
        if leave_out(entry.name):
            continue
        if entry.is_dir():
            link_tree(entry, target / entry.name)
        else:
            link_file(entry, target / entry.name)
