"""Batches of texts of similar length, with a budget of tokens."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dgr_trainer.errors import DGRValueError

CPU_TOKENS = 2048
"""Larger batches do not fit the CPU's caches: see benchmarks/teacher.py --batch_tokens."""
ACCELERATOR_TOKENS = 16384
BATCH_TOKENS_HELP = f"Tokens per batch, padding included; by default {CPU_TOKENS} on a CPU, else {ACCELERATOR_TOKENS}."


def check_batch_tokens(batch_tokens: int | None) -> None:
    """Raise a `ValueError` if the budget of a batch is less than a token."""
    if batch_tokens is not None and batch_tokens < 1:
        raise DGRValueError(f"batch_tokens is {batch_tokens}, but a batch has at least 1 token.")


def default_batch_tokens(device_type: str) -> int:
    """The budget of a batch on this type of device, such as `"cpu"`."""
    return CPU_TOKENS if device_type == "cpu" else ACCELERATOR_TOKENS


def plan_batches(lengths: np.ndarray, batch_tokens: int, batch_size: int | None = None) -> Iterator[np.ndarray]:
    """Group inputs of similar length, so that little is padded.

    Args:
        lengths (`np.ndarray` of shape `(n,)`, int64): Number of tokens of each input.
        batch_tokens (`int`): Maximum number of tokens of a batch, padding included. A longer input is a batch alone.
        batch_size (`int`, *optional*): Maximum number of inputs of a batch.

    Yields:
        `np.ndarray`, int64: Positions of the inputs of a batch. The longest inputs come first, so that a lack of
        memory shows at once.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, int(lengths[order[start]])))
        size = size if batch_size is None else min(size, batch_size)
        yield order[start : start + size]
        start += size
