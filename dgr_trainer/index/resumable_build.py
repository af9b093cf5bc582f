"""Builds an index on disk segment by segment; an interrupted build resumes after the last finished segment."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.atomic import atomic_write, current_folder_kept, link_target, restore_folder, with_own_name
from dgr_trainer.files.job_lock import JobLock
from dgr_trainer.index.segment import Segment
from dgr_trainer.index.segment_changes import add_segments
from dgr_trainer.index.storage import (
    DESCRIPTION,
    MADE_OF,
    IndexParts,
    IndexSettings,
    checksum_on_disk,
    delete_unused,
    load_index,
    save_index,
    unchanged,
    write_index,
)
from dgr_trainer.index.token_texts import TokenText
from dgr_trainer.processes.jobs import job_lock

logger = logging.getLogger(__name__)


def build_in_folder(
    path: str | os.PathLike[str],
    texts: Callable[[int], Iterator[TokenText]],
    num_passages: int,
    settings: IndexSettings,
    tokenised_with: Mapping[str, Any],
    replaced: str | None = None,
) -> None:
    """Build an index on disk segment by segment, or resume a build that was interrupted.

    Finished segments are kept in a hidden folder beside `path` (if that is a link, beside the folder that it points
    to), and used if they were built from the same input. A process may be killed at any moment: the same call resumes
    after the last segment, and writes the same files.

    One job at a time builds an index at `path`; another one waits, and finds it finished if it is of the same input.

    Args:
        path (`str` or `os.PathLike`): the folder of the index. Nothing is done if it holds an index of the same input.
        texts (`Callable[[int], Iterator[TokenText]]`): returns the texts of the segments that start at a passage.
        num_passages (`int`): number of passages of all texts.
        settings ([`IndexSettings`]): numbers and fingerprints that describe the index.
        tokenised_with (`Mapping[str, Any]`): what else the texts depend on, in JSON types.
        replaced (`str`, *optional*): the checksum of the index at `path` that may be replaced; by default any.

    Raises:
        FileExistsError: if `path` is a file, or a folder with anything but an index in it.
        RuntimeError: if the index at `path` has another checksum than `replaced`.
    """
    folder = with_own_name(link_target(path))
    unfinished = folder.with_name(f".{folder.name}.building")
    made_of = json.loads(
        json.dumps({**asdict(settings), "num_passages": num_passages, "tokenised_with": tokenised_with})
    )
    lock = folder.with_name(f"{unfinished.name}.lock")
    restore_folder(folder)
    if not unfinished.exists() and _is_finished(folder, made_of):  # Without the lock: the disk may be read-only.
        logger.info("%s is already an index of this corpus", folder)
        JobLock(lock).delete_if_left()
        return
    with job_lock(lock, f"The index at {folder}", None, wait_for_others=True):
        _build(folder, unfinished, texts, settings, made_of, replaced)


def _build(
    folder: Path,
    unfinished: Path,
    texts: Callable[[int], Iterator[TokenText]],
    settings: IndexSettings,
    made_of: dict[str, Any],
    replaced: str | None,
) -> None:
    restore_folder(folder)
    for place in (folder, unfinished):
        for left in place.glob(f".{MADE_OF}.*.tmp"):
            left.unlink()  # A killed process was writing its record.
    if folder.exists() and not (folder / DESCRIPTION).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise FileExistsError(
            f"{folder} exists but is not an index, so no index can be written there. Give a new or empty folder, or "
            "the folder of an index."
        )
    if _is_finished(folder, made_of):
        logger.info("%s is already an index of this corpus", folder)
        shutil.rmtree(unfinished, ignore_errors=True)
        return
    with unchanged(folder, replaced) if replaced is not None else nullcontext():  # Before the long work.
        segments = _finished_segments(unfinished, made_of)
    num_indexed = sum(segment.num_passages for segment in segments)
    if num_indexed:
        logger.info("Resuming after the first %d passages, which are already indexed", num_indexed)
    if num_indexed < made_of["num_passages"]:
        for text in texts(num_indexed):
            segments = add_segments(segments, [text], settings.vocab_size, settings.separator)
            write_index(unfinished, unfinished, IndexParts(tuple(segments), settings))
            segments = list(load_index(unfinished).segments)
    _record(unfinished, made_of, checksum_on_disk(unfinished))
    if (folder / DESCRIPTION).is_file():
        save_index(folder, IndexParts(tuple(segments), settings, replaced), link=True)
        _record(folder, made_of, checksum_on_disk(folder))
        shutil.rmtree(unfinished)
    else:
        with current_folder_kept(folder.absolute()):
            if folder.exists():
                folder.rmdir()
            os.rename(unfinished, folder)


def _finished_segments(unfinished: Path, made_of: dict[str, Any]) -> list[Segment]:
    """The finished segments of an earlier build of the same input; none, and an empty folder, without such a build."""
    try:
        if _read_record(unfinished)["made_of"] == made_of:
            segments = load_index(unfinished, verify=True).segments
            delete_unused(unfinished)
            return list(segments)
    except (OSError, ValueError):
        pass
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    _record(unfinished, made_of, None)
    return []


def _is_finished(folder: Path, made_of: dict[str, Any]) -> bool:
    try:
        record = _read_record(folder)
        if record["made_of"] != made_of or record["index"] is None or record["index"] != checksum_on_disk(folder):
            return False
        load_index(folder)
    except (OSError, ValueError):
        return False
    return True


def _record(folder: Path, made_of: dict[str, Any], checksum: str | None) -> None:
    """Record what the index in a folder is built from, and its checksum when it is finished."""
    with atomic_write(folder / MADE_OF) as stream:
        json.dump({"made_of": made_of, "index": checksum}, stream, indent=2)
        stream.write("\n")


def _read_record(folder: Path) -> dict[str, Any]:
    record = json.loads((folder / MADE_OF).read_text(encoding="utf-8"))
    if not isinstance(record, dict) or set(record) != {"made_of", "index"}:
        raise DGRValueError(f"{folder / MADE_OF} is damaged. Delete it, or build the index again.")
    return record
