"""The text of a small index in memory, from when it has been walked through as often as unpacking it takes.

A passage is read from an FM-index by a walk of one step for each token, and an occurrence is located by one of about
eight. That suits an index that is larger than the memory. A small one that is searched again and again is unpacked
once, by a walk through all its passages: into its tokens, and the position in the text of each suffix-array row.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np

from dgr_trainer.compilation import compiled
from dgr_trainer.index.index_arrays import IndexArrays
from dgr_trainer.index.interleaved_walks import passage_at, read_passages
from dgr_trainer.index.kernel_threads import in_parts

MOST_TOKENS = 1 << 24
"""Indexes of more tokens are not unpacked: at 8 bytes a token, this is 128 MiB."""


class UnpackedText(NamedTuple):
    """The tokens of a segment and where they are.

    Attributes:
        tokens (`np.ndarray` of int32, shape `(num_rows,)`): The text; the places of the separators are not written.
        positions (`np.ndarray` of int32, shape `(num_rows,)`): The position in the text of each suffix-array row.
    """

    tokens: np.ndarray
    positions: np.ndarray


class TextMemory:
    """Counts the steps of walks through a segment, and unpacks it when they are as many as its tokens.

    Then unpacking at most doubles the steps that were needed, whatever follows. Threads may share it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps = 0
        self._text: UnpackedText | None = None

    def __reduce__(self) -> tuple[type[TextMemory], tuple[()]]:
        return TextMemory, ()  # A copy of the segment, or one that is sent to another process, begins anew.

    def before(self, steps: int, arrays: IndexArrays, first_separator_row: int) -> UnpackedText | None:
        """The text if it is in memory, for walks of so many steps; `None` if these are to be walked.

        Args:
            steps (`int`): About how many steps the walks have.
            arrays ([`IndexArrays`]): The segment's arrays, the same ones in every call.
            first_separator_row (`int`): Its first suffix-array row of the separator.
        """
        with self._lock:
            if self._text is None:
                if self._steps < arrays.num_rows:
                    self._steps += steps
                    return None
                self._text = _unpacked(arrays, first_separator_row)
            return self._text


def _unpacked(arrays: IndexArrays, first_separator_row: int) -> UnpackedText:
    tokens, positions = np.empty(arrays.num_rows, np.int32), np.empty(arrays.num_rows, np.int32)
    index = (arrays.blocks, arrays.levels, arrays.symbols, arrays.symbol_rows, arrays.first_rows)
    starts = arrays.passage_starts
    sizes = np.diff(starts) - 1
    passages = np.arange(len(sizes))

    def part(start: int, stop: int) -> None:
        read_passages(*index, passages, starts[:-1], sizes, tokens, positions, start, stop)

    in_parts(part, len(sizes), int(sizes.sum()), sizes)
    ends = first_separator_row + np.arange(len(sizes))
    positions[ends] = starts[arrays.end_passages.astype(np.int64) + 1] - 1
    for array in (tokens, positions):
        array.setflags(write=False)
    return UnpackedText(tokens, positions)


@compiled
def locate_positions(
    positions: np.ndarray,
    passage_starts: np.ndarray,
    rows: np.ndarray,
    lengths: np.ndarray,
    passages: np.ndarray,
    offsets: np.ndarray,
) -> None:
    """Find where occurrences of patterns start, given their suffix-array rows and the patterns' lengths."""
    for item in range(len(rows)):
        position = np.int64(positions[rows[item]])
        passage = passage_at(passage_starts, position)
        passages[item] = passage
        offsets[item] = position - lengths[item] + 1 - passage_starts[passage]


@compiled
def copy_passages(
    text: np.ndarray,
    passage_starts: np.ndarray,
    passages: np.ndarray,
    starts: np.ndarray,
    sizes: np.ndarray,
    tokens: np.ndarray,
) -> None:
    """Copy the tokens of passages, without separators, to `tokens`, from the position in `starts` for each."""
    for item in range(len(passages)):
        first = passage_starts[passages[item]]
        for step in range(sizes[item]):
            tokens[starts[item] + step] = text[first + step]
