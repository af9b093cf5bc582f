"""Bit vectors as flat tensors on any device: ranks by torch operations alone, for many positions at once.

The bits are those of `bit_vector`, without the headers of its blocks: words of 64 bits, and for each word the number
of ones before it in its vector. All vectors lie one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dgr_trainer.index.bit_vector import BLOCK_WORDS

WORDS_OF_BLOCK = BLOCK_WORDS - 1
# Blocks that are copied to the device together.
_BLOCKS_AT_ONCE = 1 << 20


def population_counts(words: Tensor) -> Tensor:
    """The number of ones of each word (int64). Shifts keep the sign, so each is followed by a mask."""
    words = words - ((words >> 1) & 0x5555555555555555)
    words = (words & 0x3333333333333333) + ((words >> 2) & 0x3333333333333333)
    words = (words + (words >> 4)) & 0x0F0F0F0F0F0F0F0F
    return (words * 0x0101010101010101) >> 56


class TensorBits:
    """Bit vectors on a device.

    Args:
        blocks (`Sequence[np.ndarray]` of uint64): Arrays of blocks, as `bit_vector` has them.
        starts (`Sequence[np.ndarray]` of int64): For each array, the blocks at which its vectors start, ascending.
        device (`torch.device`): Where the tensors are.

    Attributes:
        first_words (`list[np.ndarray]`): For each array, where its vectors start in the words.
    """

    def __init__(self, blocks: Sequence[np.ndarray], starts: Sequence[np.ndarray], device: torch.device) -> None:
        sizes = [len(array) // BLOCK_WORDS * WORDS_OF_BLOCK for array in blocks]
        offsets = np.cumsum([0, *sizes])
        # One more word, so that there is one where all vectors are empty.
        self._words = torch.zeros(int(offsets[-1]) + 1, dtype=torch.int64, device=device)
        for array, offset in zip(blocks, offsets.tolist(), strict=False):
            rows = array.reshape(-1, BLOCK_WORDS)
            for begin in range(0, len(rows), _BLOCKS_AT_ONCE):
                part = np.array(rows[begin : begin + _BLOCKS_AT_ONCE, 1:]).reshape(-1).view(np.int64)
                first = offset + begin * WORDS_OF_BLOCK
                self._words[first : first + len(part)] = torch.from_numpy(part).to(device)
        self.first_words = [
            offset + np.asarray(of_array, np.int64) * WORDS_OF_BLOCK
            for offset, of_array in zip(offsets.tolist(), starts, strict=False)
        ]
        bounds = np.append(np.concatenate(self.first_words), offsets[-1])
        longest = int(np.diff(bounds).max(initial=0)) * 64
        dtype = torch.int32 if longest < 1 << 31 else torch.int64
        self._ones_before = torch.zeros(len(self._words), dtype=dtype, device=device)
        for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            ones = population_counts(self._words[begin:end])
            self._ones_before[begin:end] = ones.cumsum(0) - ones

    @property
    def num_bytes(self) -> int:
        """Size on the device."""
        return self._words.nbytes + self._ones_before.nbytes

    def ranks(self, first_words: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Ones before positions of vectors, and the bits at the positions.

        Args:
            first_words (`torch.Tensor` of int64): Where the vectors start, broadcast against the positions.
            positions (`torch.Tensor` of int64): Positions; the answers for those beyond a vector mean nothing.
        """
        places = (first_words + (positions >> 6)).clamp(max=len(self._words) - 1)
        words, offsets = self._words[places], positions & 63
        below = ~torch.bitwise_left_shift(torch.full_like(offsets, -1), offsets)
        return self._ones_before[places] + population_counts(words & below), (words >> offsets) & 1
