"""An index on the device of a model: extends ranges and lists what follows them without waiting for the host.

Its answers are those of the compiled kernels (`query_dispatch`), whose ranges it shares. Tensors of the same arrays
are made once for each device, and freed with the arrays.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dgr_trainer.index.index_arrays import IndexArrays
from dgr_trainer.index.segment import Segment
from dgr_trainer.index.tensor_bits import TensorBits
from dgr_trainer.index.tensor_ranks import Ranks, SortedRanks, WaveletRanks

Layout = Literal["sorted", "wavelet"]
_RANKS: dict[str, type[SortedRanks] | type[WaveletRanks]] = {"sorted": SortedRanks, "wavelet": WaveletRanks}

MEMORY_SHARE = 0.25
"""An index takes at most this share of a device's memory, and at most half of what is free."""

_SORTED_BYTES = 12  # a token
_made: dict[tuple[object, ...], Ranks] = {}
_making = threading.Lock()


class TensorIndex:
    """The segments of an index on a device.

    Args:
        segments (`Sequence[Segment]`): The segments.
        device (`torch.device`): Where the tensors are.
        layout (`str`): `"sorted"` is faster, `"wavelet"` smaller.
    """

    def __init__(self, segments: Sequence[Segment], device: torch.device, layout: Layout) -> None:
        self.device, self.layout, self.num_segments = device, layout, len(segments)
        self.vocab_size = len(segments[0].arrays.symbol_of)
        self._ranks = _ranks([segment.arrays for segment in segments], device, layout)
        occurs = np.zeros((self.vocab_size + 1, len(segments)), np.bool_)
        for number, segment in enumerate(segments):
            occurs[:-1, number] = segment.arrays.symbol_of >= 0
        self._occurs = torch.from_numpy(occurs).to(device)
        self.has_removed = any(len(segment.removed.rows) for segment in segments)
        if self.has_removed:
            rows = [segment.removed.rows for segment in segments]
            self._removed = TensorBits(rows, [np.zeros(int(len(one) > 0), np.int64) for one in rows], device)
            firsts = [int(first[0]) if len(first) else 0 for first in self._removed.first_words]
            self._removed_words = torch.tensor(firsts, device=device)[:, None]
            self._removes = torch.tensor([len(one) > 0 for one in rows], device=device)

    @property
    def num_bytes(self) -> int:
        """Size on the device."""
        removed = self._removed.num_bytes if self.has_removed else 0
        return self._ranks.num_bytes + self._occurs.nbytes + removed

    def counts(self, ranges: Tensor) -> Tensor:
        """See [`FMIndex.counts`]."""
        return self._remaining(ranges).sum(-1)

    def _remaining(self, ranges: Tensor) -> Tensor:
        """Rows of each range that were not removed (shape `(..., segments)`)."""
        sizes = ranges[..., 1] - ranges[..., 0]
        if not self.has_removed:
            return sizes
        ones, _ = self._removed.ranks(self._removed_words, ranges)
        return sizes - torch.where(self._removes, ones[..., 1] - ones[..., 0], 0)

    def extend(self, ranges: Tensor, tokens: Tensor) -> Tensor:
        """Append a token to each of many patterns.

        Args:
            ranges (`torch.Tensor` of int64, shape `(..., segments, 2)`): The patterns' ranges.
            tokens (`torch.Tensor` of int64, shape `(...)`): Token ids, or `vocab_size` for a token that never occurs.

        Returns:
            `torch.Tensor` of int64, shape `(..., segments, 2)`: the new ranges, zeros where a pattern does not occur.
        """
        extended = self._ranks.extended(ranges, tokens)
        occurs = (ranges[..., 0] < ranges[..., 1]) & self._occurs[tokens]
        extended = torch.where(occurs[..., None], extended, 0)
        return torch.where((self._remaining(extended) > 0)[..., None], extended, 0)

    def following(self, ranges: Tensor, width: int) -> Tensor:
        """The tokens after the first rows of ranges, removed ones among them.

        Args:
            ranges (`torch.Tensor` of int64, shape `(n, segments, 2)`): The patterns' ranges.
            width (`int`): Number of rows of each pattern.

        Returns:
            `torch.Tensor` of int64, shape `(n, width)`: tokens, as often as they follow; `vocab_size` after the last.
        """
        sizes = ranges[..., 1] - ranges[..., 0]
        ends = sizes.cumsum(-1)
        places = torch.arange(width, device=ranges.device).expand(len(ranges), width)
        segments = (places[..., None] >= ends[:, None]).sum(-1)
        exists = segments < self.num_segments
        segments = segments.clamp(max=self.num_segments - 1)
        rows = (ranges[..., 0] - ends + sizes).gather(1, segments) + places
        tokens = self._ranks.tokens_at(segments, torch.where(exists, rows, 0))
        return torch.where(exists, tokens, self.vocab_size)


def fitting_layout(segments: Sequence[Segment], device: torch.device) -> Layout | None:
    """The fastest layout of an index that fits into its share of the device's memory; `None` if none does."""
    limit = _memory_limit(device)
    if limit is None:
        return "sorted"
    arrays = [segment.arrays for segment in segments]
    if all(_key(arrays, device, layout) not in _made for layout in _RANKS):
        matrix = sum(array.blocks.nbytes for array in arrays) * 3 // 2
        tokens = sum(array.num_rows for array in arrays)
        if _SORTED_BYTES * tokens + matrix <= limit:
            return "sorted"
        return "wavelet" if matrix <= limit else None
    return "sorted" if _key(arrays, device, "sorted") in _made else "wavelet"


def _memory_limit(device: torch.device) -> int | None:
    """Bytes that an index may take; `None` where memory is the host's."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return int(min(MEMORY_SHARE * total, free / 2))


def _key(arrays: Sequence[IndexArrays], device: torch.device, layout: str) -> tuple[object, ...]:
    return (*map(id, arrays), str(device), layout)


def _ranks(arrays: Sequence[IndexArrays], device: torch.device, layout: str) -> Ranks:
    key = _key(arrays, device, layout)
    with _making:
        if key not in _made:
            _made[key] = _RANKS[layout](arrays, device)
            for one in arrays:
                weakref.finalize(one, _made.pop, key, None)
        return _made[key]
