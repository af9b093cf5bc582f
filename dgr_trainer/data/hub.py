"""Datasets of the Hugging Face Hub, or of folders and files, given as `hf:NAME,split=test,query=question`.

After the name come settings in any order, separated by commas: the options `config`, `split`, `revision` and
`streaming`, and for a field whose column has another name, that column.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, load_dataset, load_from_disk

from dgr_trainer.errors import DGRValueError, input_errors
from dgr_trainer.files.compression import plain_name
from dgr_trainer.files.lines import listing

PREFIX = "hf:"
OPTIONS = ("config", "split", "revision", "streaming")
_BUILDERS = {
    "json": (".jsonl", ".ndjson", ".json"),
    "csv": (".csv", ".tsv"),  # With a first line that names the columns.
    "parquet": (".parquet",),
    "arrow": (".arrow",),
}


@dataclass(frozen=True)
class HubSource:
    """A dataset of the Hub, or of a folder or file that `datasets` reads.

    Args:
        text (`str`): What the user gave, for messages.
        name (`str`): Name on the Hub, path of a folder, or path of a file.
        settings (`dict[str, str]`): Options, and columns by field.
    """

    text: str
    name: str
    settings: dict[str, str]

    def load(self, fields: Iterable[str]) -> tuple[Dataset | IterableDataset, dict[str, str]]:
        """Load the dataset.

        Args:
            fields (`Iterable[str]`): Fields that are read from it. A setting may name the column of each.

        Returns:
            `tuple[Dataset | IterableDataset, dict[str, str]]`: One split of the dataset, and columns by field.

        Raises:
            FileNotFoundError: if it is a folder that is not there.
            ValueError: if a setting is unknown, the dataset cannot be loaded, or it has several splits and none is
                named.
        """
        fields = list(fields)
        unknown = [key for key in self.settings if key not in OPTIONS and key not in fields]
        if unknown:
            raise DGRValueError(
                f"{self.text}: there is no setting {', '.join(unknown)} here. Settings are {', '.join(OPTIONS)}, and "
                f"a column for {', '.join(fields)}."
            )
        columns = {key: value for key, value in self.settings.items() if key in fields}
        return _one_split(self, _load(self)), columns


@dataclass(frozen=True)
class SavedDatasetSource:
    """A folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote.

    Args:
        path (`pathlib.Path`): The folder.
    """

    path: Path

    def load(self, split: str | None = None) -> Dataset:
        """Load the dataset, memory-mapped.

        Raises:
            ValueError: if there are several splits and `split` names none of them.
        """
        settings = {} if split is None else {"split": split}
        dataset = _one_split(HubSource(f"{PREFIX}{self.path}", str(self.path), settings), _load_saved(self.path))
        assert isinstance(dataset, Dataset)
        return dataset


def hub_source(path: str | os.PathLike[str]) -> HubSource | None:
    """The dataset that a path beginning with `hf:` names; `None` for any other path.

    Raises:
        ValueError: if the name is missing or a setting is malformed.
    """
    text = os.fspath(path)
    if not text.startswith(PREFIX):
        return None
    name, *settings = text.removeprefix(PREFIX).split(",")
    chosen: dict[str, str] = {}
    for setting in settings:
        key, equals, value = (part.strip() for part in setting.partition("="))
        if not key or not equals or not value:
            raise DGRValueError(
                f"{text}: {setting!r} is no setting. After the name of the dataset come settings separated by commas, "
                f"such as {PREFIX}user/questions,split=test,query=question."
            )
        if key in chosen:
            raise DGRValueError(f"{text}: {key} is set twice. Set it once.")
        chosen[key] = value
    if not name.strip():
        raise DGRValueError(f"{text}: the name of the dataset is missing, such as {PREFIX}user/questions.")
    return HubSource(text, name.strip(), chosen)


def is_saved_dataset(folder: Path) -> bool:
    """Whether `save_to_disk` wrote the folder."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _load_saved(folder: Path) -> Dataset | DatasetDict:
    with input_errors(f"The dataset at {folder} is damaged", Exception):
        return load_from_disk(str(folder))


def _load(hub: HubSource) -> Dataset | IterableDataset | DatasetDict | IterableDatasetDict:
    path = Path(hub.name)
    if is_saved_dataset(path):
        return _load_saved(path)
    if not path.exists() and (path.is_absolute() or hub.name.startswith((".", "~"))):
        neighbours = f" Its folder holds: {listing(path.parent)}." if path.parent.is_dir() else ""
        raise FileNotFoundError(f"{hub.text}: {hub.name} is not there.{neighbours}")
    streaming = hub.settings.get("streaming", "no").lower()
    if streaming not in ("yes", "no", "true", "false"):
        raise DGRValueError(f"{hub.text}: streaming is {streaming!r}. Say yes or no.")
    settings: dict[str, Any] = {"streaming": streaming in ("yes", "true")}
    builder = hub.name
    if path.is_file():
        builder = _builder(hub, path)
        settings["data_files"] = hub.name
        settings |= {"delimiter": "\t"} if plain_name(path).lower().endswith(".tsv") else {}
    try:
        return load_dataset(builder, hub.settings.get("config"), revision=hub.settings.get("revision"), **settings)
    except (ValueError, OSError, RuntimeError) as error:
        raise DGRValueError(f"{hub.text}: the dataset cannot be loaded. {type(error).__name__}: {error}") from None


def _builder(hub: HubSource, file: Path) -> str:
    """The builder of `datasets` that reads a file of that name."""
    name = plain_name(file).lower()
    for builder, endings in _BUILDERS.items():
        if name.endswith(endings):
            return builder
    raise DGRValueError(
        f"{hub.text}: the name does not tell the format. Name it .jsonl, .csv, .tsv, .parquet or .arrow."
    )


def _one_split(
    hub: HubSource, loaded: Dataset | IterableDataset | DatasetDict | IterableDatasetDict
) -> Dataset | IterableDataset:
    split = hub.settings.get("split")
    if isinstance(loaded, (Dataset, IterableDataset)):
        if split is not None:
            raise DGRValueError(f"{hub.text}: there are no splits, only one dataset. Leave split={split} out.")
        return loaded
    names = [str(name) for name in loaded]
    if split is None and len(names) == 1:
        split = names[0]
    if split not in names:
        problem = "several splits" if split is None else f"no split {split!r}"
        raise DGRValueError(
            f"{hub.text}: the dataset has {problem}; its splits are {', '.join(names)}. Name one: "
            f"{PREFIX}{hub.name},split={names[0]}."
        )
    return loaded[split]
