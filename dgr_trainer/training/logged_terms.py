"""Averages of the loss terms between two logs, kept on the device until they are logged."""

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor


class LoggedTerms:
    """Running averages of named values. Adding does not synchronise; reading reduces over all processes once.

    Args:
        names (`Sequence[str]`): Every name that may be added, the same in all processes.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor) -> None:
        """Add values of any shape; NaN values are left out."""
        values = values.detach().float()
        present = ~values.isnan()
        total, count = values.nansum(), present.sum()
        if name in self._sums:
            total, count = total + self._sums[name], count + self._counts[name]
        self._sums[name], self._counts[name] = total, count

    def clear(self) -> None:
        """Forget all values."""
        self._sums, self._counts = {}, {}

    def averages(self, accelerator: Accelerator) -> dict[str, float]:
        """The averages since the last call, over all processes. Every process must call this.

        Names without values in any process are left out.
        """
        zero = torch.zeros((), device=accelerator.device)
        totals = torch.stack(
            [self._sums.get(name, zero).to(accelerator.device, torch.float32) for name in self._names]
            + [self._counts.get(name, zero).to(accelerator.device, torch.float32) for name in self._names]
        )
        if accelerator.num_processes > 1:
            totals = accelerator.reduce(totals, reduction="sum")
        sums, counts = totals.view(2, -1).tolist()
        self.clear()
        return {name: total / count for name, total, count in zip(self._names, sums, counts, strict=True) if count > 0}
