"""The folder of semantic ids: JSON, safetensors, and the passage ids, one a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from dgr_trainer.errors import DGRValueError, input_errors
from dgr_trainer.files.atomic import atomic_folder, read_folder

MARKER = "semantic_ids.json"
_ARRAYS = "codes.safetensors"
_PASSAGES = "passage_ids.txt"
_FORMAT_VERSION = 1


def write(path: Path, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray], ids: list[str]) -> None:
    """Write a folder, whole or not at all."""
    with atomic_folder(path, marker=MARKER) as folder:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / _ARRAYS)
        # Passage ids hold no whitespace.
        (folder / _PASSAGES).write_text("".join(f"{passage_id}\n" for passage_id in ids), "utf-8", newline="\n")
        text = json.dumps({"format_version": _FORMAT_VERSION, "passages": len(ids), **description}, indent=2)
        (folder / MARKER).write_text(text + "\n", encoding="utf-8")


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray], list[str]]:
    """Read a folder: description, arrays and passage ids.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged, or another version wrote it.
    """
    return read_folder(path, _read)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray], list[str]]:
    if not (path / MARKER).is_file():
        raise FileNotFoundError(
            f"{path} holds no semantic ids: it has no {MARKER}. Give a folder that SemanticIds.save or "
            "`dgr semantic_ids` wrote."
        )
    damaged = f"The semantic ids in {path} are damaged"
    with input_errors(damaged, ValueError):
        description = json.loads((path / MARKER).read_text(encoding="utf-8"))
    version = description.get("format_version") if isinstance(description, dict) else None
    if version != _FORMAT_VERSION:
        raise DGRValueError(
            f"The semantic ids in {path} have format version {version}; this version of dgr-trainer reads version "
            f"{_FORMAT_VERSION}. Use the version that wrote them, or make them again."
        )
    for name in (_ARRAYS, _PASSAGES):
        if not (path / name).is_file():
            raise FileNotFoundError(f"{damaged}: {name} is missing. Copy the whole folder, or make them again.")
    with input_errors(damaged, Exception):
        arrays = load_file(path / _ARRAYS)
        ids = (path / _PASSAGES).read_text(encoding="utf-8").splitlines()
        lengths = {len(arrays["paths"]), len(arrays["numbers"]), len(ids), description["passages"]}
    if len(lengths) != 1:
        raise DGRValueError(
            f"{damaged}: its files are of {sorted(lengths)} passages. Copy the whole folder, or make them again."
        )
    return description, arrays, ids
