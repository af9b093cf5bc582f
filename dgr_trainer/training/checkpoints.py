"""Checkpoints of the trainer: whether one is complete, and the last complete one of a folder.

A process that is killed while it writes a checkpoint leaves a folder with missing files, or files that end too early.
Files are judged by their structure alone; nothing in them is unpickled.
"""

import json
import logging
import re
import zipfile
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar

from accelerate.utils import gather_object

from dgr_trainer.errors import DGRValueError
from dgr_trainer.processes import Processes, is_main_process

logger = logging.getLogger(__name__)

T = TypeVar("T")

STATE = "trainer_state.json"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
# Weights: whole, in parts, of adapters (also in a folder for each), of FSDP, of DeepSpeed.
_WEIGHTS = ("*.safetensors", "*/adapter_model.*", "pytorch_model*", "adapter_model.bin", "global_step*")
_OPTIMIZERS = ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*")
_JSON = ("config.json", "generation_config.json", "adapter_config.json", "tokenizer.json", "tokenizer_config.json")
# What transformers, peft, accelerate and DeepSpeed write with torch; other files of these suffixes may be anything.
_TORCH = (
    *("optimizer*.pt", "optimizer*.bin", "scheduler.pt", "scaler.pt", "rng_state*.pth", "training_args.bin"),
    *("pytorch_model*.bin", "adapter_model*.bin", "*_states.pt"),
)
_SENTINEL = "checkpoint-is-incomplete.txt"  # Of transformers' enable_jit_checkpoint.
_PICKLE = b"\x80"  # How torch wrote files before it wrote zip archives; whether such a file is whole cannot be seen.
_LONGEST_HEADER = 100_000_000  # Bytes, as safetensors has it.


def checkpoints(folder: Path) -> list[Path]:
    """Folders of checkpoints in a folder, in the order of their steps."""
    found = [path for path in folder.glob("checkpoint-*") if _CHECKPOINT.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: _step(path.name))


def checkpoint_fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint, such as `"optimizer.pt is empty"`; `None` if it is complete."""
    if not folder.is_dir():
        return "there is no such folder"
    # The state is written last. Without it, the rest may be anything.
    if not (folder / STATE).is_file():
        return f"it has no {STATE}, which is written last"
    if (folder / _SENTINEL).exists():
        return f"it has a {_SENTINEL}, which is deleted last"
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


def complete_checkpoint(
    wanted: str | Path | bool | None, output_dir: str | None, processes: Processes | None = None
) -> str | None:
    """The checkpoint to resume from, complete in every process.

    A path that is the last checkpoint of its folder, as `get_last_checkpoint` returns it, gives way to the last
    complete one. Every process must call this.

    Args:
        wanted (`str` or `bool`, *optional*): A path, or `True` for the last complete one of the output folder.
        output_dir (`str`, *optional*): The output folder.
        processes ([`~accelerate.Accelerator`], *optional*): The processes that resume it.

    Returns:
        `str`: The path; `None` if none is wanted.

    Raises:
        ValueError: if the checkpoint is not complete, and there is no complete one before it.
    """
    if not wanted:
        return None
    folder = Path(output_dir or ".")
    if wanted is not True:
        path = Path(wanted)
        fault = next((fault for fault in _gathered(checkpoint_fault(path), processes) if fault is not None), None)
        if fault is None:
            return str(wanted)
        folder = path.parent
        if path.name not in [found.name for found in checkpoints(folder)[-1:]]:
            raise DGRValueError(
                f'{path} is not a checkpoint: {fault}. Give another one, or True ("last" on the command line) for '
                "the last complete one in the output folder."
            )
    # Each process may have files of its own, on a disk of its own.
    by_process = _gathered({path.name: checkpoint_fault(path) for path in checkpoints(folder)}, processes)
    cut: list[str] = []
    for name in sorted({name for faults in by_process for name in faults}, key=_step, reverse=True):
        in_processes = (faults.get(name, "another process does not have it") for faults in by_process)
        fault = next((fault for fault in in_processes if fault is not None), None)
        if fault is None:
            if cut and is_main_process(processes):
                logger.warning(
                    "Not complete, probably because their process was ended: %s. Training is resumed from %s.",
                    "; ".join(cut),
                    name,
                )
            return str(folder / name)
        cut.append(f"{name} ({fault})")
    if cut:
        raise DGRValueError(
            f"No checkpoint in {folder} is complete: {'; '.join(cut)}. They were probably cut off when their process "
            "ended. Delete them and start without resuming."
        )
    raise DGRValueError(f"There is no checkpoint in {folder} to resume from. Start without resuming.")


def _gathered(value: T, processes: Processes | None) -> list[T]:
    """The value of every process."""
    if processes is None or processes.num_processes == 1:
        return [value]
    gathered: list[T] = gather_object([value])
    return gathered


def _step(name: str) -> int:
    match = _CHECKPOINT.fullmatch(name)
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
    if any(fnmatch(file.name, pattern) for pattern in _TORCH):
        return _torch_fault(file)
    if file.suffix in (".distcp", ".model") or file.name in (".metadata", "latest"):
        return None if file.stat().st_size else "is empty"
    return None


def _json_fault(file: Path) -> str | None:
    try:
        content = json.loads(file.read_bytes())
    except ValueError:
        return "is damaged or cut off: it is no JSON" if file.stat().st_size else "is empty"
    return None if isinstance(content, dict) else f"holds a {type(content).__name__}, not an object"


def _safetensors_fault(file: Path) -> str | None:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            return f"is damaged or cut off: it has {size} bytes, fewer than its header" if size else "is empty"
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            expected = 8 + length + max(ends, default=0)
        except (ValueError, KeyError, TypeError, AttributeError):
            return "is damaged: its header is unreadable"
    return None if size == expected else f"is damaged or cut off: it has {size} bytes instead of {expected}"


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
        return "is damaged or cut off: it is no archive of torch"
    return None if archive_end <= file.stat().st_size else "is damaged or cut off: it has fewer bytes than its archive"
