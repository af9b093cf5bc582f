"""Vectors of passages, however they are kept: an array, a NumPy file, or what a bi-encoder has encoded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from tqdm.auto import tqdm

from dgr_trainer.data.ids import as_id
from dgr_trainer.errors import DGRTypeError, DGRValueError, input_errors

if TYPE_CHECKING:
    from dgr_trainer.data.corpus import Corpus

BLOCK = 1 << 15
"""Vectors that are in memory at a time."""


class Encoder(Protocol):
    """What has the vectors of a corpus, such as [`BiEncoderTeacher`]."""

    corpus: Corpus

    @property
    def passage_vectors(self) -> np.ndarray:
        """The vectors, `(passages, d)`, in the order of the corpus."""
        ...


Vectors = np.ndarray | str | os.PathLike[str] | Encoder


def open_vectors(vectors: Vectors, passage_ids: Iterable[str] | None) -> tuple[np.ndarray, Sequence[str]]:
    """Open vectors and check that there is one for each passage id.

    Args:
        vectors ([`Vectors`]): An array `(n, d)`, the path of a `.npy` file, which is memory-mapped, or a bi-encoder.
        passage_ids (`Iterable[str]`, *optional*): The id of each row. By default those of the bi-encoder's corpus.

    Returns:
        `tuple[np.ndarray, Sequence[str]]`: the vectors, of the dtype that they have, and the ids.

    Raises:
        TypeError: if the vectors are of another type, or hold no floating-point numbers.
        ValueError: if the shapes, the number of ids, or the ids themselves cannot be used.
    """
    opened, where = _opened(vectors)
    if passage_ids is None:
        corpus = getattr(vectors, "corpus", None)
        if corpus is None:
            raise DGRValueError("passage_ids are missing: vectors of a file or an array need the id of each row.")
        passage_ids = corpus.ids
    if isinstance(passage_ids, str):
        raise DGRTypeError(f"passage_ids is the string {passage_ids!r}. Give a sequence of ids, one for each vector.")
    ids = [as_id(passage_id, "passage", f"row {row}") for row, passage_id in enumerate(passage_ids)]
    if opened.ndim != 2 or 0 in opened.shape:
        raise DGRValueError(
            f"{where} has the shape {opened.shape}, but vectors need the shape (passages, dimensions), one row for "
            "each passage."
        )
    if len(opened) != len(ids):
        raise DGRValueError(
            f"{where} has {len(opened)} rows, but there are {len(ids)} passage ids. Give one row for each passage, in "
            "the order of the ids."
        )
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(passage_id for passage_id in ids if passage_id in seen or seen.add(passage_id))  # type: ignore[func-returns-value]
        raise DGRValueError(f"The passage id {twice!r} occurs twice. Give each passage an id of its own.")
    return opened, ids


def _opened(vectors: Vectors) -> tuple[np.ndarray, str]:
    opened: Any
    if isinstance(vectors, (str, os.PathLike)):
        path, where = Path(vectors), f"The file {os.fspath(vectors)}"
        if not path.is_file():
            raise FileNotFoundError(f"There is no file of vectors at {path}. Give a .npy file that numpy.save wrote.")
        with input_errors(f"{path} is no .npy file of vectors", ValueError, EOFError):
            opened = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(opened, np.ndarray):
            raise DGRTypeError(f"{path} holds several arrays (.npz). Save the vectors alone with numpy.save.")
    elif isinstance(vectors, np.ndarray):
        opened, where = vectors, "The array of vectors"
    elif hasattr(vectors, "passage_vectors"):
        opened, where = vectors.passage_vectors, f"The vectors of {type(vectors).__name__}"
    else:
        raise DGRTypeError(
            f"vectors is a {type(vectors).__name__}. Give a NumPy array, the path of a .npy file, or a "
            "BiEncoderTeacher."
        )
    if opened.dtype.kind != "f":
        raise DGRTypeError(
            f"{where} has the dtype {opened.dtype}, but vectors are floating-point numbers: float16 or float32."
        )
    return opened, where


def rows_of(vectors: np.ndarray, positions: np.ndarray | slice) -> np.ndarray:
    """Some rows in float32, in memory of their own where they are not float32 already."""
    return np.ascontiguousarray(vectors[positions], dtype=np.float32)


def blocks(positions: np.ndarray) -> Iterator[np.ndarray]:
    """Positions in blocks whose vectors fit into memory."""
    for start in range(0, len(positions), BLOCK):
        yield positions[start : start + BLOCK]


def check_finite(vectors: np.ndarray, ids: Sequence[str], progress: bool = False) -> None:
    """Check all vectors, block by block.

    Args:
        vectors (`np.ndarray` of shape `(n, d)`): The vectors.
        ids (`Sequence[str]`): Their ids, for the error.
        progress (`bool`, *optional*, defaults to `False`): Whether to show a progress bar.

    Raises:
        ValueError: if a vector holds NaN or an infinity, or is too long for its length to be a float32.
    """
    starts = range(0, len(vectors), BLOCK)
    for start in tqdm(starts, desc="Checking vectors", unit=" blocks", disable=not progress, delay=2, leave=False):
        rows = rows_of(vectors, slice(start, start + BLOCK))
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(np.einsum("ij,ij->i", rows, rows))
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise DGRValueError(
                f"The vector of passage {ids[row]!r} (row {row}) holds NaN or infinity, or numbers whose squares are "
                "beyond float32. Encode the passage again, or leave it out."
            )
