"""Files and folders on the disk that are named after `hf:` and that this library reads itself.

`datasets` would make a number of the id `007` and a date of the text `2024-01-01`; it only finds the splits.
"""

from __future__ import annotations

import tempfile
from dataclasses import fields
from glob import has_magic
from pathlib import Path
from typing import Any

from dgr_trainer.data.hub import HubSource, dataset_builder, is_saved_dataset, split_name
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.lines import existing_file, file_kind, listing

_HARMLESS = {"name", "version", "data_dir", "data_files", "description", "sep", "delimiter", "features"}
"""Settings of a builder with which files are read as usual."""


def local_files(hub: HubSource) -> list[Path]:
    """The files on the disk that a name stands for and that this library reads itself, so that its rules hold.

    Args:
        hub ([`HubSource`]): The name.

    Returns:
        `list[pathlib.Path]`: A file, or the files of one split in a folder, in order; none if `datasets` has to load
        it: a dataset of the Hub, a folder that it saved, or one of files of other kinds.

    Raises:
        FileNotFoundError: if it is a path and nothing is there.
        ValueError: if an option does not apply to files on the disk, or there are several splits and none is named.
    """
    hub.streaming  # noqa: B018  It is checked; files are read row by row with either.
    path = Path(hub.name)
    if path.is_dir():
        return [] if is_saved_dataset(path) else _folder_files(hub, path)
    if not path.exists() and (path.is_absolute() or hub.name.startswith((".", "~")) or file_kind(path)):
        neighbours = f" Its folder holds: {listing(path.parent)}." if path.parent.is_dir() else ""
        raise FileNotFoundError(f"{hub.text}: {hub.name} is not there.{neighbours}")
    if not path.exists():
        return []
    path = existing_file(path)
    if not file_kind(path):
        raise DGRValueError(
            f"{hub.text}: the name does not tell the format. Name it .jsonl, .csv, .tsv, .parquet or .arrow."
        )
    useless = [name for name in ("config", "revision") if name in hub.settings]
    if useless:
        raise DGRValueError(f"{hub.text}: a file has no {' and no '.join(useless)}. Leave it out.")
    if hub.settings.get("split", "train") != "train":
        raise DGRValueError(f"{hub.text}: a file has no split {hub.settings['split']!r}. Leave split out.")
    return [path]


def _folder_files(hub: HubSource, folder: Path) -> list[Path]:
    """The files of one split, as `datasets` divides the files of a folder into splits."""
    with tempfile.TemporaryDirectory() as elsewhere:
        root, full = folder, str(folder.absolute())
        if has_magic(full) or "::" in full:
            # datasets would take the name of the folder for a pattern, so it gets to see only the names inside.
            root = Path(elsewhere).resolve()
            _copy_names(folder, root)
        config = dataset_builder(hub, str(root)).config
        splits = {
            str(split): [Path(file) if root == folder else folder / Path(file).relative_to(root) for file in files]
            for split, files in (config.data_files or {}).items()
        }
    kinds = {file_kind(file) for files in splits.values() for file in files}
    if not kinds or not kinds <= _kinds_read(config):
        return []
    return splits[split_name(hub, list(splits))]


def _copy_names(folder: Path, root: Path) -> None:
    """Make empty files of the same names; the card of a data set, whose contents count, is copied."""
    for path in folder.rglob("*"):
        copy = root / path.relative_to(folder)
        if path.is_dir():
            copy.mkdir(parents=True, exist_ok=True)
        elif path.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes() if path.suffix in (".md", ".yaml") else b"")


def _kinds_read(config: Any) -> set[str]:
    """The kinds of files that are read as a builder of `datasets` with that configuration would read them."""
    from datasets.packaged_modules.arrow.arrow import ArrowConfig
    from datasets.packaged_modules.csv.csv import CsvConfig
    from datasets.packaged_modules.json.json import JsonConfig
    from datasets.packaged_modules.parquet.parquet import ParquetConfig

    usual = type(config)()
    changed = {field.name for field in fields(config) if getattr(config, field.name) != getattr(usual, field.name)}
    if changed - _HARMLESS:  # The card of the data set has an option, such as lines to skip.
        return set()
    if isinstance(config, CsvConfig):
        return {"csv"} if config.sep == "," else {"tsv"} if config.sep == "\t" else set()
    if isinstance(config, JsonConfig):
        return {"jsonl"}
    return {"parquet", "arrow"} if isinstance(config, (ParquetConfig, ArrowConfig)) else set()
