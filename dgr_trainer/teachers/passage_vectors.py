"""The vectors of a corpus: computed once, kept in a memory-mapped file, gone on with after an interruption.

Passages are cut into blocks in the order of the corpus, whatever is done already and whoever computes. So vectors are
the same to the last bit however often the work was interrupted, and however many processes shared it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.errors import DGRArithmeticError, DGRValueError
from dgr_trainer.files.atomic import atomic_write
from dgr_trainer.processes import Processes, is_main_process, map_across_processes, process_rank, wait

_MARKER = "vectors.json"
_VECTORS = "vectors.npy"
_PARTIAL = "partial.npy"
_PROGRESS = "partial.json"  # Those of single processes are named partial-0.json and so on.
_PASSAGES_A_BLOCK = 4096
_FLOAT = np.dtype(np.float32)


def passage_vectors(
    corpus: Corpus,
    encode: Callable[[list[int]], np.ndarray],
    dimensions: int,
    settings: Mapping[str, object],
    folder: str | os.PathLike[str] | None,
    progress: bool,
    processes: Processes | None = None,
) -> np.ndarray:
    """Compute the vectors of all passages, or find them in a folder.

    Args:
        corpus (`Corpus`): the passages.
        encode (`Callable`): vectors `(n, dimensions)` of the passages at n positions.
        dimensions (`int`): length of a vector.
        settings (`Mapping[str, object]`): what vectors depend on beside the passages, in JSON types.
        folder (`str` or `os.PathLike`, *optional*): where they are kept; without, in memory.
        progress (`bool`): whether to show progress.
        processes ([`Processes`], *optional*): who takes part, each of which calls this; left out, this one alone. The
            folder has to be one and the same for all of them.

    Returns:
        `np.ndarray` of shape `(len(corpus), dimensions)`, float32; memory-mapped and read-only if there is a folder.

    Raises:
        FileNotFoundError: if a process does not see the folder of the first one.
        FloatingPointError: if a vector is not of finite numbers; names the passage.
        NotADirectoryError: if `folder` is a file.
        ValueError: if the folder holds vectors of another corpus or made otherwise.
    """
    work = _Work(corpus, encode, progress, processes)
    if folder is None:
        vectors = np.empty((len(corpus), dimensions), dtype=np.float32)
        starts = work.starts(())
        for start, found in zip(starts, map_across_processes(starts, work.blocks, processes), strict=True):
            vectors[start : start + len(found)] = found
        return vectors
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file, but vectors are kept in a folder. Give the path of a folder.")
    shape = (len(corpus), dimensions)
    wanted = {"corpus": corpus.fingerprint, "passages": shape[0], "dimensions": shape[1], **settings}
    if is_main_process(processes):
        path.mkdir(parents=True, exist_ok=True)
        if not (path / _MARKER).is_file():
            _prepare(path, wanted, shape)
    wait(processes)
    if not (path / _MARKER).is_file():
        _compute(path, wanted, shape, work)
    _check(path / _MARKER, wanted)
    return np.load(path / _VECTORS, mmap_mode="r", allow_pickle=False)


class _Work:
    """The blocks of a corpus, and the share of one process."""

    def __init__(
        self,
        corpus: Corpus,
        encode: Callable[[list[int]], np.ndarray],
        progress: bool,
        processes: Processes | None,
    ):
        self.corpus, self.encode, self.processes = corpus, encode, processes
        self.progress = progress and is_main_process(processes)

    def starts(self, done: Sequence[int]) -> list[int]:
        """Where the blocks begin that are not done yet."""
        return sorted(set(range(0, len(self.corpus), _PASSAGES_A_BLOCK)) - set(done))

    def blocks(self, starts: Sequence[int]) -> Iterator[np.ndarray]:
        """The vectors of some blocks, in their order."""
        _, count = process_rank(self.processes)
        # What the other processes do meanwhile is counted as done along with this one's.
        rest = len(self.corpus) - min(len(self.corpus), len(starts) * count * _PASSAGES_A_BLOCK)
        with tqdm(
            total=len(self.corpus), initial=rest, desc="Passage vectors", unit="passage", disable=not self.progress
        ) as bar:
            for start in starts:
                positions = list(range(start, min(start + _PASSAGES_A_BLOCK, len(self.corpus))))
                found = self.encode(positions)
                finite = np.isfinite(found).all(axis=1)
                if not finite.all():
                    wrong = self.corpus.ids[positions[int(np.argmin(finite))]]
                    raise DGRArithmeticError(
                        f"The vector of passage {wrong!r} holds numbers that are not finite. The model's weights may "
                        "be damaged, or its precision too narrow for it."
                    )
                yield found
                bar.update(min(len(positions) * count, len(self.corpus) - bar.n))


def _prepare(path: Path, wanted: Mapping[str, object], shape: tuple[int, int]) -> None:
    """Put together what earlier processes have written down, and make room for the vectors."""
    reports = sorted(path.glob(f"{Path(_PROGRESS).stem}*.json"))
    done = {start for report in reports for start in _check(report, _of_report(wanted))["blocks"]}
    if reports and not (path / _PARTIAL).is_file() and (path / _VECTORS).is_file():
        os.replace(path / _VECTORS, path / _PARTIAL)  # It was interrupted at its very end.
    if not (path / _PARTIAL).is_file():
        done = set()
        np.lib.format.open_memmap(path / _PARTIAL, mode="w+", dtype=np.float32, shape=shape)
    _write(path / _PROGRESS, {**_of_report(wanted), "blocks": sorted(done)})
    for report in reports:
        if report.name != _PROGRESS:
            report.unlink()


def _compute(path: Path, wanted: Mapping[str, object], shape: tuple[int, int], work: _Work) -> None:
    index, count = process_rank(work.processes)
    if not (path / _PROGRESS).is_file():
        raise FileNotFoundError(
            f"Process {index} of {count} does not find {path / _PROGRESS}, which the first one has written. Give a "
            "folder on a disk that all of them see."
        )
    own = work.starts(_check(path / _PROGRESS, _of_report(wanted))["blocks"])[index::count]
    finished = []
    with open(path / _PARTIAL, "r+b") as file:
        header = os.fstat(file.fileno()).st_size - shape[0] * shape[1] * _FLOAT.itemsize
        for start, found in zip(own, work.blocks(own), strict=True):
            # Not by memory-mapping: on a network's disk, several machines cannot share a page.
            file.seek(header + start * shape[1] * _FLOAT.itemsize)
            file.write(np.ascontiguousarray(found, dtype=_FLOAT).data)
            file.flush()
            os.fsync(file.fileno())  # The vectors before the word that they are there.
            finished.append(start)
            _write(path / f"{Path(_PROGRESS).stem}-{index}.json", {**_of_report(wanted), "blocks": finished})
    wait(work.processes)
    if is_main_process(work.processes):
        os.replace(path / _PARTIAL, path / _VECTORS)
        _write(path / _MARKER, wanted)
        for report in path.glob(f"{Path(_PROGRESS).stem}*.json"):
            report.unlink()
    wait(work.processes)


def _of_report(wanted: Mapping[str, object]) -> dict[str, object]:
    return {**wanted, "passages_a_block": _PASSAGES_A_BLOCK}


def _write(path: Path, content: Mapping[str, object]) -> None:
    with atomic_write(path) as file:
        json.dump(dict(content), file, indent=2)


def _check(path: Path, wanted: Mapping[str, object]) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    changed = [name for name, value in wanted.items() if found.get(name) != value]
    if changed:
        name = changed[0]
        raise DGRValueError(
            f"The vectors in {path.parent} were made with {name}={found.get(name)!r}, but now it is {wanted[name]!r}. "
            "Give another folder, or delete this one."
        )
    return found
