"""An index on disk: a folder for each segment, and `index.json`, which says which of them the index consists of.

Folders of segments are written once and never changed; adding, removing and compacting write new ones, then put a new
`index.json` in the place of the old, in one step. Who opens the index finds all of the old or all of the new.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm.auto import tqdm

from dgr_trainer.errors import DGRRuntimeError, DGRValueError
from dgr_trainer.files.atomic import atomic_folder, atomic_write, restore_folder
from dgr_trainer.index.construction import SAMPLE_RATE, IndexArrays, check_vocabulary
from dgr_trainer.index.parts import StoredPart, is_whole, link_part, read_part, write_part
from dgr_trainer.index.segment import NONE_REMOVED, Removed, Segment
from dgr_trainer.index.verified import VERIFIED, State, read_verified, state_of, write_verified

FORMAT = "dgr-trainer FM-index"
FORMAT_VERSION = 2
DESCRIPTION = "index.json"
MADE_OF = "made_of.json"
_LOCK = "index.lock"
_PARTS = ("segment-", "removed-", ".segment-", ".removed-")
_SETTINGS = (
    "vocab_size",
    "separator",
    "sample_rate",
    "segment_tokens",
    "tokenizer_fingerprint",
    "corpus_fingerprint",
)
# An index of no more bytes than this is compared with its checksums whenever it is opened, in a few milliseconds.
_ALWAYS_VERIFIED = 16 << 20


def new_settings(
    vocab_size: int,
    separator: int,
    tokenizer_fingerprint: str,
    corpus_fingerprint: str,
    segment_tokens: int | None,
) -> dict[str, Any]:
    """The numbers and fingerprints that describe an index; see `FMIndex.build`."""
    check_vocabulary(vocab_size, separator)
    if segment_tokens is not None and segment_tokens < 1:
        raise DGRValueError(
            f"segment_tokens is {segment_tokens}, but a segment has at least 1 token. Give a large number, such as "
            "100_000_000, or None for one segment."
        )
    return {
        "vocab_size": int(vocab_size),
        "separator": int(separator),
        "sample_rate": SAMPLE_RATE,
        "segment_tokens": segment_tokens,
        "tokenizer_fingerprint": tokenizer_fingerprint,
        "corpus_fingerprint": corpus_fingerprint,
    }


def save_index(
    path: str | os.PathLike[str],
    segments: Sequence[Segment],
    settings: Mapping[str, Any],
    opened: str | None,
    link: bool = False,
) -> tuple[list[Segment], str]:
    """Write an index. It appears, or takes the place of an older one, only when all of it is on the disk.

    Args:
        path (`str` or `os.PathLike`): the folder.
        segments (`Sequence[Segment]`): what the index consists of. What the folder has already is not written again.
        settings (`Mapping[str, Any]`): numbers and fingerprints that describe them.
        opened (`str`, *optional*): the checksum of the index that these segments were made from, if it was opened
            from `path`.
        link (`bool`, *optional*, defaults to `False`): parts that are on the disk elsewhere become hard links.

    Returns:
        `tuple[list[Segment], str]`: the segments, which now know where they are on the disk, and the checksum of the
        description that was written.

    Raises:
        FileExistsError: if `path` is a file, or a folder with anything but an index in it.
        RuntimeError: if the index at `path` was changed since it was opened.
        OSError: if the disk is full, for one; `path` is then as it was.
    """
    folder = Path(path)
    restore_folder(folder)
    if not (folder / DESCRIPTION).is_file():
        with atomic_folder(folder, marker=DESCRIPTION) as new:
            return write_index(new, folder, segments, settings, link)
    with unchanged(folder, opened):
        written = write_index(folder, folder, segments, settings, link)
        delete_unused(folder)
        (folder / MADE_OF).unlink(missing_ok=True)
    return written


@contextmanager
def unchanged(folder: Path, opened: str | None) -> Iterator[None]:
    """Keep other processes from changing an index.

    Args:
        folder (`pathlib.Path`): the folder of the index.
        opened (`str`, *optional*): the checksum of the index that the change is made from.

    Raises:
        RuntimeError: if another process has changed it since.
    """
    with FileLock(folder / _LOCK):
        if opened is not None and opened != checksum_on_disk(folder):
            raise DGRRuntimeError(
                f"The index at {folder} was changed by another process since it was opened here, and saving would "
                "undo that. Load it again and repeat the change."
            )
        yield


def load_index(path: str | os.PathLike[str], verify: bool | None = None) -> tuple[list[Segment], dict[str, Any], str]:
    """Map an index into memory.

    Args:
        path (`str` or `os.PathLike`): a folder that `save_index` wrote.
        verify (`bool`, *optional*): compare all files with their checksums, or (`False`) only the small ones. By
            default, of an index above 16 MiB, those that were changed or copied since they were compared last.

    Returns:
        `tuple[list[Segment], dict[str, Any], str]`: the segments, the settings, and the description's checksum.

    Raises:
        FileNotFoundError: if there is no folder, or a file of the index is missing.
        ValueError: if the folder is no index, of an unknown version, or damaged.
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


def _load(folder: Path, description: dict[str, Any], verify: bool | None) -> tuple[list[Segment], dict[str, Any], str]:
    sizes = _sizes(description)
    states: dict[str, State] = {}
    if sum(sizes.values()) > _ALWAYS_VERIFIED:
        states = {name: state_of(folder / name) for name in sizes if (folder / name).is_file()}
        known = read_verified(folder)
        chosen = {name for name in sizes if verify or (verify is None and states.get(name) != known.get(name, ()))}
    else:
        chosen = set(sizes)
    total, hidden = sum(sizes[name] for name in chosen), not (states and chosen)
    with tqdm(total=total, desc="Verifying the index", unit="B", unit_scale=True, delay=2, disable=hidden) as bar:

        def is_chosen(name: str) -> bool:
            bar.update(sizes[name] if name in chosen else 0)
            return name in chosen

        segments = []
        for entry in description["segments"]:
            names = [field.name for field in fields(IndexArrays)]
            arrays = IndexArrays(**read_part(folder, entry["segment"], names, is_chosen))
            removed = NONE_REMOVED
            if entry["removed"] is not None:
                removed = Removed(**read_part(folder, entry["removed"], ["passages", "rows"], is_chosen))
            stored = [entry[name] and StoredPart(folder.absolute(), entry[name]) for name in ("segment", "removed")]
            segments.append(Segment(arrays, description["separator"], removed, *stored))
    if states and chosen:
        write_verified(folder, states)
    return segments, {name: description[name] for name in _SETTINGS}, description["sha256"]


def _sizes(description: Mapping[str, Any]) -> dict[str, int]:
    """The size of each file of an index."""
    parts = [part for entry in description["segments"] for part in (entry["segment"], entry["removed"]) if part]
    return {f"{part['name']}/{name}": file["bytes"] for part in parts for name, file in part["files"].items()}


def write_index(
    folder: Path, final: Path, segments: Sequence[Segment], settings: Mapping[str, Any], link: bool = False
) -> tuple[list[Segment], str]:
    """Write an index to a folder that will be known by the name `final`; the rest as of [`save_index`]."""
    entries, stored = [], []
    written: set[str] = set()
    parts = [part for segment in segments for part in (segment.stored, segment.stored_removed) if part is not None]
    places = {folder, *(part.folder for part in parts)}
    known = {verified for place in places for verified in read_verified(place).items()}
    for segment in segments:
        part = _stored_in(folder, segment.stored, link)
        if part is None:
            part = write_part(folder, "segment", segment.arrays)
            written.add(part["name"])
        removed = None
        if len(segment.removed.passages):
            removed = _stored_in(folder, segment.stored_removed, link)
            if removed is None:
                removed = write_part(folder, "removed", segment.removed)
                written.add(removed["name"])
        entries.append({
            "segment": part, "removed": removed,
            "num_tokens": segment.arrays.num_rows, "num_passages": segment.num_passages,
        })  # fmt: skip
        stored.append(
            replace(
                segment,
                stored=StoredPart(final.absolute(), part),
                stored_removed=None if removed is None else StoredPart(final.absolute(), removed),
            )
        )
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **{name: settings[name] for name in _SETTINGS},
        "segments": entries,
    }
    description["sha256"] = _checksum(description)
    with atomic_write(folder / DESCRIPTION) as stream:
        json.dump(description, stream, indent=2, ensure_ascii=False)
        stream.write("\n")
    sizes = _sizes(description)
    if sum(sizes.values()) > _ALWAYS_VERIFIED:
        # What was just written was read again, and what was linked is the very file that was compared elsewhere.
        states = {name: state_of(folder / name) for name in sizes}
        write_verified(folder, {n: s for n, s in states.items() if n.split("/")[0] in written or (n, s) in known})
    return stored, description["sha256"]


def _stored_in(folder: Path, part: StoredPart | None, link: bool) -> dict[str, Any] | None:
    """The description of a part that is in the folder already, or that a link brought there."""
    if part is None or not is_whole(part.folder, part.description):
        return None
    if part.folder == folder.absolute():
        return part.description
    return link_part(folder, part) if link else None


def delete_unused(folder: Path) -> None:
    """Delete what an older index consisted of, and what an interrupted process left."""
    entries = _read_description(folder)["segments"]
    used = {part["name"] for entry in entries for part in (entry["segment"], entry["removed"]) if part is not None}
    for file in folder.iterdir():
        if file.is_dir() and file.name.startswith(_PARTS) and file.name not in used:
            shutil.rmtree(file)
        elif file.name.startswith(f".{DESCRIPTION}."):
            file.unlink()


def belongs_to_index(name: str) -> bool:
    """Whether a file or folder of this name, in the folder of an index, is of the index."""
    return name in (DESCRIPTION, MADE_OF, VERIFIED, _LOCK) or name.startswith((*_PARTS, f".{DESCRIPTION}."))


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
            f"{folder} is not an index: its {DESCRIPTION} is of another program. Give the folder FMIndex.save wrote."
        )
    if description.get("format_version") != FORMAT_VERSION:
        raise DGRValueError(
            f"The index at {folder} has format version {description.get('format_version')}, but this version of "
            f"dgr-trainer reads version {FORMAT_VERSION}. Build the index again, or install the version that wrote it."
        )
    if description.get("sha256") != _checksum(description):
        raise DGRValueError(
            f"{folder / DESCRIPTION} is damaged (its content does not have the SHA-256 that it names). "
            "Copy it again, or build the index again."
        )
    return description


def _checksum(description: Mapping[str, Any]) -> str:
    content = {name: value for name, value in description.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def checksum_on_disk(folder: Path) -> str | None:
    """The checksum of the description of the index that is in a folder now; `None` if there is none."""
    try:
        return _read_description(folder)["sha256"]
    except (OSError, ValueError):
        return None
