"""Weights of a model: where they lie in memory, and a hash that tells them from others."""

from __future__ import annotations

import hashlib
from itertools import chain
from typing import TypeVar

import torch

M = TypeVar("M", bound=torch.nn.Module)

_ALIGNMENT = 64  # bytes; what torch gives its own tensors on a CPU


def align_weights(model: M) -> M:
    """Move weights that lie where a file was mapped to into memory that torch has laid out.

    The CPU's matrix products round by how their operands lie to the bounds of vector registers. Weights in a mapped
    file lie where the length of its header puts them, and transformers maps them in a process that is alone but
    copies them in launched ones: the same model then gives scores that differ in their last digits.

    Args:
        model (`torch.nn.Module`): Changed in place; tied weights stay tied.

    Returns:
        `torch.nn.Module`: the same model.
    """
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % _ALIGNMENT:
            tensor.data = tensor.data.clone()
    return model


def weights_digest(model: torch.nn.Module) -> str:
    """A hash of all weights of a model, by their names.

    Args:
        model (`torch.nn.Module`): On any device.

    Returns:
        `str`: 32 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
