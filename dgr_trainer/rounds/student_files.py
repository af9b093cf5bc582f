"""The student of a round: its folder on the disk, and its weights put back into the model that is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dgr_trainer.errors import DGRValueError, input_errors
from dgr_trainer.files.atomic import atomic_folder
from dgr_trainer.retrieval.adapter_storage import ADAPTER_CONFIG, describe_adapters, save_adapters
from dgr_trainer.student.students import load_student_model
from dgr_trainer.student.weights import weights_digest


def save_student(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a model, or its adapters, and the tokenizer to a folder that `from_pretrained` loads.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]): The student, not wrapped.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Its tokenizer.
        folder (`pathlib.Path`): The folder, which appears only when it is complete.
    """
    adapters = describe_adapters(model)
    with atomic_folder(folder, marker="config.json" if adapters is None else ADAPTER_CONFIG) as written:
        if adapters is None:
            model.save_pretrained(written)
        else:
            save_adapters(model, written, adapters)
        tokenizer.save_pretrained(written)


def restore_student(model: Any, folder: Path, digest: str) -> None:
    """Give a model the weights that `save_student` wrote; the model object stays the same.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]): The student, changed in place.
        folder (`pathlib.Path`): The folder.
        digest (`str`): Digest of the weights that it has to have then.

    Raises:
        ValueError: if the folder cannot be read, or holds other weights.
    """
    with input_errors(f"The student in {folder} cannot be loaded", Exception):
        if (folder / ADAPTER_CONFIG).is_file():
            from peft import set_peft_model_state_dict
            from peft.utils import load_peft_weights

            adapters = describe_adapters(model)
            assert adapters is not None
            set_peft_model_state_dict(
                model, load_peft_weights(str(folder), device="cpu"), adapter_name=adapters["root"]
            )
        else:
            saved = load_student_model(folder, dtype=model.dtype)
            with torch.no_grad():
                model.load_state_dict(saved.state_dict())
    if weights_digest(model) != digest:
        raise DGRValueError(
            f"{folder} does not hold the student that its round saved: the files were changed or damaged. Delete the "
            "folders of this round and of all later ones; they are then trained again."
        )
