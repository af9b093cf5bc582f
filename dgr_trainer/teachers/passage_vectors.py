"""The vectors of a corpus: computed once, kept in a memory-mapped file, and resumed after an interruption.

Passages are encoded in fixed blocks in the order of the corpus. So vectors are the same to the last bit however often
the work was interrupted and however many processes shared it. One job at a time computes the vectors of a folder;
another one waits, and then finds them there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
from tqdm.auto import tqdm

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.errors import DGRArithmeticError, DGRValueError
from dgr_trainer.files.atomic import atomic_write
from dgr_trainer.files.progress import kept_moving
from dgr_trainer.processes import (
    Processes,
    from_main,
    is_main_process,
    map_across_processes,
    process_rank,
    wait,
)
from dgr_trainer.processes.jobs import delete_left_locks, in_every_process, job_lock

_MARKER = "vectors.json"
_VECTORS = "vectors.npy"
_PARTIAL = "partial.npy"
_LOCK = "vectors.lock"
_PROGRESS = "partial.json"  # The files of single processes are named partial-0.json and so on.
_PASSAGES_PER_BLOCK = 4096
VECTOR_DTYPES = ("float32", "float16")
"""Precisions in which vectors are kept; the first is the default, and that of folders that do not tell it."""
_DTYPE = "vectors_dtype"

Encode = Callable[[list[int], Callable[[int], None]], np.ndarray]


def compute_passage_vectors(
    corpus: Corpus,
    encode: Encode,
    dimensions: int,
    settings: Mapping[str, object],
    folder: str | os.PathLike[str] | None,
    progress: bool,
    processes: Processes | None = None,
    dtype: str = VECTOR_DTYPES[0],
) -> np.ndarray:
    """Compute the vectors of all passages, or load them from a folder.

    Args:
        corpus (`Corpus`): The passages.
        encode ([`Encode`]): Returns the vectors `(n, dimensions)` of the passages at n positions, and calls a
            function with the number of those that it has encoded since the last call.
        dimensions (`int`): Length of a vector.
        settings (`Mapping[str, object]`): What vectors depend on besides the passages, in JSON types.
        folder (`str` or `os.PathLike`, *optional*): Folder that keeps them; by default they are kept in memory.
        progress (`bool`): Whether to show progress.
        processes ([`Processes`], *optional*): The processes that share the work, each of which calls this; all need
            the same folder.
        dtype (`str`, *optional*, defaults to `"float32"`): Precision in which they are kept, one of `VECTOR_DTYPES`.

    Returns:
        `np.ndarray` of shape `(len(corpus), dimensions)`, of that dtype; memory-mapped and read-only if there is a
        folder.

    Raises:
        FileNotFoundError: if a process does not see the folder of the first process.
        FloatingPointError: if a vector contains a number that is not finite; names the passage.
        NotADirectoryError: if `folder` is a file.
        ValueError: if the folder contains vectors of another corpus or of other settings.
    """
    work = _Work(corpus, encode, progress, processes, np.dtype(dtype))
    if folder is None:
        # Every process searches with all vectors for its share of the queries.
        vectors = np.empty((len(corpus), dimensions), dtype=work.dtype)
        starts = work.starts(())
        blocks = map_across_processes(starts, work.blocks, processes, results_per_message=1)
        for start, block in zip(starts, blocks, strict=True):
            vectors[start : start + len(block)] = block
        return vectors
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file, but vectors are kept in a folder. Give another path.")
    shape = (len(corpus), dimensions)
    description = {
        "corpus": corpus.fingerprint,
        "passages": shape[0],
        "dimensions": shape[1],
        _DTYPE: dtype,
        **settings,
    }
    # Only the first process decides: the others may see the disk a moment later.
    if not from_main((path / _MARKER).is_file(), processes):
        # Before waiting for another job, whose settings may be others.
        in_every_process(lambda: _reports(path, description), processes)
        with job_lock(path / _LOCK, f"The vectors in {path}", processes, wait_for_others=True):
            # Another job may have finished them meanwhile.
            if not from_main((path / _MARKER).is_file(), processes):
                in_every_process(lambda: _prepare(path, description, shape, work), processes)
                _compute(path, description, shape, work)
    elif is_main_process(processes):
        # Left by processes that were killed when they had finished; the disk may be read-only.
        _delete_reports(path)
        delete_left_locks(path / _LOCK)
    _check(path / _MARKER, description)
    return cast(np.ndarray, np.load(path / _VECTORS, mmap_mode="r", allow_pickle=False))


class _Work:
    """Encodes the blocks of a corpus."""

    def __init__(
        self,
        corpus: Corpus,
        encode: Encode,
        progress: bool,
        processes: Processes | None,
        dtype: np.dtype[Any],
    ):
        self.dtype = dtype
        self.corpus, self.encode, self.processes = corpus, encode, processes
        self.progress = progress and is_main_process(processes)

    def starts(self, done: Sequence[int]) -> list[int]:
        """Return the starts of the blocks that are not done yet."""
        return sorted(set(range(0, len(self.corpus), _PASSAGES_PER_BLOCK)) - set(done))

    def blocks(self, starts: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield the vectors of blocks, in their order."""
        _, count = process_rank(self.processes)
        # The progress of this process represents that of the others.
        done = len(self.corpus) - min(len(self.corpus), len(starts) * count * _PASSAGES_PER_BLOCK)
        with (
            tqdm(
                total=len(self.corpus),
                initial=done,
                desc="Encoding passages",
                unit=" passages",
                disable=not self.progress,
            ) as bar,
            kept_moving(bar),
        ):

            def encoded(passages: int) -> None:
                bar.update(min(passages * count, len(self.corpus) - bar.n))

            for start in starts:
                positions = list(range(start, min(start + _PASSAGES_PER_BLOCK, len(self.corpus))))
                computed = self.encode(positions, encoded)
                finite = np.isfinite(computed).all(axis=1)
                if not finite.all():
                    passage_id = self.corpus.ids[positions[int(np.argmin(finite))]]
                    raise DGRArithmeticError(
                        f"The vector of passage {passage_id!r} contains numbers that are not finite. The weights "
                        "of the model may be damaged, or its precision too low: try dtype='float32'."
                    )
                with np.errstate(over="ignore"):
                    vectors = computed.astype(self.dtype, copy=False)
                fits = np.isfinite(vectors).all(axis=1)
                if not fits.all():
                    row = int(np.argmin(fits))
                    raise DGRArithmeticError(
                        f"The vector of passage {self.corpus.ids[positions[row]]!r} contains "
                        f"{np.abs(computed[row]).max():.3g}, which {self.dtype} cannot hold. Keep the vectors as "
                        "float32: vectors_dtype='float32'."
                    )
                yield vectors


def _prepare(path: Path, description: Mapping[str, object], shape: tuple[int, int], work: _Work) -> None:
    """Merge the progress of earlier processes, and allocate the file of the vectors, in the first process."""
    if not is_main_process(work.processes):
        return
    path.mkdir(parents=True, exist_ok=True)
    for left in path.glob(".*.json.*.tmp"):
        left.unlink()  # A killed process was writing its report.
    reports = _reports(path, description)
    done = {start for report in reports.values() for start in report["blocks"]}
    if reports and not (path / _PARTIAL).is_file() and (path / _VECTORS).is_file():
        os.replace(path / _VECTORS, path / _PARTIAL)  # The last step was interrupted.
    if not reports or not (path / _PARTIAL).is_file():
        done = set()
        np.lib.format.open_memmap(path / _PARTIAL, mode="w+", dtype=work.dtype, shape=shape)
    _write(path / _PROGRESS, {**_with_block_size(description), "blocks": sorted(done)})
    for report in reports:
        if report.name != _PROGRESS:
            report.unlink()


def _compute(path: Path, description: Mapping[str, object], shape: tuple[int, int], work: _Work) -> None:
    index, count = process_rank(work.processes)
    if not (path / _PROGRESS).is_file():
        raise FileNotFoundError(
            f"Process {index} of {count} does not see {path / _PROGRESS}, which the first process has written. Give a "
            "folder on a disk that all processes share."
        )
    share = work.starts(_check(path / _PROGRESS, _with_block_size(description))["blocks"])[index::count]
    finished = []
    with open(path / _PARTIAL, "r+b") as file:
        header = os.fstat(file.fileno()).st_size - shape[0] * shape[1] * work.dtype.itemsize
        for start, vectors in zip(share, work.blocks(share), strict=True):
            # Not memory-mapped: on a network disk, several machines cannot share a page.
            file.seek(header + start * shape[1] * work.dtype.itemsize)
            file.write(np.ascontiguousarray(vectors).data)
            file.flush()
            os.fsync(file.fileno())  # The vectors have to be on the disk before the progress says so.
            finished.append(start)
            _write(
                path / f"{Path(_PROGRESS).stem}-{index}.json", {**_with_block_size(description), "blocks": finished}
            )
    wait(work.processes)
    if is_main_process(work.processes):
        os.replace(path / _PARTIAL, path / _VECTORS)
        _write(path / _MARKER, description)
        _delete_reports(path)
    wait(work.processes)


def _reports(path: Path, description: Mapping[str, object]) -> dict[Path, dict[str, Any]]:
    """What the processes of unfinished jobs have reported, after a check of their settings."""
    found: dict[Path, dict[str, Any]] = {}
    for report in sorted(path.glob(f"{Path(_PROGRESS).stem}*.json")):
        with suppress(FileNotFoundError):  # Another job has finished at this moment.
            found[report] = _check(report, _with_block_size(description))
    return found


def _delete_reports(path: Path) -> None:
    for report in path.glob(f"{Path(_PROGRESS).stem}*.json"):
        with suppress(OSError):
            report.unlink()


def _with_block_size(description: Mapping[str, object]) -> dict[str, object]:
    return {**description, "passages_per_block": _PASSAGES_PER_BLOCK}


def _write(path: Path, content: Mapping[str, object]) -> None:
    with atomic_write(path) as file:
        json.dump(dict(content), file, indent=2)


def _check(path: Path, description: Mapping[str, object]) -> dict[str, Any]:
    content: dict[str, Any] = {_DTYPE: VECTOR_DTYPES[0], **json.loads(path.read_text(encoding="utf-8"))}
    for name, value in description.items():
        if content.get(name) != value:
            raise DGRValueError(
                f"The vectors in {path.parent} were made with {name}={content.get(name)!r}, but now it is {value!r}. "
                "Give another folder, or delete this one."
            )
    return content


def stored_passage_vectors(folder: str | os.PathLike[str], corpus: Corpus) -> np.ndarray:
    """Open the vectors that a bi-encoder keeps in a folder, without its model.

    Args:
        folder (`str` or `os.PathLike`): The folder that was given as `vectors`.
        corpus (`Corpus`): The passages.

    Returns:
        `np.ndarray` of shape `(len(corpus), d)`, float32 or float16, memory-mapped and read-only.

    Raises:
        FileNotFoundError: if the folder holds no vectors, or they are not complete.
        ValueError: if they are of another corpus.
    """
    path = Path(folder)
    if not (path / _MARKER).is_file():
        unfinished = " Their computation was interrupted: run it again." if any(path.glob("partial*")) else ""
        raise FileNotFoundError(f"{path} holds no vectors of a bi-encoder: it has no {_MARKER}.{unfinished}")
    _check(path / _MARKER, {"corpus": corpus.fingerprint, "passages": len(corpus)})
    return cast(np.ndarray, np.load(path / _VECTORS, mmap_mode="r", allow_pickle=False))
