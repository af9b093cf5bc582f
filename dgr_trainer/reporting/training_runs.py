"""Reads what trainings left in their folders: JSON only, nothing is unpickled."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.lines import listing
from dgr_trainer.training.checkpoints import STATE, checkpoints
from dgr_trainer.training.run_record import FORMAT_VERSION, RUN_RECORD


@dataclass(frozen=True)
class TrainingRun:
    """What is known of a training.

    Args:
        name (`str`): How the report calls it.
        folder (`Path`): Its output folder.
        record (`dict[str, Any]`): Its `dgr_run.json`; empty if there is none.
        history (`list[dict[str, float]]`): What was logged, in the order of the steps.
        source (`str`): The file that the history was read from.
    """

    name: str
    folder: Path
    record: dict[str, Any]
    history: list[dict[str, Any]]
    source: str


@dataclass(frozen=True)
class Pipeline:
    """Several stages that one program ran, such as the quickstart.

    Args:
        folder (`Path`): Its output folder.
        record (`dict[str, Any]`): Its `dgr_run.json`.
    """

    folder: Path
    record: dict[str, Any]


@dataclass(frozen=True)
class Found:
    """The trainings of some folders, and the pipelines that some of them belong to."""

    trainings: list[TrainingRun] = field(default_factory=list)
    pipelines: list[Pipeline] = field(default_factory=list)


def read_folders(folders: Sequence[str | os.PathLike[str]]) -> Found:
    """Read the folders of trainings and pipelines.

    Args:
        folders (`Sequence[str]`): Output folders of `dgr train`, of a trainer or of the quickstart, or checkpoints.

    Raises:
        FileNotFoundError: if a folder is missing, or holds nothing of a training.
        ValueError: if a file in it is malformed or was written by a newer version, or no folder is given.
    """
    if not folders:
        raise DGRValueError("No folder was given. Give the output folder of a training.")
    found = Found()
    named: list[tuple[str, Path, dict[str, Any] | None]] = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is no folder. Give the output folder of a training.")
        record = _read_record(folder)
        if record is None or record["kind"] == "training":
            named.append((folder.resolve().name, folder, record))
            continue
        found.pipelines.append(Pipeline(folder, record))
        named += [
            (stage["name"], folder / stage["folder"], _read_record(folder / stage["folder"]))
            for stage in record.get("trainings", [])
        ]
    names = _distinct([(name, folder) for name, folder, _ in named])
    for name, (_, folder, record) in zip(names, named, strict=True):
        found.trainings.append(_training(name, folder, record))
    return found


def _training(name: str, folder: Path, record: dict[str, Any] | None) -> TrainingRun:
    if record is not None and record.get("log_history"):
        return TrainingRun(name, folder, record, record["log_history"], RUN_RECORD)
    states = [folder / STATE, *(checkpoint / STATE for checkpoint in reversed(checkpoints(folder)))]
    state = next((path for path in states if path.is_file()), None)
    if state is not None:
        history = _read_json(state).get("log_history", [])
        return TrainingRun(name, folder, record or {}, history, state.relative_to(folder).as_posix())
    if record is not None:
        return TrainingRun(name, folder, record, [], RUN_RECORD)
    advice = "Give the output folder of `dgr train`, of a trainer or of `dgr quickstart`."
    if (folder / "retriever.json").is_file():
        advice = "It is a retriever; give the output folder of its training, which may be the folder that it is in."
    raise FileNotFoundError(
        f"{folder} holds nothing of a training: no {RUN_RECORD}, no {STATE} and no checkpoint. {advice} "
        f"It holds: {listing(folder)}."
    )


def _read_record(folder: Path) -> dict[str, Any] | None:
    path = folder / RUN_RECORD
    if not path.is_file():
        return None
    record = _read_json(path)
    version = record.get("format_version")
    if version != FORMAT_VERSION:
        raise DGRValueError(
            f"{path} has format version {version!r}; this version of dgr-trainer reads version {FORMAT_VERSION}. "
            "Install the version that wrote it."
        )
    if record.get("kind") not in ("training", "pipeline"):
        raise DGRValueError(f"{path} describes a {record.get('kind')!r}, not a training or a pipeline.")
    return record


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DGRValueError(f"{path} is no JSON ({error}). It was changed or damaged; restore or delete it.") from None
    if not isinstance(value, dict):
        raise DGRValueError(f"{path} holds a {type(value).__name__}, not an object. Restore or delete it.")
    return value


def _distinct(named: Sequence[tuple[str, Path]]) -> list[str]:
    """Names of runs; those that are equal are given the folder above, and then a number."""
    names = [name for name, _ in named]
    repeated = {name for name in names if names.count(name) > 1}
    names = [
        f"{folder.resolve().parent.name}/{name}" if name in repeated else name
        for name, (_, folder) in zip(names, named, strict=True)
    ]
    return [
        f"{name} [{names[: number + 1].count(name)}]" if names.count(name) > 1 else name
        for number, name in enumerate(names)
    ]
