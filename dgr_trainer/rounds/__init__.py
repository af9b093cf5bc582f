"""Training in rounds: each searches again with the student that the last one trained, and trains on what it finds."""

from dgr_trainer.rounds.distillation import distil_in_rounds
from dgr_trainer.rounds.generation import train_generation_in_rounds
from dgr_trainer.rounds.history import Round, RoundsResult

__all__ = ["Round", "RoundsResult", "distil_in_rounds", "train_generation_in_rounds"]
