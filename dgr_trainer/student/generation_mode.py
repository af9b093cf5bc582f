"""A student in generation mode: without wrappers, in evaluation mode, in full precision, without gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from transformers import PreTrainedModel

from dgr_trainer.errors import DGRValueError
from dgr_trainer.student.model_facts import model_device
from dgr_trainer.student.private_copy import private_model
from dgr_trainer.student.students import student_of


@contextmanager
def generation_mode(model: torch.nn.Module) -> Iterator[PreTrainedModel]:
    """Give a model for generation whose outputs depend on its weights only: no dropout, autocast or gradients.

    The given model is not touched, so that other threads can use it meanwhile, unless it cannot be copied (see
    `private_copy`): then its modules are back in their modes on exit.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]): A student, wrapped or not.

    Yields:
        [`~transformers.PreTrainedModel`]: the model without wrappers and adapters around it; it shares the weights.

    Raises:
        ValueError: if the adapter adds virtual tokens to the prompt, or the model cannot generate.
    """
    model = extract_model_from_parallel(model, keep_fp32_wrapper=True, keep_torch_compile=False)
    base = model
    if hasattr(model, "get_base_model"):
        if model.active_peft_config.is_prompt_learning:  # type: ignore[union-attr]
            raise DGRValueError(
                f"The adapter is of type {model.active_peft_config.peft_type.value}, which "  # type: ignore[union-attr]
                "puts virtual tokens before the query; constrained decoding does not support that. Use LoRA or "
                "another adapter that changes the layers."
            )
        base = model.get_base_model()  # type: ignore[operator]
    _ = student_of(base).start_token_id  # Raises an error if there is none, or the model generates no text.
    with private_model(model) as private:
        plain: Any = private.get_base_model() if base is not model else private  # type: ignore[operator]
        patched = vars(plain).get("forward")
        modes = [(module, module.training) for module in private.modules()]
        try:
            if "_original_forward" in vars(plain):  # Accelerate has wrapped `forward` with autocast.
                plain.forward = plain._original_forward
            private.eval()
            with torch.no_grad(), torch.autocast(model_device(plain).type, enabled=False):
                yield plain
        finally:
            if patched is not None:
                plain.forward = patched
            for module, training in modes:
                module.training = training
