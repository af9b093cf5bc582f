"""An index on disk: one folder per segment, and `index.json`, which lists the segments of the index.

Segment folders are written once and never changed. Adding, removing and compacting write new ones, then replace
`index.json` in one step, so that a reader opens either the old index or the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from dgr_trainer.errors import DGRRuntimeError, DGRValueError
from dgr_trainer.files.atomic import atomic_folder, atomic_write, restore_folder
from dgr_trainer.files.progress import kept_moving
from dgr_trainer.index.array_folders import ArrayFolder, is_complete, link_arrays, read_arrays, write_arrays
from dgr_trainer.index.index_arrays import SAMPLE_RATE, IndexArrays, check_vocabulary
from dgr_trainer.index.segment import NONE_REMOVED, Removed, Segment
from dgr_trainer.index.verified_files import VERIFIED, FileState, file_state, read_verified, write_verified
from dgr_trainer.processes.jobs import job_lock

FORMAT = "dgr-trainer FM-index"
FORMAT_VERSION = 2
DESCRIPTION = "index.json"
MADE_OF = "made_of.json"
_LOCK = "index.lock"
_ARRAY_FOLDERS = ("segment-", "removed-", ".segment-", ".removed-")
# All checksums of an index up to this size are verified whenever it is opened, which takes a few milliseconds.
_ALWAYS_VERIFIED = 16 << 20


@dataclass(frozen=True)
class IndexSettings:
    """The numbers and fingerprints that describe an index; see `FMIndex.build`.

    Attributes:
        vocab_size (`int`): number of token ids.
        separator (`int`): the token id after each passage.
        sample_rate (`int`): n, if the position of every n-th token is stored.
        segment_tokens (`int`, *optional*): most tokens of a segment; `None` for one segment.
        tokenizer_fingerprint (`str`): says which tokenizer made the tokens.
        corpus_fingerprint (`str`): says which corpus was indexed.

    Raises:
        ValueError: if the vocabulary or `segment_tokens` is one that no index can have.
    """

    vocab_size: int
    separator: int
    sample_rate: int = SAMPLE_RATE
    segment_tokens: int | None = None
    tokenizer_fingerprint: str = ""
    corpus_fingerprint: str = ""

    def __post_init__(self) -> None:
        check_vocabulary(self.vocab_size, self.separator)
        if self.segment_tokens is not None and self.segment_tokens < 1:
            raise DGRValueError(
                f"segment_tokens is {self.segment_tokens}, but a segment has at least 1 token. Give a large number, "
                "such as 100_000_000, or None for one segment."
            )
        # Numpy integers cannot be written as JSON.
        object.__setattr__(self, "vocab_size", int(self.vocab_size))
        object.__setattr__(self, "separator", int(self.separator))


class IndexParts(NamedTuple):
    """What an index consists of, in memory or on disk.

    Attributes:
        segments (`tuple[Segment, ...]`): its segments, in the order of their passages.
        settings ([`IndexSettings`]): numbers and fingerprints that describe it.
        checksum (`str`, *optional*): the checksum in `index.json`, if the index was loaded or saved.
    """

    segments: tuple[Segment, ...]
    settings: IndexSettings
    checksum: str | None = None


def save_index(
    path: str | os.PathLike[str], index: IndexParts, link: bool = False, final: Path | None = None
) -> IndexParts:
    """Write an index, which appears, or replaces an older one, only when all of it is on the disk.

    Args:
        path (`str` or `os.PathLike`): the folder.
        index ([`IndexParts`]): the index, with the checksum of the one that it was made from if that was opened from
            `path`. Array folders that `path` already has are not written again.
        link (`bool`, *optional*, defaults to `False`): hard-link array folders that are elsewhere on the disk.
        final (`pathlib.Path`, *optional*): where the folder will be moved; by default it stays at `path`.

    Returns:
        [`IndexParts`]: the index with segments that know their folders, and the checksum that was written.

    Raises:
        FileExistsError: if `path` is a file, or a folder with anything but an index in it.
        RuntimeError: if the index at `path` was changed since it was opened.
        OSError: for example if the disk is full; `path` is then unchanged.
    """
    folder = Path(path)
    restore_folder(folder)
    if not (folder / DESCRIPTION).is_file():
        with atomic_folder(folder, marker=DESCRIPTION) as new:
            return write_index(new, final or folder, index, link)
    with unchanged(folder, index.checksum):
        written = write_index(folder, final or folder, index, link)
        delete_unused(folder)
        (folder / MADE_OF).unlink(missing_ok=True)
    return written


@contextmanager
def unchanged(folder: Path, opened: str | None) -> Iterator[None]:
    """Lock an index, so that no other process changes it meanwhile.

    Args:
        folder (`pathlib.Path`): the folder of the index.
        opened (`str`, *optional*): the checksum of the index when it was opened.

    Yields:
        `None`: while the index is locked.

    Raises:
        RuntimeError: if another process has changed the index since it was opened.
    """
    with job_lock(folder / _LOCK, f"The index at {folder}", None, wait_for_others=True):
        if opened is not None and opened != checksum_on_disk(folder):
            raise DGRRuntimeError(
                f"The index at {folder} was changed by another process since it was opened here, and saving would "
                "undo that. Load it again and repeat the change."
            )
        yield


def load_index(path: str | os.PathLike[str], verify: bool | None = None) -> IndexParts:
    """Map an index into memory.

    Args:
        path (`str` or `os.PathLike`): a folder that `save_index` wrote.
        verify (`bool`, *optional*): verify the checksums of all files, or (`False`) only of small ones. By default,
            in an index above 16 MiB, also of files that were changed or copied since they were last verified.

    Returns:
        [`IndexParts`]: the segments, the settings and the checksum.

    Raises:
        FileNotFoundError: if there is no folder, or a file of the index is missing.
        ValueError: if the folder is not an index, has an unknown version, or is damaged.
    """
    folder = Path(path)
    restore_folder(folder)
    while True:
        description = _read_description(folder)
        try:
            return _load(folder, description, verify)
        except FileNotFoundError:
            # Another process may have replaced the index after its description was read here.
            if checksum_on_disk(folder) == description["sha256"]:
                raise


def _load(folder: Path, description: dict[str, Any], verify: bool | None) -> IndexParts:
    sizes = _file_sizes(description)
    states: dict[str, FileState] = {}
    if sum(sizes.values()) > _ALWAYS_VERIFIED:
        states = {name: file_state(folder / name) for name in sizes if (folder / name).is_file()}
        verified = read_verified(folder)
        to_verify = {
            name for name in sizes if verify or (verify is None and states.get(name) != verified.get(name, ()))
        }
    else:
        to_verify = set(sizes)
    total, hidden = sum(sizes[name] for name in to_verify), not (states and to_verify)
    with (
        tqdm(total=total, desc="Verifying the index", unit="B", unit_scale=True, delay=2, disable=hidden) as bar,
        kept_moving(bar),
    ):

        def has_to_be_verified(name: str) -> bool:
            bar.update(sizes[name] if name in to_verify else 0)
            return name in to_verify

        segments = []
        for entry in description["segments"]:
            names = [field.name for field in fields(IndexArrays)]
            arrays = IndexArrays(**read_arrays(folder, entry["segment"], names, has_to_be_verified))
            removed = NONE_REMOVED
            if entry["removed"] is not None:
                removed = Removed(**read_arrays(folder, entry["removed"], ["passages", "rows"], has_to_be_verified))
            stored, stored_removed = (
                entry[name] and ArrayFolder(folder.absolute(), entry[name]) for name in ("segment", "removed")
            )
            segments.append(Segment(arrays, description["separator"], removed, stored, stored_removed))
    if states and to_verify:
        write_verified(folder, states)
    settings = IndexSettings(**{field.name: description[field.name] for field in fields(IndexSettings)})
    return IndexParts(tuple(segments), settings, description["sha256"])


def _array_folders(description: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The descriptions of all array folders of an index."""
    entries = [entry[name] for entry in description["segments"] for name in ("segment", "removed")]
    return [entry for entry in entries if entry is not None]


def _file_sizes(description: Mapping[str, Any]) -> dict[str, int]:
    """The size of each file of an index."""
    return {
        f"{arrays['name']}/{name}": file["bytes"]
        for arrays in _array_folders(description)
        for name, file in arrays["files"].items()
    }


def write_index(folder: Path, final: Path, index: IndexParts, link: bool = False) -> IndexParts:
    """Write an index to a folder that will be renamed to `final`; otherwise like [`save_index`]."""
    entries: list[dict[str, Any]] = []
    segments: list[Segment] = []
    written: set[str] = set()
    stored = [arrays for segment in index.segments for arrays in (segment.stored, segment.stored_removed)]
    folders = {folder, *(arrays.index_folder for arrays in stored if arrays is not None)}
    verified = {file for source in folders for file in read_verified(source).items()}
    for segment in index.segments:
        arrays = _stored_in(folder, segment.stored, link)
        if arrays is None:
            arrays = write_arrays(folder, "segment", segment.arrays)
            written.add(arrays["name"])
        removed = None
        if len(segment.removed.passages):
            removed = _stored_in(folder, segment.stored_removed, link)
            if removed is None:
                removed = write_arrays(folder, "removed", segment.removed)
                written.add(removed["name"])
        entries.append({
            "segment": arrays, "removed": removed,
            "num_tokens": segment.arrays.num_rows, "num_passages": segment.num_passages,
        })  # fmt: skip
        segments.append(
            replace(
                segment,
                stored=ArrayFolder(final.absolute(), arrays),
                stored_removed=None if removed is None else ArrayFolder(final.absolute(), removed),
            )
        )
    description = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(index.settings), "segments": entries}
    description["sha256"] = _checksum(description)
    with atomic_write(folder / DESCRIPTION) as stream:
        json.dump(description, stream, indent=2, ensure_ascii=False)
        stream.write("\n")
    sizes = _file_sizes(description)
    if sum(sizes.values()) > _ALWAYS_VERIFIED:
        # New files were read back for their checksums; a linked file is the same file that was verified elsewhere.
        states = {name: file_state(folder / name) for name in sizes}
        write_verified(
            folder,
            {
                name: state
                for name, state in states.items()
                if name.split("/")[0] in written or (name, state) in verified
            },
        )
    return IndexParts(tuple(segments), index.settings, description["sha256"])


def _stored_in(folder: Path, arrays: ArrayFolder | None, link: bool) -> dict[str, Any] | None:
    """The description of an array folder that the index folder already has, or that was linked into it."""
    if arrays is None or not is_complete(arrays.index_folder, arrays.description):
        return None
    if arrays.index_folder == folder.absolute():
        return arrays.description
    return link_arrays(folder, arrays) if link else None


def delete_unused(folder: Path) -> None:
    """Delete array folders of older indexes, and what an interrupted process left."""
    used = {arrays["name"] for arrays in _array_folders(_read_description(folder))}
    for file in folder.iterdir():
        if file.is_dir() and file.name.startswith(_ARRAY_FOLDERS) and file.name not in used:
            shutil.rmtree(file)
        elif file.name.startswith(f".{DESCRIPTION}."):
            file.unlink()


def belongs_to_index(name: str) -> bool:
    """Whether a file or folder of this name, in the folder of an index, belongs to the index."""
    return name in (DESCRIPTION, MADE_OF, VERIFIED, _LOCK, f"{_LOCK}.json") or name.startswith(
        (*_ARRAY_FOLDERS, f".{DESCRIPTION}.")
    )


def _read_description(folder: Path) -> dict[str, Any]:
    if not folder.exists():
        raise FileNotFoundError(f"There is no index at {folder}: no such folder. Build one, or give another path.")
    if not (folder / DESCRIPTION).is_file():
        raise DGRValueError(
            f"{folder} is not an index: it has no {DESCRIPTION}. Give the folder that FMIndex.save wrote "
            "(in a saved retriever, its subfolder 'index')."
        )
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except ValueError as error:
        raise DGRValueError(f"{folder / DESCRIPTION} is damaged ({error}). Build the index again.") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise DGRValueError(
            f"{folder} is not an index: its {DESCRIPTION} was written by another program. Give a folder that "
            "FMIndex.save wrote."
        )
    if description.get("format_version") != FORMAT_VERSION:
        raise DGRValueError(
            f"The index at {folder} has format version {description.get('format_version')}, but this version of "
            f"dgr-trainer reads version {FORMAT_VERSION}. Build the index again, or install the version that wrote it."
        )
    if description.get("sha256") != _checksum(description):
        raise DGRValueError(
            f"{folder / DESCRIPTION} is damaged (its content does not match the SHA-256 in it). "
            "Copy it again, or build the index again."
        )
    return description


def _checksum(description: Mapping[str, Any]) -> str:
    content = {name: value for name, value in description.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def checksum_on_disk(folder: Path) -> str | None:
    """The checksum of the index that is in a folder now; `None` if there is none."""
    try:
        return str(_read_description(folder)["sha256"])
    except (OSError, ValueError):
        return None
