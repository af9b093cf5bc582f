"""Finds out by a forward pass which embeddings a model reads, and for which tokens training changes them.

Names do not tell: in BART and T5 the encoder, the decoder and the output projection have modules of their own with one
common weight, and an adapter may wrap a module that no forward pass calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from dgr_trainer.errors import input_errors
from dgr_trainer.student.model_facts import innermost_module, underlying_model
from dgr_trainer.student.students import student_of

_TOKENS_AT_ONCE = 4096


class TrainedRows(NamedTuple):
    """Where training changes what a model knows about each of some tokens.

    Args:
        encoder (`torch.BoolTensor` of shape `(n,)`, *optional*):
            Whether training changes the embedding that the encoder reads; `None` for a model without an encoder.
        decoder (`torch.BoolTensor` of shape `(n,)`): Whether training changes the embedding that the decoder reads.
        output (`torch.BoolTensor` of shape `(n,)`): Whether training changes the row of the output projection.
        anything (`bool`): Whether any trainable weight takes part in the forward pass.
    """

    encoder: Tensor | None
    decoder: Tensor
    output: Tensor
    anything: bool


def trained_rows(model: nn.Module, token_ids: Sequence[int]) -> TrainedRows:
    """Find out for which tokens training changes the embeddings and the output projection.

    The model runs once on a few of the tokens; neither its state nor that of the random numbers changes. A row counts
    if its derivative by any trainable weight is not 0.

    Args:
        model (`nn.Module`): A student, with or without adapters; its weights have to be in memory.
        token_ids (`Sequence[int]`): Ids of the tokens, at least one.

    Returns:
        [`TrainedRows`]: for each token, in their order.

    Raises:
        ValueError: if the forward pass fails.
    """
    base = underlying_model(model)
    trainable = [parameter for parameter in base.parameters() if parameter.requires_grad]
    ids = torch.tensor(token_ids, device=innermost_module(base.get_input_embeddings()).weight.device)
    inputs, looked_up = student_of(base).embedding_inputs(ids)
    devices = [ids.device] if ids.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad():
        with _Lookups() as lookups, input_errors(f"{type(base).__name__} fails on a few tokens", Exception):
            logits = base.forward(**inputs, use_cache=False)["logits"]
        projection = base.get_output_embeddings()
        weight = innermost_module(projection).weight
        states = torch.randn(1, weight.shape[-1], dtype=logits.dtype, device=weight.device)
        return TrainedRows(
            encoder=lookups.trained(looked_up["encoder"], ids, trainable) if "encoder" in looked_up else None,
            decoder=lookups.trained(looked_up["decoder"], ids, trainable),
            output=_rows_that_change(projection(states)[0, ids.to(weight.device)].unsqueeze(-1), trainable),
            anything=bool(logits.requires_grad),
        )


class _Lookups(TorchFunctionMode):
    """Notes the calls of `torch.nn.functional.embedding` in this thread, without touching a module."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, Tensor, dict[str, Any]]] = []

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function is functional.embedding and len(args) >= 2:
            self.calls.append((args[0], args[1], kwargs))
        return function(*args, **kwargs)

    def trained(self, looked_up: Tensor, ids: Tensor, trainable: Sequence[Tensor]) -> Tensor:
        """Whether training changes what a call with the ids `looked_up` would return for each of `ids`."""
        trained = torch.zeros(len(ids), dtype=torch.bool)
        for call_ids, weight, kwargs in self.calls:
            if not torch.equal(call_ids.reshape(-1), looked_up.reshape(-1).to(call_ids)) or not weight.requires_grad:
                continue
            if weight.is_leaf:
                return torch.ones_like(trained)
            for start in range(0, len(ids), _TOKENS_AT_ONCE):
                rows = slice(start, start + _TOKENS_AT_ONCE)
                embeddings = functional.embedding(ids[rows].to(weight.device), weight, **kwargs)
                trained[rows] |= _rows_that_change(embeddings, trainable)
        return trained


def _rows_that_change(rows: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Which rows of `(n, d)` change if weights change in a random direction: the derivative of each in that direction.

    A gradient is linear in its cotangents, so the derivative by them along random tangents is the forward derivative.
    """
    unchanged = torch.zeros(len(rows), dtype=torch.bool)
    if not rows.requires_grad:
        return unchanged
    cotangents = torch.zeros_like(rows, requires_grad=True)
    gradients = torch.autograd.grad(rows, weights, cotangents, create_graph=True, allow_unused=True)
    depending = [gradient for gradient in gradients if gradient is not None and gradient.requires_grad]
    if not depending:
        return unchanged
    tangents = [torch.randn_like(gradient) for gradient in depending]
    (changes,) = torch.autograd.grad(depending, cotangents, tangents, allow_unused=True, retain_graph=True)
    return unchanged if changes is None else (changes != 0).any(-1).cpu()
