"""Tries a student before training, in the same way in all processes."""

from __future__ import annotations

from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn

from dgr_trainer.errors import DGRValueError
from dgr_trainer.student.probing import scoring_way, set_scoring_way


def try_student(model: nn.Module, *, pairs: bool) -> None:
    """Find out how a model scores identifiers.

    The main process tries it for all: others may not have its weights yet, and a sharded model has to be run in the
    same way everywhere.

    Args:
        model (`nn.Module`): The student.
        pairs (`bool`): Whether it is trained on pairs only, for which it is enough that it can be run.

    Raises:
        ValueError: if the model cannot be trained, see `scoring_way`; in all processes.
    """
    state = PartialState()
    if state.num_processes == 1:
        scoring_way(model, pairs=pairs)
        return
    outcome: list[Any] = [None, None]
    if state.is_main_process:
        try:
            outcome[0] = scoring_way(model, pairs=pairs)
        except DGRValueError as error:
            outcome[1] = str(error)
    way, refusal = broadcast_object_list(outcome)
    if refusal is not None:
        raise DGRValueError(refusal)
    set_scoring_way(model, way)
