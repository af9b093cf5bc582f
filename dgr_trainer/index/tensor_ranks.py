"""How often a token occurs before a row, and which token is at a row, by torch operations on flat tensors.

There are two ways, with the same answers. `WaveletRanks` is the wavelet matrix: about 2 bytes a token, and a few
operations for each of its levels, which are as many as the longest code has bits. `SortedRanks` has the rows of each
token in one sorted tensor, and the token of each row: 12 bytes a token, and one binary search. All segments lie in the
same tensors; nothing loops over patterns, and nothing waits for the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dgr_trainer.index.index_arrays import IndexArrays
from dgr_trainer.index.tensor_bits import TensorBits
from dgr_trainer.index.wavelet_matrix import FIRST_BLOCK, FIRST_ROW, SIZE, ZEROS

# Rows that are read together when the sorted tensor is made.
_ROWS_AT_ONCE = 1 << 22


class Ranks(Protocol):
    """Answers about the rows of all segments."""

    def extended(self, ranges: Tensor, tokens: Tensor) -> Tensor:
        """Ranges extended by tokens that occur; what it gives for others means nothing.

        Args:
            ranges (`torch.Tensor` of int64, shape `(..., segments, 2)`): The ranges.
            tokens (`torch.Tensor` of int64, shape `(...)`): Token ids, or the size of the vocabulary for none.
        """
        ...

    def tokens_at(self, segments: Tensor, rows: Tensor) -> Tensor:
        """The token that follows each row (int64), given its segment; both of one shape."""
        ...

    @property
    def num_bytes(self) -> int:
        """Size on the device."""
        ...


class _Symbols:
    """The symbols of all segments, numbered through, and where their rows start, with all rows numbered through."""

    def __init__(self, arrays: Sequence[IndexArrays], device: torch.device) -> None:
        rows = np.cumsum([0, *(one.num_rows for one in arrays)])
        self.row_bases = _on(rows[:-1], device)
        self.rows = _on(
            np.concatenate([one.symbol_rows[:-1] + r for one, r in zip(arrays, rows, strict=False)]), device
        )
        self.tokens = _on(np.concatenate([one.symbols for one in arrays]).astype(np.int32), device)

    def numbers(self, segments: Tensor, rows: Tensor) -> Tensor:
        """The symbol whose rows, in the sequence sorted by symbol, include each of some rows."""
        return torch.searchsorted(self.rows, self.row_bases[segments] + rows, right=True) - 1


class WaveletRanks:
    """The wavelet matrices of all segments.

    Args:
        arrays (`Sequence[IndexArrays]`): The arrays of the segments.
        device (`torch.device`): Where the tensors are.
    """

    def __init__(self, arrays: Sequence[IndexArrays], device: torch.device) -> None:
        self.num_levels = max(len(one.levels) for one in arrays) - 1
        self._bits = TensorBits(
            [one.blocks for one in arrays],
            [one.levels[one.levels[:, SIZE] > 0, FIRST_BLOCK] for one in arrays],
            device,
        )
        table = np.zeros((4, len(arrays), self.num_levels + 1), np.int64)
        for number, (one, first_words) in enumerate(zip(arrays, self._bits.first_words, strict=True)):
            table[0, number, : len(first_words)] = first_words
            for row, column in ((1, ZEROS), (2, SIZE)):
                table[row, number, : len(one.levels)] = one.levels[:, column]
            table[3, number, : len(one.levels)] = one.levels[:, FIRST_ROW] - one.levels[:, SIZE]
        self._first_words, self._zeros, self._sizes, self._shifts = _on(table, device)
        codes = np.zeros((2, len(arrays[0].symbol_of) + 1, len(arrays)), np.int64)
        for number, one in enumerate(arrays):
            present = np.flatnonzero(one.symbol_of >= 0)
            of_tokens = one.codes[one.symbol_of[present]]
            codes[0, present, number] = of_tokens.view(np.int64)
            codes[1, present, number] = [int(code).bit_length() - 1 for code in of_tokens.tolist()]
        self._codes, self._lengths = _on(codes, device)
        self._symbols = _Symbols(arrays, device)
        self._numbers = torch.arange(len(arrays), device=device)

    @property
    def num_bytes(self) -> int:
        """See [`Ranks`]."""
        tensors: list[Tensor] = [self._codes, self._lengths, self._symbols.rows, self._symbols.tokens]
        return self._bits.num_bytes + sum(tensor.nbytes for tensor in tensors)

    def extended(self, ranges: Tensor, tokens: Tensor) -> Tensor:
        """See [`Ranks`]."""
        codes, lengths = (table[tokens][..., None] for table in (self._codes, self._lengths))
        positions = ranges
        for level in range(self.num_levels):
            ones, _ = self._bits.ranks(self._first_words[:, level, None], positions)
            is_one = ((codes >> level) & 1).bool()
            below = torch.where(is_one, self._zeros[:, level, None] + ones, positions - ones)
            positions = torch.where(lengths > level, below, positions)
        shifts: Tensor = self._shifts[self._numbers, lengths[..., 0]]
        return positions + shifts[..., None]

    def tokens_at(self, segments: Tensor, rows: Tensor) -> Tensor:
        """See [`Ranks`]."""
        return self._symbols.tokens[self._symbols.numbers(segments, self.sorted_rows(segments, rows))].long()

    def sorted_rows(self, segments: Tensor, rows: Tensor) -> Tensor:
        """Where each row's token is in the sequence sorted by symbol: the row that extends it by the token."""
        positions, found = rows, torch.zeros_like(rows)
        is_open = torch.ones_like(rows, dtype=torch.bool)
        for level in range(self.num_levels + 1):
            ends = is_open & (positions >= self._sizes[segments, level])
            found = torch.where(ends, positions + self._shifts[segments, level], found)
            is_open = is_open & ~ends
            if level < self.num_levels:
                ones, bits = self._bits.ranks(self._first_words[segments, level], positions)
                below = torch.where(bits.bool(), self._zeros[segments, level] + ones, positions - ones)
                positions = torch.where(is_open, below, positions)
        return found

    def symbols_at(self, segments: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The number of each row's symbol among those of all segments, and its place in the sorted sequence."""
        places = self.sorted_rows(segments, rows)
        return self._symbols.numbers(segments, places), places + self._symbols.row_bases[segments]


class SortedRanks:
    """The rows of every symbol in one sorted tensor of `symbol * stride + row`, in which a binary search counts.

    Args:
        arrays (`Sequence[IndexArrays]`): The arrays of the segments.
        device (`torch.device`): Where the tensors are.
    """

    def __init__(self, arrays: Sequence[IndexArrays], device: torch.device) -> None:
        self._symbols = _Symbols(arrays, device)
        self._stride = max(one.num_rows for one in arrays) + 1
        total = sum(one.num_rows for one in arrays)
        self._keys = torch.empty(total, dtype=torch.int64, device=device)
        self._tokens = torch.empty(total, dtype=torch.int32, device=device)
        firsts = np.cumsum([0, *(len(one.symbols) for one in arrays)])
        base = 0
        for one, symbols in zip(arrays, firsts.tolist(), strict=False):
            matrix = WaveletRanks([one], device)
            for begin in range(0, one.num_rows, _ROWS_AT_ONCE):
                rows = torch.arange(begin, min(begin + _ROWS_AT_ONCE, one.num_rows), device=device)
                numbers, places = matrix.symbols_at(torch.zeros_like(rows), rows)
                self._keys[places + base] = (numbers + symbols) * self._stride + rows
                self._tokens[rows + base] = self._symbols.tokens[numbers + symbols]
            base += one.num_rows
        symbol_of = np.zeros((len(arrays[0].symbol_of) + 1, len(arrays)), np.int64)
        for number, one in enumerate(arrays):
            symbol_of[:-1, number] = np.where(one.symbol_of >= 0, one.symbol_of + firsts[number], 0)
        self._symbol_of = _on(symbol_of, device)

    @property
    def num_bytes(self) -> int:
        """See [`Ranks`]."""
        return self._keys.nbytes + self._tokens.nbytes + self._symbol_of.nbytes

    def extended(self, ranges: Tensor, tokens: Tensor) -> Tensor:
        """See [`Ranks`]."""
        keys = self._symbol_of[tokens][..., None] * self._stride + ranges
        return torch.searchsorted(self._keys, keys) - self._symbols.row_bases[:, None]

    def tokens_at(self, segments: Tensor, rows: Tensor) -> Tensor:
        """See [`Ranks`]."""
        return self._tokens[(self._symbols.row_bases[segments] + rows).clamp(max=len(self._tokens) - 1)].long()


def _on(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)
