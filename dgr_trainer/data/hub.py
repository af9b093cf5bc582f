"""Datasets of the Hugging Face Hub, or of folders and files, given as `hf:NAME,split=test,query=question`.

After the name come settings in any order, separated by commas: the options `config`, `split`, `revision` and
`streaming`, and for a field whose column has another name, that column.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dgr_trainer.errors import DGRValueError, input_errors, one_line

if TYPE_CHECKING:
    from datasets import Dataset, DatasetBuilder, DatasetDict, IterableDataset, IterableDatasetDict

PREFIX = "hf:"
OPTIONS = ("config", "split", "revision", "streaming")


def loading_errors() -> tuple[type[Exception], ...]:
    """What `datasets` raises where a dataset cannot be loaded."""
    from datasets.exceptions import DatasetsError

    return (ValueError, OSError, RuntimeError, DatasetsError, StopIteration)


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

    def columns(self, known: Iterable[str]) -> dict[str, str]:
        """The columns that the settings name.

        Args:
            known (`Iterable[str]`): Fields that are read. A setting may name the column of each.

        Raises:
            ValueError: if a setting is neither an option nor a field.
        """
        known = list(known)
        unknown = [key for key in self.settings if key not in OPTIONS and key not in known]
        if unknown:
            raise DGRValueError(
                f"{self.text}: there is no setting {', '.join(unknown)} here. Settings are {', '.join(OPTIONS)}, and "
                f"a column for {', '.join(known)}."
            )
        return {key: value for key, value in self.settings.items() if key in known}

    def load(self, known: Iterable[str]) -> tuple[Dataset | IterableDataset, dict[str, str]]:
        """Load the dataset.

        Args:
            known (`Iterable[str]`): Fields that are read from it. A setting may name the column of each.

        Returns:
            `tuple[Dataset | IterableDataset, dict[str, str]]`: One split of the dataset, and columns by field.

        Raises:
            FileNotFoundError: if it is a folder that is not there.
            ValueError: if a setting is unknown, the dataset cannot be loaded, or it has several splits and none is
                named.
        """
        columns = self.columns(known)
        return _one_split(self, _load(self)), columns

    @property
    def streaming(self) -> bool:
        """`bool`: Whether the dataset is to be streamed. A `ValueError` if the setting is neither yes nor no."""
        streaming = self.settings.get("streaming", "no").lower()
        if streaming not in ("yes", "no", "true", "false"):
            raise DGRValueError(f"{self.text}: streaming is {streaming!r}. Say yes or no.")
        return streaming in ("yes", "true")


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
        return cast("Dataset", dataset)


def hub_source(path: str | os.PathLike[str]) -> HubSource | None:
    """The dataset that a path beginning with `hf:` names; `None` for any other path.

    Raises:
        ValueError: if the name is missing or a setting is malformed.
    """
    text = os.fspath(path)
    if not text.startswith(PREFIX):
        return None
    name, settings = _name_and_settings(text.removeprefix(PREFIX))
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
    return HubSource(text, name, chosen)


def _name_and_settings(text: str) -> tuple[str, list[str]]:
    """The name of a dataset, which may be a path that holds commas, and the settings after it."""
    parts = text.split(",")
    for count in range(len(parts), 1, -1):
        path = ",".join(parts[:count])
        if os.path.lexists(path):
            return path, parts[count:]
    return parts[0] if os.path.lexists(parts[0]) else parts[0].strip(), parts[1:]


def is_saved_dataset(folder: Path) -> bool:
    """Whether `save_to_disk` wrote the folder."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _load_saved(folder: Path) -> Dataset | DatasetDict:
    from datasets import load_from_disk

    with input_errors(f"The dataset at {folder} is damaged", Exception):
        return load_from_disk(str(folder))


def _load(hub: HubSource) -> Dataset | IterableDataset | DatasetDict | IterableDatasetDict:
    from datasets import Features, Value
    from datasets.packaged_modules.csv.csv import CsvConfig

    path = Path(hub.name)
    if is_saved_dataset(path):
        return _load_saved(path)
    builder = dataset_builder(hub, hub.name)
    try:
        if isinstance(builder.config, CsvConfig):
            # Otherwise the id 007 becomes 7, and the text NA a missing one.
            streams = builder.as_streaming_dataset()
            first: dict[str, Any] = next(iter(streams[split_name(hub, list(map(str, streams)))]), {})
            strings = Features({column: Value("string") for column in first}) if first else None
            builder = dataset_builder(hub, hub.name, features=strings, keep_default_na=False, na_filter=False)
        if hub.streaming:
            return builder.as_streaming_dataset()
        builder.download_and_prepare()
        return builder.as_dataset()
    except DGRValueError:
        raise
    except loading_errors() as error:
        files = [str(file) for of_split in (builder.config.data_files or {}).values() for file in of_split]
        among = f" from {', '.join(files[:3])}{', ...' if len(files) > 3 else ''}" if files else ""
        raise DGRValueError(f"{hub.text}: the dataset cannot be loaded{among}. {reasons(error)}") from None


def dataset_builder(hub: HubSource, path: str, **settings: Any) -> DatasetBuilder:
    """The builder of `datasets` for a name or a folder. Raises a `ValueError` if there is none."""
    from datasets import load_dataset_builder

    try:
        return load_dataset_builder(
            path, hub.settings.get("config"), revision=hub.settings.get("revision"), **settings
        )
    except loading_errors() as error:
        raise DGRValueError(f"{hub.text}: the dataset cannot be loaded. {reasons(error)}") from None


def reasons(error: BaseException) -> str:
    """An error, and what caused it where the one that `datasets` raises says nothing."""
    from datasets.exceptions import DatasetsError

    found = [f"{type(error).__name__}: {one_line(error)}"]
    cause = error.__cause__ or error.__context__
    while isinstance(error, DatasetsError) and cause is not None and len(found) < 4:
        found.append(f"{type(cause).__name__}: {one_line(cause)}")
        cause = cause.__cause__ or cause.__context__
    return " because of ".join(dict.fromkeys(found))


def _one_split(
    hub: HubSource, loaded: Dataset | IterableDataset | DatasetDict | IterableDatasetDict
) -> Dataset | IterableDataset:
    from datasets import Dataset, IterableDataset

    split = hub.settings.get("split")
    if isinstance(loaded, (Dataset, IterableDataset)):
        if split is not None:
            raise DGRValueError(f"{hub.text}: there are no splits, only one dataset. Leave split={split} out.")
        return loaded
    return loaded[split_name(hub, [str(name) for name in loaded])]


def split_name(hub: HubSource, names: list[str]) -> str:
    """The split that the settings name, or the only one there is."""
    split = hub.settings.get("split")
    if split is None and len(names) == 1:
        split = names[0]
    if split not in names:
        problem = "several splits" if split is None else f"no split {split!r}"
        raise DGRValueError(
            f"{hub.text}: the dataset has {problem}; its splits are {', '.join(names)}. Name one: "
            f"{PREFIX}{hub.name},split={names[0]}."
        )
    return split
