"""A callback that tells the trainer the epoch, so that every epoch samples other lists."""

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class EpochCallback(TrainerCallback):
    """Tells the epoch before its first batch is made.

    Args:
        set_epoch (`Callable[[int], None]`): Called with the number of the epoch, from 0.
    """

    def __init__(self, set_epoch: Callable[[int], None]) -> None:
        self._set_epoch = set_epoch
        self._epoch: int | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget the epochs of an earlier run."""
        self._epoch = None

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the epoch."""
        # A resumed run starts in the epoch of its checkpoint; `state.epoch` is fractional in the middle of an epoch.
        self._epoch = int(state.epoch or 0) if self._epoch is None else self._epoch + 1
        self._set_epoch(self._epoch)
