"""Hooks that set which prompt each decoder row reads, which positions its tokens have, and how many rows run at once.

Activations grow with the tokens of all rows, so a long list or a large batch goes through the decoder in pieces of a
few rows. The last piece keeps its activations until the backward pass. Of the other pieces only the last hidden states
are kept; the backward pass recomputes the rest, with the same dropout. Losses and gradients are those of all rows at
once, and the wrapped model still sees one forward and one backward pass.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch.utils.checkpoint import checkpoint

from dgr_trainer.student.private_copy import copy_if_possible, module_copy
from dgr_trainer.student.sharding import max_over_processes

_BY_ROW = ("input_ids", "attention_mask", "position_ids")
_BY_PROMPT = ("encoder_hidden_states", "encoder_attention_mask")


def row_pieces(tokens: Tensor, tokens_at_once: int | None, model: nn.Module) -> list[slice]:
    """Split the decoder rows into pieces that go through the decoder one after another.

    Args:
        tokens (`torch.LongTensor` of shape `(R, T)`): The rows.
        tokens_at_once (`int`, *optional*): Most tokens of a piece; a row is never split. By default there is one
            piece.
        model (`nn.Module`): The model. If it is sharded, each piece gathers its parameters from all processes, so all
            make equally many pieces: those that need fewer repeat their last row, whose results are not used.

    Returns:
        `list[slice]`: the rows of each piece, at least one.
    """
    rows, length = tokens.shape
    if tokens_at_once is None:
        return [slice(0, rows)]
    count = max_over_processes(-(-rows // max(1, tokens_at_once // length)), model)
    size = -(-rows // count)
    return [slice(min(start, rows - 1), min(start + size, rows)) for start in range(0, count * size, size)]


@contextmanager
def decoder_in_pieces(
    decoder: nn.Module,
    pieces: Sequence[slice],
    row_prompts: Tensor | None,
    positions: Tensor | None,
    *,
    copied: bool,
) -> Iterator[None]:
    """Make a decoder run its rows in pieces while the context is open.

    Args:
        decoder (`nn.Module`): The decoder.
        pieces (`Sequence[slice]`): Rows of each piece, in order; the last row may be repeated.
        row_prompts (`torch.LongTensor` of shape `(R,)`, *optional*): The prompt of each row. By default row r reads
            prompt r.
        positions (`torch.LongTensor` of shape `(R, T)`, *optional*): The position of each token. By default 0 to
            T - 1 in each row.
        copied (`bool`):
            Whether each piece runs on a copy of the decoder's modules that keeps its positions, for activation
            checkpointing.

    Yields:
        `None`: while the decoder runs in pieces.
    """
    forward = decoder.forward
    replaced = vars(decoder).get("forward")
    signature = inspect.signature(forward)
    # Copied before its forward is replaced.
    original = copy_if_possible(decoder, position_modules(decoder)) if copied and positions is not None else None

    def run(rows: slice, named: dict[str, Any]) -> Any:
        inputs = {name: _of_rows(named[name], rows) for name in _BY_ROW if named.get(name) is not None}
        prompts = rows if row_prompts is None else row_prompts[rows]
        inputs |= {name: named[name][prompts] for name in _BY_PROMPT if named.get(name) is not None}
        if positions is None:
            return forward(**{**named, **inputs})
        if original is None:
            with positions_replaced(decoder, positions[rows]):
                return forward(**{**named, **inputs})
        # Activation checkpointing runs layers again in the backward pass, when the modules must still use these
        # positions. The copy keeps them as long as it is needed.
        copy = module_copy(original, position_modules(original))
        replace_positions(copy, positions[rows])
        return copy.forward(**{**named, **inputs})

    def last_states(rows: slice, named: dict[str, Any]) -> Tensor:
        states: Tensor = run(rows, named)[0]
        return states

    def in_pieces(*args: Any, **kwargs: Any) -> Any:
        named = signature.bind_partial(*args).arguments | kwargs
        states = [
            checkpoint(last_states, rows, named, use_reentrant=False)
            if torch.is_grad_enabled()
            else last_states(rows, named)
            for rows in pieces[:-1]
        ]
        # The backward pass starts with the last piece, and has freed it before it recomputes another one.
        output = run(pieces[-1], named)
        states.append(output[0])
        whole = torch.cat(states)[: max(rows.stop for rows in pieces)]
        if isinstance(output, tuple):
            return (whole, *output[1:])
        output["last_hidden_state"] = whole
        return output

    decoder.forward = in_pieces
    try:
        yield
    finally:
        del decoder.forward
        if replaced is not None:
            decoder.forward = replaced


def _of_rows(values: Any, rows: slice) -> Any:
    """The rows of a tensor, or of each tensor in a dictionary: masks may differ by the type of layer."""
    return {key: value[rows] for key, value in values.items()} if isinstance(values, dict) else values[rows]


@contextmanager
def prompts_selected(decoder: nn.Module, row_prompts: Tensor) -> Iterator[None]:
    """Make row r of a decoder read the encoder's states of prompt `row_prompts[r]`, for all R rows."""
    signature = inspect.signature(decoder.forward)

    def before(_: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        named = signature.bind_partial(*args).arguments | kwargs
        return (), {**named, **{name: named[name][row_prompts] for name in _BY_PROMPT}}

    with hooks_installed(decoder.register_forward_pre_hook(before, with_kwargs=True)):
        yield


def position_modules(decoder: nn.Module) -> list[nn.Module] | None:
    """The modules of a decoder that determine the positions of its tokens; `None` if positions cannot be set."""
    module = getattr(decoder, "embed_positions", None) or getattr(decoder, "rotary_emb", None)
    if module is not None:
        return [module] if "position_ids" in inspect.signature(module.forward).parameters else None
    biased = [child for child in decoder.modules() if getattr(child, "relative_attention_bias", None) is not None]
    return biased if biased and all(hasattr(child, "compute_bias") for child in biased) else None


def computes_positions_again(decoder: nn.Module) -> bool:
    """Whether activation checkpointing computes positions again, in the backward pass, inside the layers.

    A relative bias is. They must still be there then: a copy of the decoder keeps them (see `decoder_in_pieces`).
    """
    checkpointed = any(getattr(module, "gradient_checkpointing", False) for module in decoder.modules())
    return checkpointed and any(hasattr(module, "compute_bias") for module in position_modules(decoder) or ())


@contextmanager
def positions_replaced(decoder: nn.Module, positions: Tensor) -> Iterator[None]:
    """Make a decoder use the given positions, of shape `(R, T)`, for its tokens, until the context closes."""
    undo = replace_positions(decoder, positions)
    try:
        yield
    finally:
        for function in undo:
            function()


def replace_positions(decoder: nn.Module, positions: Tensor) -> list[Callable[[], Any]]:
    """Make a decoder use the given positions, of shape `(R, T)`, for its tokens; return functions that undo it."""
    modules = position_modules(decoder)
    assert modules is not None
    undo: list[Callable[[], Any]] = []
    for module in modules:
        if hasattr(module, "compute_bias"):
            undo.append(_replace_bias(module, positions))
        else:
            undo += _replace_embedded_positions(module, positions, module is getattr(decoder, "rotary_emb", None))
    return undo


def _replace_bias(module: Any, positions: Tensor) -> Callable[[], Any]:
    """For relative positions: compute the bias between two tokens from the difference of the given positions."""
    compute_bias = module.compute_bias
    distances = (positions.unsqueeze(-1) - positions.unsqueeze(1)).clamp(min=0)

    def replaced(*args: Any, **kwargs: Any) -> Tensor:
        bias_by_distance = compute_bias(*args, **kwargs)[0, :, :, 0]  # From each token to the first.
        return embedding(distances, bias_by_distance.T).permute(0, 3, 1, 2)

    module.compute_bias = replaced
    return lambda: delattr(module, "compute_bias")


def _replace_embedded_positions(module: nn.Module, positions: Tensor, rotary: bool) -> list[Callable[[], Any]]:
    """Make a module embed the given positions, of shape `(R, T)`, in place of those in its arguments."""
    signature = inspect.signature(module.forward)

    def before(_: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        bound = signature.bind(*args, **kwargs)
        # Embedding tables get a flat tensor: some modules add a dimension in front and some do not.
        bound.arguments["position_ids"] = positions if rotary else positions.flatten()
        return bound.args, bound.kwargs

    def after(_: nn.Module, args: Any, output: Any) -> Any:
        return output if rotary else output.reshape(*positions.shape, output.shape[-1])

    handles = module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)
    return [handle.remove for handle in handles]


@contextmanager
def hooks_installed(*handles: Any) -> Iterator[None]:
    """Remove the given hooks when the context closes."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
