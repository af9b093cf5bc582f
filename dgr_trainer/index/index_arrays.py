"""The arrays that one segment of an FM-index consists of, in memory and on disk."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from dgr_trainer.errors import DGRValueError

SAMPLE_RATE = 16
MAX_VOCAB_SIZE = 1 << 24


@dataclass(frozen=True)
class IndexArrays:
    """The arrays of one segment of an FM-index. All are read-only; those of a loaded index are mapped from files.

    A row is a row of the suffix array of the reversed text, so it is a position of the text. Rows are sorted
    by the tokens up to their position, read backwards to the separator before the passage.
    """

    blocks: np.ndarray  # uint64: bits of the wavelet matrix over the tokens that follow each row's position
    levels: np.ndarray  # int64 (levels, 8): see wavelet_matrix
    codes: np.ndarray  # uint64 (symbols): codes of the symbols, which are the token ids that occur
    symbols: np.ndarray  # int32 (symbols): their token ids
    symbol_of: np.ndarray  # int32 (vocab_size): the symbol of each token id, -1 if it does not occur
    symbol_rows: np.ndarray  # int64 (symbols + 1): first row of each symbol
    marks: np.ndarray  # uint64: bit vector of the rows whose position is stored
    samples: np.ndarray  # uint32 or uint64: these positions
    passage_starts: np.ndarray  # int64 (num_passages + 1): where each passage starts in the text
    first_rows: np.ndarray  # uint32 or uint64 (num_passages): the row of each passage's first token
    end_passages: np.ndarray  # uint32 or uint64 (num_passages): the passage of each row of the separator
    id_bytes: np.ndarray  # uint8: the passage ids in UTF-8, concatenated
    id_offsets: np.ndarray  # int64 (num_passages + 1): where each id starts
    id_order: np.ndarray  # int64 (num_passages): the passages in the order of their ids' bytes

    def __post_init__(self) -> None:
        # A kernel is compiled for each combination of argument types: one is enough if all arrays are read-only.
        for field in fields(self):
            array = np.ascontiguousarray(getattr(self, field.name))
            array.setflags(write=False)
            object.__setattr__(self, field.name, array)

    @property
    def num_rows(self) -> int:
        """Number of rows: one for each token, separators included."""
        return int(self.symbol_rows[-1])

    @property
    def num_passages(self) -> int:
        """Number of passages."""
        return len(self.first_rows)


def check_vocabulary(vocab_size: int, separator: int) -> None:
    """Raise a `ValueError` if no index can have this vocabulary."""
    if not 1 <= vocab_size <= MAX_VOCAB_SIZE:
        raise DGRValueError(
            f"vocab_size is {vocab_size}, but an index has 1 to {MAX_VOCAB_SIZE} token ids. Give len(tokenizer)."
        )
    if not 0 <= separator < vocab_size:
        raise DGRValueError(
            f"The separator is {separator}, which is outside the vocabulary (0 to {vocab_size - 1}). "
            "Give the tokenizer's end-of-sequence token id."
        )
