"""A student as the search wants it: bare, in evaluation mode, and able to generate."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from transformers import PreTrainedModel

from dgr_trainer.errors import DGRValueError
from dgr_trainer.student.likelihoods import start_token_id


@contextmanager
def ready_to_generate(model: torch.nn.Module) -> Iterator[PreTrainedModel]:
    """A view of a model that says exactly what its weights say; the model itself is left as it was.

    Dropout and autocast are off inside.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]): An encoder-decoder model, wrapped or not.

    Raises:
        ValueError: for an adapter that works by prompts, and for a model that cannot generate.
    """
    model = extract_model_from_parallel(model, keep_fp32_wrapper=True, keep_torch_compile=False)
    base = model
    if hasattr(model, "get_base_model"):
        if model.active_peft_config.is_prompt_learning:  # type: ignore[union-attr]
            raise DGRValueError(
                f"The adapter is of type {model.active_peft_config.peft_type.value}, which "  # type: ignore[union-attr]
                "puts virtual tokens before the query; constrained decoding does not support it. Use LoRA or another "
                "adapter that changes the layers."
            )
        base = model.get_base_model()  # type: ignore[operator]
    if not getattr(getattr(base, "config", None), "is_encoder_decoder", False) or not hasattr(base, "generate"):
        raise DGRValueError(
            f"{type(base).__name__} is no encoder-decoder model that generates. Load the student with "
            "AutoModelForSeq2SeqLM."
        )
    # Shares every parameter and module; only attributes set on the copy are its own.
    plain: Any = copy.copy(base)
    if "_original_forward" in vars(plain):  # Accelerate's, around which it put autocast.
        plain.forward = plain._original_forward
    start_token_id(base)  # Raises if there is none.
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    plain.eval()
    try:
        with torch.no_grad(), torch.autocast(next(base.parameters()).device.type, enabled=False):
            yield plain
    finally:
        for module, training in modes:
            module.training = training
