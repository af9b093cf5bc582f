"""Fingerprints of files and folders: which data a result was made from."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

_WHOLE = 2**30  # Bytes that are read whole; of files beyond them both ends, since a fingerprint is not worth minutes.
_END = 2**24


def path_fingerprint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Describe a file, or all files of a folder, by a digest of names, sizes and contents.

    The first GB is read whole. Of each file that would exceed it, the first and the last 16 MB are read.

    Args:
        path (`str` or `os.PathLike`): The file or folder.

    Returns:
        `dict[str, Any]`: `path` as it was given, the number of `files`, their `bytes`, the digest as `sha256`, and
        `read`: `"whole"`, or `"ends"` if a file was too large to be read whole. Only `path` for what is no file or
        folder (`hf:NAME`) and for what cannot be read.
    """
    root = Path(path)
    described: dict[str, Any] = {"path": os.fspath(path)}
    try:
        if root.is_file():
            files = [root]
        elif root.is_dir():
            files = sorted(file for file in root.rglob("*") if file.is_file())
        else:
            return described
        digest, total, whole = hashlib.sha256(), 0, True
        for file in files:
            size = file.stat().st_size
            if len(files) > 1 or file != root:
                digest.update(f"{file.relative_to(root).as_posix()}\0{size}\0".encode())
            fits = total + size <= _WHOLE
            _add(digest, file, size, fits)
            whole &= fits
            total += size
    except OSError:
        return described
    return described | {
        "files": len(files),
        "bytes": total,
        "sha256": digest.hexdigest(),
        "read": "whole" if whole else "ends",
    }


def _add(digest: Any, file: Path, size: int, whole: bool) -> None:
    with open(file, "rb") as opened:
        if whole or size <= 2 * _END:
            while block := opened.read(2**20):
                digest.update(block)
            return
        digest.update(str(size).encode() + opened.read(_END))
        opened.seek(-_END, os.SEEK_END)
        digest.update(opened.read(_END))
