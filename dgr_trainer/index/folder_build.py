"""Building an index on the disk, segment by segment, so that what is finished survives an interruption."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.atomic import atomic_write, restore_folder
from dgr_trainer.index.segment import Segment
from dgr_trainer.index.segment_changes import add_segments
from dgr_trainer.index.storage import (
    DESCRIPTION,
    MADE_OF,
    checksum_on_disk,
    delete_unused,
    load_index,
    save_index,
    write_index,
)
from dgr_trainer.index.texts import Text

logger = logging.getLogger(__name__)


def build_in_folder(
    path: str | os.PathLike[str],
    texts: Callable[[int], Iterator[Text]],
    num_passages: int,
    settings: Mapping[str, Any],
    tokenised_with: Mapping[str, Any],
) -> None:
    """Build an index on the disk, segment by segment, or finish one that was begun.

    What is finished lies in a hidden folder beside `path`, and is used again if it is made of the same. A process may
    be killed at any moment: the same call goes on after the last segment, and makes the same files.

    Args:
        path (`str` or `os.PathLike`): the folder of the index. If it is there and made of the same, nothing is done.
        texts (`Callable[[int], Iterator[Text]]`): the texts of the segments, from a passage on.
        num_passages (`int`): passages of all texts.
        settings (`Mapping[str, Any]`): numbers and fingerprints that describe the index.
        tokenised_with (`Mapping[str, Any]`): what the texts depend on besides, in JSON types.

    Raises:
        FileExistsError: if `path` is a file, or a folder with anything but an index in it.
    """
    folder = Path(path)
    restore_folder(folder)
    if folder.exists() and not (folder / DESCRIPTION).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise FileExistsError(
            f"{folder} exists and is no index, so none can be written there. Give a folder that is empty, new, or an "
            "index."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    begun = folder.with_name(f".{folder.name}.building")
    made_of = json.loads(json.dumps({**settings, "num_passages": num_passages, "tokenised_with": tokenised_with}))
    if _is_finished(folder, made_of):
        logger.info("%s is an index of this corpus already", folder)
        shutil.rmtree(begun, ignore_errors=True)
        return
    segments = _begun_segments(begun, made_of)
    done = sum(segment.num_passages for segment in segments)
    if done:
        logger.info("Going on after the %d passages that were indexed before", done)
    if done < num_passages:
        for text in texts(done):
            segments = add_segments(segments, [text], settings["vocab_size"], settings["separator"])
            write_index(begun, begun, segments, settings)
            segments, _, _ = load_index(begun)
    _record(begun, made_of, checksum_on_disk(begun))
    if (folder / DESCRIPTION).is_file():
        save_index(folder, segments, settings, None, link=True)
        _record(folder, made_of, checksum_on_disk(folder))
        shutil.rmtree(begun)
    else:
        if folder.exists():
            folder.rmdir()
        os.rename(begun, folder)


def _begun_segments(begun: Path, made_of: dict[str, Any]) -> list[Segment]:
    """The segments that are finished, if they are made of the same; otherwise an empty folder is begun."""
    try:
        if _read_record(begun)["made_of"] == made_of:
            segments, _, _ = load_index(begun, verify=True)
            delete_unused(begun)
            return segments
    except (OSError, ValueError):
        pass
    shutil.rmtree(begun, ignore_errors=True)
    begun.mkdir()
    _record(begun, made_of, None)
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
    """Write down of what the index in a folder is made, and which it is when it is finished."""
    with atomic_write(folder / MADE_OF) as stream:
        json.dump({"made_of": made_of, "index": checksum}, stream, indent=2)
        stream.write("\n")


def _read_record(folder: Path) -> dict[str, Any]:
    record = json.loads((folder / MADE_OF).read_text(encoding="utf-8"))
    if not isinstance(record, dict) or set(record) != {"made_of", "index"}:
        raise DGRValueError(f"{folder / MADE_OF} is damaged.")
    return record
