"""The rows of the decoder: which prompt each one reads, which positions its tokens have, and how many run at a time.

Activations grow with the tokens of all rows. So a long list, or a large batch, goes through the decoder in pieces of a
few rows. The last piece keeps its activations until the backward pass; of the others only the last hidden states are
kept, and the rest is computed again, with the same dropout, when the backward pass comes to them. Losses and gradients
are those of all rows at once, and the wrapped model still sees one forward and one backward pass.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch.utils.checkpoint import checkpoint

from dgr_trainer.student.sharding import most_of_all

_BY_ROW = ("input_ids", "attention_mask")
_BY_PROMPT = ("encoder_hidden_states", "encoder_attention_mask")


def row_pieces(tokens: Tensor, tokens_at_once: int | None, model: nn.Module) -> list[slice]:
    """Which rows go through the decoder together.

    Args:
        tokens (`torch.LongTensor` of shape `(R, T)`): The rows.
        tokens_at_once (`int`, *optional*): The most tokens in a piece; a row is never split.
        model (`nn.Module`): The model. If its parameters are shards, all processes make equally many pieces, since
            each of them gathers the shards: those that need fewer repeat their last row, and its results are not used.

    Returns:
        `list[slice]`: At least one.
    """
    rows, length = tokens.shape
    if tokens_at_once is None:
        return [slice(0, rows)]
    count = most_of_all(-(-rows // max(1, tokens_at_once // length)), model)
    size = -(-rows // count)
    return [slice(min(start, rows - 1), min(start + size, rows)) for start in range(0, count * size, size)]


@contextmanager
def decoder_in_pieces(
    decoder: nn.Module, pieces: Sequence[slice], row_prompts: Tensor | None, positions: Tensor | None
) -> Iterator[None]:
    """Let a decoder run its rows in pieces.

    Args:
        decoder (`nn.Module`): The decoder.
        pieces (`Sequence[slice]`): Rows of each piece, in order; after the last row, it may come again.
        row_prompts (`torch.LongTensor` of shape `(R,)`, *optional*): The prompt of each row. By default its own.
        positions (`torch.LongTensor` of shape `(R, T)`, *optional*): In place of 0 to T - 1 in each row.
    """
    forward = decoder.forward
    replaced = vars(decoder).get("forward")
    signature = inspect.signature(forward)

    def run(rows: slice, named: dict[str, Any]) -> Any:
        own = {name: named[name][rows] for name in _BY_ROW if named.get(name) is not None}
        of_prompts = rows if row_prompts is None else row_prompts[rows]
        own |= {name: named[name][of_prompts] for name in _BY_PROMPT}
        with ExitStack() as stack:
            if positions is not None:
                stack.enter_context(positions_replaced(decoder, positions[rows]))
            return forward(**{**named, **own})

    def last_states(rows: slice, named: dict[str, Any]) -> Tensor:
        return run(rows, named)[0]

    def in_pieces(*args: Any, **kwargs: Any) -> Any:
        named = signature.bind_partial(*args).arguments | kwargs
        states = [
            checkpoint(last_states, rows, named, use_reentrant=False)
            if torch.is_grad_enabled()
            else last_states(rows, named)
            for rows in pieces[:-1]
        ]
        # The backward pass comes to the last piece first, and has freed it when it makes another one again.
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


@contextmanager
def prompts_of_rows(decoder: nn.Module, row_prompts: Tensor) -> Iterator[None]:
    """Let each row of a decoder, `(R,)`, read its prompt, where the encoder has read each prompt once."""
    signature = inspect.signature(decoder.forward)

    def before(_: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        named = signature.bind_partial(*args).arguments | kwargs
        return (), {**named, **{name: named[name][row_prompts] for name in _BY_PROMPT}}

    with installed(decoder.register_forward_pre_hook(before, with_kwargs=True)):
        yield


def position_modules(decoder: nn.Module) -> list[nn.Module] | None:
    """The modules of a decoder that must be told which positions its tokens have; `None` if one of them cannot be."""
    module = getattr(decoder, "embed_positions", None) or getattr(decoder, "rotary_emb", None)
    if module is not None:
        return [module] if "position_ids" in inspect.signature(module.forward).parameters else None
    biased = [one for one in decoder.modules() if getattr(one, "relative_attention_bias", None) is not None]
    return biased if biased and all(hasattr(one, "compute_bias") for one in biased) else None


@contextmanager
def positions_replaced(decoder: nn.Module, positions: Tensor) -> Iterator[None]:
    """Let a decoder give its tokens these positions, `(R, T)`, whatever their places in the row."""
    modules = position_modules(decoder)
    assert modules is not None
    with ExitStack() as stack:
        for module in modules:
            if hasattr(module, "compute_bias"):
                stack.enter_context(_bias_replaced(module, positions))
            else:
                rotary = module is getattr(decoder, "rotary_emb", None)
                stack.enter_context(_embedded_positions_replaced(module, positions, rotary))
        yield


@contextmanager
def _bias_replaced(module: Any, positions: Tensor) -> Iterator[None]:
    """Relative positions: the bias between two places becomes that of the difference of their positions."""
    compute_bias = module.compute_bias
    distances = (positions.unsqueeze(-1) - positions.unsqueeze(1)).clamp(min=0)

    def replaced(*args: Any, **kwargs: Any) -> Tensor:
        of_distance = compute_bias(*args, **kwargs)[0, :, :, 0]  # From each place to the first.
        return embedding(distances, of_distance.T).permute(0, 3, 1, 2)

    module.compute_bias = replaced
    try:
        yield
    finally:
        del module.compute_bias


@contextmanager
def _embedded_positions_replaced(module: nn.Module, positions: Tensor, rotary: bool) -> Iterator[None]:
    """Make a module embed these positions, `(R, T)`, whatever it is asked for."""
    signature = inspect.signature(module.forward)

    def before(_: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        bound = signature.bind(*args, **kwargs)
        # Tables take them in one row: some modules add a dimension in front and some do not.
        bound.arguments["position_ids"] = positions if rotary else positions.flatten()
        return bound.args, bound.kwargs

    def after(_: nn.Module, args: Any, output: Any) -> Any:
        return output if rotary else output.reshape(*positions.shape, output.shape[-1])

    with installed(module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)):
        yield


@contextmanager
def installed(*handles: Any) -> Iterator[None]:
    """Remove hooks in the end."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
