"""Datasets of the Hugging Face Hub, folders and files of records: `hf:NAME,split=test,query=question` for a path.

After the name come options and columns in any order, between commas: `config`, `split`, `revision`, `streaming`; and
for each field the column that holds it, where that has another name.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, load_dataset, load_from_disk

from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.compression import plain_name
from dgr_trainer.files.lines import listing

PREFIX = "hf:"
_BUILDERS = {
    "json": (".jsonl", ".ndjson", ".json"),
    "csv": (".csv", ".tsv"),  # With a first line that names the columns.
    "parquet": (".parquet",),
    "arrow": (".arrow",),
}
OPTIONS = ("config", "split", "revision", "streaming")


class HubName(NamedTuple):
    """A dataset as it is named in place of a path.

    Args:
        text (`str`): all of it, for messages.
        name (`str`): its name on the Hub, its folder, or its file.
        settings (`dict[str, str]`): options and columns.
    """

    text: str
    name: str
    settings: dict[str, str]


def hub_name(path: str | os.PathLike[str]) -> HubName | None:
    """The dataset that a path beginning with `hf:` names; `None` for any other path.

    Raises:
        ValueError: if there is no name, or what follows it is malformed.
    """
    text = os.fspath(path)
    if not text.startswith(PREFIX):
        return None
    name, *settings = text.removeprefix(PREFIX).split(",")
    chosen: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not key.strip() or not equals or not value.strip():
            raise DGRValueError(
                f"{text}: {setting!r} is no setting. After the name of the dataset come settings between commas, such "
                f"as {PREFIX}user/questions,split=test,query=question."
            )
        if key.strip() in chosen:
            raise DGRValueError(f"{text}: {key.strip()} is set twice. Set it once.")
        chosen[key.strip()] = value.strip()
    if not name.strip():
        raise DGRValueError(f"{text}: the name of the dataset is missing, such as {PREFIX}user/questions.")
    return HubName(text, name.strip(), chosen)


def hub_dataset(hub: HubName, fields: Iterable[str]) -> tuple[Dataset | IterableDataset, dict[str, str]]:
    """Load a dataset that is named in place of a path.

    Args:
        hub ([`HubName`]): the name.
        fields (`Iterable[str]`): what is read of it, each of which may have a column of another name.

    Returns:
        `tuple[Dataset | IterableDataset, dict[str, str]]`: one split of the dataset, and columns by field.

    Raises:
        FileNotFoundError: if it is a folder that is not there.
        ValueError: if a setting is unknown, the dataset cannot be loaded, or it has several splits and none is named.
    """
    fields = list(fields)
    unknown = [key for key in hub.settings if key not in OPTIONS and key not in fields]
    if unknown:
        raise DGRValueError(
            f"{hub.text}: there is no setting {', '.join(unknown)} here. Settings are {', '.join(OPTIONS)}, and a "
            f"column for {', '.join(fields)}."
        )
    columns = {key: value for key, value in hub.settings.items() if key in fields}
    return _one_split(hub, _load(hub)), columns


def saved_dataset(folder: Path, split: str | None = None) -> Dataset | None:
    """The dataset that `save_to_disk` saved in a folder; `None` if the folder holds none.

    Raises:
        ValueError: if there are several splits and none, or another one, is named.
    """
    if not any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return None
    settings = {} if split is None else {"split": split}
    found = _one_split(HubName(f"{PREFIX}{folder}", str(folder), settings), load_from_disk(str(folder)))
    assert isinstance(found, Dataset)
    return found


def _load(hub: HubName) -> Dataset | IterableDataset | DatasetDict | IterableDatasetDict:
    folder = Path(hub.name)
    if any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return load_from_disk(hub.name)
    if not folder.exists() and (folder.is_absolute() or hub.name.startswith((".", "~"))):
        there = f" Its folder holds: {listing(folder.parent)}." if folder.parent.is_dir() else ""
        raise FileNotFoundError(f"{hub.text}: {hub.name} is not there.{there}")
    streaming = hub.settings.get("streaming", "no").lower()
    if streaming not in ("yes", "no", "true", "false"):
        raise DGRValueError(f"{hub.text}: streaming is {streaming!r}. Say yes or no.")
    settings: dict[str, Any] = {"streaming": streaming in ("yes", "true")}
    builder = hub.name
    if folder.is_file():
        builder = _builder(hub, folder)
        settings["data_files"] = hub.name
        settings |= {"delimiter": "\t"} if plain_name(folder).lower().endswith(".tsv") else {}
    try:
        return load_dataset(builder, hub.settings.get("config"), revision=hub.settings.get("revision"), **settings)
    except (ValueError, OSError, RuntimeError) as error:
        raise DGRValueError(f"{hub.text}: the dataset cannot be loaded. {type(error).__name__}: {error}") from None


def _builder(hub: HubName, file: Path) -> str:
    """Who reads a file of that name."""
    name = plain_name(file).lower()
    found = next((builder for builder, endings in _BUILDERS.items() if name.endswith(endings)), None)
    if found is None:
        raise DGRValueError(
            f"{hub.text}: the name does not tell the format. Name it .jsonl, .csv, .tsv, .parquet or .arrow."
        )
    return found


def _one_split(
    hub: HubName, found: Dataset | IterableDataset | DatasetDict | IterableDatasetDict
) -> Dataset | IterableDataset:
    wanted = hub.settings.get("split")
    if isinstance(found, (Dataset, IterableDataset)):
        if wanted is not None:
            raise DGRValueError(f"{hub.text}: there are no splits, only one dataset. Leave split={wanted} out.")
        return found
    names = [str(name) for name in found]
    if wanted is None and len(names) == 1:
        wanted = names[0]
    if wanted not in names:
        problem = "several splits" if wanted is None else f"no split {wanted!r}"
        raise DGRValueError(
            f"{hub.text}: the dataset has {problem}; its splits are {', '.join(names)}. Name one: "
            f"{PREFIX}{hub.name},split={names[0]}."
        )
    return found[wanted]
