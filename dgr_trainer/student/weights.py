"""Weights of a model: their alignment in memory, and a hash that identifies them."""

from __future__ import annotations

import hashlib
from itertools import chain
from typing import TypeVar

import torch
from tqdm.auto import tqdm

M = TypeVar("M", bound=torch.nn.Module)

_ALIGNMENT = 64  # bytes; the alignment of tensors that torch allocates on a CPU


def align_weights(model: M) -> M:
    """Copy weights that are not aligned, such as those mapped from a file, into aligned memory.

    On a CPU, the rounding of matrix products depends on the alignment of their operands. The alignment of weights in a
    mapped file depends on the length of its header, and transformers maps the file in a single process but copies
    the weights in launched ones: without this, the scores of the same model would differ in their last digits.

    Args:
        model (`torch.nn.Module`): The model, changed in place; tied weights stay tied.

    Returns:
        `torch.nn.Module`: the same model.
    """
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % _ALIGNMENT:
            tensor.data = tensor.data.clone()
    return model


def weights_digest(model: torch.nn.Module) -> str:
    """A hash of the names and values of all weights of a model.

    Args:
        model (`torch.nn.Module`): The model, on any device.

    Returns:
        `str`: 32 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    tensors = sorted(model.state_dict().items())
    total = sum(tensor.nbytes for _, tensor in tensors)
    with tqdm(total=total, desc="Hashing the weights", unit="B", unit_scale=True, delay=2, leave=False) as bar:
        for name, tensor in tensors:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy())
            bar.update(tensor.nbytes)
    return digest.hexdigest()
