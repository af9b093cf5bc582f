"""Facts about a student that scoring and search need: its start token, its embeddings, what its decoder supports."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import nn
from transformers import PreTrainedModel

from dgr_trainer.errors import DGRValueError
from dgr_trainer.student.decoder_rows import position_modules


def underlying_model(model: nn.Module) -> Any:
    """The transformers model inside wrappers for distributed training, compilation and adapters."""
    base: Any = model
    while isinstance(base, nn.DataParallel | nn.parallel.DistributedDataParallel):
        base = base.module
    if not _is_unwrapped(base):  # To look for wrappers goes through all modules, and every step asks several times.
        base = extract_model_from_parallel(base, keep_fp32_wrapper=True, keep_torch_compile=False)
    return base.get_base_model() if hasattr(base, "get_base_model") else base


def _is_unwrapped(model: nn.Module) -> bool:
    """Whether a model is one of transformers or peft, and not a copy of it with compiled parts."""
    is_model = isinstance(model, PreTrainedModel) or hasattr(type(model), "get_base_model")
    return is_model and "_orig_mod" not in vars(model)


def embedding_rows(model: nn.Module) -> int:
    """Number of token ids that a model has embeddings for."""
    return int(innermost_module(underlying_model(model).get_input_embeddings()).num_embeddings)


def innermost_module(module: nn.Module) -> Any:
    """The module of the model that peft has wrapped, perhaps several times, with adapters or a trained copy."""
    while True:
        inside = (getattr(module, name, None) for name in ("base_layer", "original_module", "token_adapter"))
        wrapped = next((inner for inner in inside if isinstance(inner, nn.Module)), None)
        if wrapped is None:
            return module
        module = wrapped


def model_device(model: nn.Module) -> torch.device:
    """The device of a model's inputs; that of a model with offloaded weights is the one that its hooks name."""
    base = underlying_model(model)
    devices = (parameter.device for parameter in base.parameters() if not parameter.is_meta)
    device: torch.device | None = next(devices, None)
    if device is not None:
        return device
    hook = next((vars(module)["_hf_hook"] for module in base.modules() if "_hf_hook" in vars(module)), None)
    execution_device = getattr(hook, "execution_device", None)
    return torch.device("cpu" if execution_device is None else execution_device)


def start_token_id(model: nn.Module) -> int:
    """The id of the token that the decoder starts with.

    Raises:
        ValueError: if the model's configuration has none.
    """
    base = underlying_model(model)
    generation = getattr(base, "generation_config", None)
    for config in (base.config, generation):
        token = getattr(config, "decoder_start_token_id", None)
        if token is not None:
            return int(token[0] if isinstance(token, list) else token)
    raise DGRValueError(
        f"The configuration of {type(base).__name__} has no decoder_start_token_id, so the first input of its "
        "decoder is unknown. Set model.config.decoder_start_token_id (mBART: to the id of the language code)."
    )


def decoder_position_limit(model: nn.Module) -> int | None:
    """The longest sequence, in tokens, that a decoder with position embeddings takes; `None` if it has none."""
    base = underlying_model(model)
    limit = getattr(base.config, "max_position_embeddings", None)
    if getattr(base.get_decoder(), "embed_positions", None) is None or not isinstance(limit, int):
        return None
    return limit


def packing_obstacle(model: nn.Module) -> str | None:
    """Why a model's decoder cannot score several identifiers in one row; `None` if nothing speaks against it.

    Positions of tokens can be set if its position embeddings take `position_ids` (BART, Pegasus, Marian, ...), or its
    positions are rotary or a bias in its attention (T5). Experts with a capacity drop tokens of long rows.
    """
    base = underlying_model(model)
    name = type(base).__name__
    if position_modules(base.get_decoder()) is None:
        return f"The decoder of {name} cannot restart its positions inside a row"
    if getattr(base.config, "expert_capacity", None):
        return f"The experts of {name} drop tokens of rows that are longer than their capacity"
    return None


def packing_attention(model: nn.Module) -> str:
    """The attention implementation of a model's decoder, which decides the form of its masks.

    Raises:
        ValueError: if it does not support masks for several identifiers in one row.
    """
    base = underlying_model(model)
    decoder_attention = getattr(base.get_decoder().config, "_attn_implementation", None)
    attention = str(decoder_attention or base.config._attn_implementation)
    if attention not in ("sdpa", "eager"):
        raise DGRValueError(
            f"The model uses attn_implementation={attention!r}, which does not support the mask for several "
            "identifiers in one row. Load it with attn_implementation='sdpa'."
        )
    return attention
