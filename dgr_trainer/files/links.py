"""Files that are never changed, in a second folder without a second copy: hard links."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def link_file(source: Path, target: Path) -> None:
    """Make a file known by another name, too. It is copied where that cannot be: on another disk, for one.

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
    """Link all files of a folder, those of its subfolders too, into another folder.

    Args:
        source (`pathlib.Path`): the folder.
        target (`pathlib.Path`): the other folder; made if it is not there.
        leave_out (`Callable[[str], bool]`, *optional*): of the names in `source` itself, those to leave out.
    """
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(source.iterdir()):
        if leave_out(entry.name):
            continue
        if entry.is_dir():
            link_tree(entry, target / entry.name)
        else:
            link_file(entry, target / entry.name)
