"""Checkpoints of the trainer: whether one is complete, and the last complete one of a folder.

A process that is killed while it writes a checkpoint leaves a folder with missing files, or files that end too early.
Files are judged by their structure alone; nothing in them is unpickled.
"""

import json
import logging
import re
import zipfile
from pathlib import Path

from dgr_trainer.errors import DGRValueError

logger = logging.getLogger(__name__)

STATE = "trainer_state.json"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
# Weights: whole, in parts, of adapters (also in a folder for each), of FSDP, of DeepSpeed.
_WEIGHTS = ("*.safetensors", "*/adapter_model.*", "pytorch_model*", "adapter_model.bin", "global_step*")
_OPTIMIZERS = ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*")
_JSON = ("config.json", "generation_config.json", "adapter_config.json", "tokenizer.json", "tokenizer_config.json")
_TORCH = {".pt", ".pth", ".bin"}
_PICKLE = b"\x80"  # How torch wrote files before it wrote zip archives; whether such a file is whole cannot be seen.
_LONGEST_HEADER = 100_000_000  # Bytes, as safetensors has it.


def checkpoints(folder: Path) -> list[Path]:
    """Folders of checkpoints in a folder, in the order of their steps."""
    found = [path for path in folder.glob("checkpoint-*") if _CHECKPOINT.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=_step)


def checkpoint_fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint, such as `"optimizer.pt is cut off"`; `None` if it is complete."""
    # The state is written last. Without it, the rest may be anything.
    if not (folder / STATE).is_file():
        return f"it has no {STATE}, which is written last"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for file in files:
        fault = _file_fault(file)
        if fault is not None:
            return f"{file.relative_to(folder).as_posix()} {fault}"
    for index in sorted(folder.glob("*.index.json")):
        parts = sorted(set(json.loads(index.read_bytes()).get("weight_map", {}).values()))
        missing = [part for part in parts if not (folder / part).is_file()]
        if missing:
            return f"it has no {missing[0]}, which {index.name} names"
    if not _has(folder, *_WEIGHTS):
        return "it has no weights"
    trained = [name for name in ("optimizer.pt", "scheduler.pt") if (folder / name).is_file()]
    if trained and not _has(folder, *_OPTIMIZERS):
        return f"it has a {trained[0]}, but no optimizer.pt"
    if "optimizer.pt" in trained and "scheduler.pt" not in trained:
        return "it has an optimizer.pt, but no scheduler.pt"
    if not trained and any(folder.glob("rng_state*")) and not _has(folder, *_OPTIMIZERS):
        return "it has the state of random numbers, but no optimizer.pt"
    return None


def checkpoint_faults(folder: Path) -> dict[str, str | None]:
    """What is wrong with the checkpoints of a folder, by name, from the last one to the last complete one."""
    faults: dict[str, str | None] = {}
    for path in reversed(checkpoints(folder)):
        faults[path.name] = checkpoint_fault(path)
        if faults[path.name] is None:
            break
    return faults


def merged_faults(by_process: list[dict[str, str | None]]) -> dict[str, str | None]:
    """Faults of checkpoints in any process: each may have files of its own, and looks at more folders than others."""
    names = {name for faults in by_process for name in faults}
    last_first = sorted(names, key=lambda name: _step(Path(name)), reverse=True)
    merged: dict[str, str | None] = {}
    for name in last_first:
        known = [faults[name] for faults in by_process if name in faults]
        merged[name] = next((fault for fault in known if fault is not None), None)
    return merged


def checkpoint_to_resume(folder: Path, faults: dict[str, str | None]) -> Path:
    """The last complete checkpoint of a folder; a warning says which later ones are left out, and why.

    Args:
        folder (`Path`): The folder with the checkpoints.
        faults (`dict[str, str | None]`): Of `checkpoint_faults`.

    Raises:
        ValueError: if there is none.
    """
    complete = [name for name, fault in faults.items() if fault is None]
    cut = [f"{name} ({fault})" for name, fault in faults.items() if fault is not None]
    if not complete:
        if not cut:
            raise DGRValueError(f"There is no checkpoint in {folder} to resume from. Start without resuming.")
        raise DGRValueError(
            f"No checkpoint in {folder} is complete: {'; '.join(cut)}. They were probably cut off when their process "
            "ended. Start without resuming, after deleting them."
        )
    if cut:
        logger.warning(
            "Not complete, probably because their process was ended: %s. Training is resumed from %s.",
            "; ".join(cut),
            complete[0],
        )
    return folder / complete[0]


def last_of_folder(checkpoint: Path) -> bool:
    """Whether a path is that of the last checkpoint of its folder, as `get_last_checkpoint` returns it."""
    found = checkpoints(checkpoint.parent)
    return bool(found) and found[-1].name == checkpoint.name


def _step(folder: Path) -> int:
    match = _CHECKPOINT.fullmatch(folder.name)
    assert match is not None
    return int(match[1])


def _has(folder: Path, *patterns: str) -> bool:
    return any(True for pattern in patterns for _ in folder.glob(pattern))


def _file_fault(file: Path) -> str | None:
    """What is wrong with a file of a known kind."""
    if file.name == STATE or file.name in _JSON or file.name.endswith(".index.json"):
        return _json_fault(file)
    if file.suffix == ".safetensors":
        return _safetensors_fault(file)
    if file.suffix in _TORCH:
        return _torch_fault(file)
    if file.suffix in (".distcp", ".model") or file.name == ".metadata":
        return None if file.stat().st_size else "is empty"
    return None


def _json_fault(file: Path) -> str | None:
    try:
        content = json.loads(file.read_bytes())
    except ValueError:
        return "is cut off or damaged: it is no JSON" if file.stat().st_size else "is empty"
    return None if isinstance(content, dict) else f"holds a {type(content).__name__}, not an object"


def _safetensors_fault(file: Path) -> str | None:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            return f"is cut off: it has {size} bytes, fewer than its header" if size else "is empty"
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            expected = 8 + length + max(ends, default=0)
        except (ValueError, KeyError, TypeError, AttributeError):
            return "is damaged: its header is unreadable"
    return None if size == expected else f"is cut off or damaged: it has {size} bytes instead of {expected}"


def _torch_fault(file: Path) -> str | None:
    """A torch file is a zip archive, whose list of contents is at its end."""
    if not file.stat().st_size:
        return "is empty"
    with file.open("rb") as stream:
        if stream.read(1) == _PICKLE:
            return None
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            archive_end = max((entry.header_offset + entry.compress_size for entry in entries), default=0)
    except (zipfile.BadZipFile, OSError, ValueError):
        return "is cut off or damaged: it is no archive of torch"
    return None if archive_end <= file.stat().st_size else "is cut off"
