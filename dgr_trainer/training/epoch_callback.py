"""A callback that tells the collator the epoch, so that every epoch samples other lists."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dgr_trainer.training.collator import DistillationCollator


class CollatorEpochCallback(TrainerCallback):
    """Sets the collator's epoch before the first batch of the epoch is made."""

    def __init__(self, collator: DistillationCollator) -> None:
        self._collator = collator
        self._epoch: int | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget the epochs of an earlier run."""
        self._epoch = None

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the epoch of the collator."""
        # A resumed run starts in the epoch of its checkpoint; `state.epoch` is fractional in the middle of an epoch.
        self._epoch = int(state.epoch or 0) if self._epoch is None else self._epoch + 1
        self._collator.set_epoch(self._epoch)
