"""The vectors of a corpus: computed once, kept in a memory-mapped file, gone on with after an interruption."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from dgr_trainer.atomic import atomic_write
from dgr_trainer.corpus import Corpus

_MARKER = "vectors.json"
_VECTORS = "vectors.npy"
_PARTIAL = "partial.npy"
_PROGRESS = "partial.json"
_PASSAGES_A_BLOCK = 4096


def passage_vectors(
    corpus: Corpus,
    encode: Callable[[list[int]], np.ndarray],
    dimensions: int,
    settings: Mapping[str, object],
    folder: str | os.PathLike[str] | None,
    progress: bool,
) -> np.ndarray:
    """Compute the vectors of all passages, or find them in a folder.

    Args:
        corpus (`Corpus`): the passages.
        encode (`Callable`): vectors `(n, dimensions)` of the passages at n positions.
        dimensions (`int`): length of a vector.
        settings (`Mapping[str, object]`): what vectors depend on beside the passages, in JSON types.
        folder (`str` or `os.PathLike`, *optional*): where they are kept; without, in memory.
        progress (`bool`): whether to show progress.

    Returns:
        `np.ndarray` of shape `(len(corpus), dimensions)`, float32; memory-mapped and read-only if there is a folder.

    Raises:
        FloatingPointError: if a vector is not of finite numbers; names the passage.
        NotADirectoryError: if `folder` is a file.
        ValueError: if the folder holds vectors of another corpus or made otherwise.
    """
    if folder is None:
        vectors = np.empty((len(corpus), dimensions), dtype=np.float32)
        _fill(vectors, 0, corpus, encode, progress, lambda done: None)
        return vectors
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file, but vectors are kept in a folder. Give the path of a folder.")
    path.mkdir(parents=True, exist_ok=True)
    wanted = {"corpus": corpus.fingerprint, "passages": len(corpus), "dimensions": dimensions, **settings}
    if not (path / _MARKER).is_file():
        _compute(path, wanted, corpus, encode, dimensions, progress)
    _check(path / _MARKER, wanted)
    return np.load(path / _VECTORS, mmap_mode="r", allow_pickle=False)


def _compute(
    path: Path,
    wanted: Mapping[str, object],
    corpus: Corpus,
    encode: Callable[[list[int]], np.ndarray],
    dimensions: int,
    progress: bool,
) -> None:
    done = 0
    vectors: np.memmap
    if (path / _PROGRESS).is_file() and (path / _PARTIAL).is_file():
        done = _check(path / _PROGRESS, wanted)["done"]
        vectors = np.lib.format.open_memmap(path / _PARTIAL, mode="r+")
    else:
        vectors = np.lib.format.open_memmap(
            path / _PARTIAL, mode="w+", dtype=np.float32, shape=(len(corpus), dimensions)
        )

    def kept(count: int) -> None:
        vectors.flush()  # The vectors before the word that they are there.
        with atomic_write(path / _PROGRESS) as file:
            json.dump({**wanted, "done": count}, file)

    _fill(vectors, done, corpus, encode, progress, kept)
    os.replace(path / _PARTIAL, path / _VECTORS)
    with atomic_write(path / _MARKER) as file:
        json.dump(dict(wanted), file, indent=2)
    (path / _PROGRESS).unlink(missing_ok=True)


def _fill(
    vectors: np.ndarray,
    done: int,
    corpus: Corpus,
    encode: Callable[[list[int]], np.ndarray],
    progress: bool,
    kept: Callable[[int], None],
) -> None:
    with tqdm(total=len(corpus), initial=done, desc="Passage vectors", unit="passage", disable=not progress) as bar:
        for start in range(done, len(corpus), _PASSAGES_A_BLOCK):
            positions = list(range(start, min(start + _PASSAGES_A_BLOCK, len(corpus))))
            found = encode(positions)
            finite = np.isfinite(found).all(axis=1)
            if not finite.all():
                wrong = corpus.ids[positions[int(np.argmin(finite))]]
                raise FloatingPointError(
                    f"The vector of passage {wrong!r} holds numbers that are not finite. The model's weights may be "
                    "damaged, or its precision too narrow for it."
                )
            vectors[start : start + len(positions)] = found
            kept(start + len(positions))
            bar.update(len(positions))


def _check(path: Path, wanted: Mapping[str, object]) -> dict[str, int]:
    found = json.loads(path.read_text(encoding="utf-8"))
    changed = [name for name, value in wanted.items() if found.get(name) != value]
    if changed:
        name = changed[0]
        raise ValueError(
            f"The vectors in {path.parent} were made with {name}={found.get(name)!r}, but now it is {wanted[name]!r}. "
            "Give another folder, or delete this one."
        )
    return found
