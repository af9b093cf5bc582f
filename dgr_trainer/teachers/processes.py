"""The processes that score together: those of `accelerate launch` or `torchrun`, or this one alone."""

from __future__ import annotations

import os
from typing import Any

import numpy as np


class Processes:
    """The processes that were launched together.

    Attributes:
        count (`int`): how many there are.
        index (`int`): which one this is.
        device (`torch.device`): where this one computes, unless it is told otherwise.
    """

    def __init__(self) -> None:
        import torch

        self._state: Any = None
        self.count, self.index = 1, 0
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            self._state = PartialState(cpu=not torch.accelerator.is_available())
            self.count, self.index = self._state.num_processes, self._state.process_index
            self.device = self._state.device
        else:
            found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
            self.device = torch.device("cpu") if found is None else found

    @property
    def is_main(self) -> bool:
        """`bool`: whether this is the first process."""
        return self.index == 0

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self._state is not None:
            self._state.wait_for_everyone()

    def combined(self, values: np.ndarray) -> np.ndarray:
        """Put together what each process has found.

        Args:
            values (`np.ndarray` of shape `(n,)`, float64): NaN where this process found nothing.

        Returns:
            `np.ndarray` of shape `(n,)`, float64: for each place, what the first process that has a value found.
        """
        if self._state is None:
            return values
        from accelerate.utils import gather_object

        # Only what this process has goes round.
        own = np.flatnonzero(~np.isnan(values))
        merged = values.copy()
        for places, found in gather_object([(own, values[own])]):
            empty = np.isnan(merged[places])
            merged[places[empty]] = found[empty]
        return merged
