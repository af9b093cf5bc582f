"""Epochs: telling the collator which one it is, so that every epoch draws other lists."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dgr_trainer.training.collator import DistillationCollator


class EpochOfCollator(TrainerCallback):
    """Tells the collator which epoch it is before the epoch's first batch is made."""

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
        """Hand the epoch to the collator."""
        # A resumed run begins in the epoch of its checkpoint; its `state.epoch` has a fraction in mid-epoch.
        self._epoch = int(state.epoch or 0) if self._epoch is None else self._epoch + 1
        self._collator.set_epoch(self._epoch)
