"""The one forward pass of a step: the model as it is wrapped, with a few of its modules told what to do differently.

The wrapped model is called once and everything happens inside that call, so that DDP, FSDP and DeepSpeed see an
ordinary forward pass. For its duration, hooks let the encoder read each prompt once, give the decoder the positions of
prefixes, and let the output projection return log-probabilities of the targets in place of logits: logits are computed
only where a target is predicted, in pieces, and all pieces but the first are computed again in the backward pass. Long
lists go through the decoder in pieces of its rows (see `decoder_rows`).
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from accelerate.utils import has_compiled_regions, is_compiled_module
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dgr_trainer.errors import DGRValueError
from dgr_trainer.student.decoder_rows import (
    decoder_in_pieces,
    installed,
    positions_replaced,
    prompts_of_rows,
    row_pieces,
)
from dgr_trainer.student.log_probabilities import token_log_probabilities
from dgr_trainer.student.sharding import most_of_all

# Logits kept from the forward to the backward pass, and logits computed at once beyond these.
_KEPT_LOGITS = 1 << 26
_LOGITS_AT_ONCE = 1 << 25
# Architectures that do nothing to the projection's output but add `final_logits_bias`, where they have one.
_PLAIN_PROJECTIONS = frozenset(
    "bart mbart plbart pegasus marian mvp blenderbot blenderbot-small bigbird_pegasus led m2m_100 "
    "t5 mt5 umt5 longt5 switch_transformers".split()
)


class Targets(NamedTuple):
    """What is to be predicted from which decoder state.

    Args:
        states (`torch.LongTensor` of shape `(N,)`): Places, in the flattened decoder rows, of the states to project.
        sources (`torch.LongTensor` of shape `(C,)`): Place in `states` of the state that predicts each label.
        labels (`torch.LongTensor` of shape `(C,)`): Token ids from 0 on.
    """

    states: Tensor
    sources: Tensor
    labels: Tensor


def predict(
    model: nn.Module,
    base: Any,
    inputs: Mapping[str, Tensor],
    targets: Targets,
    *,
    row_prompts: Tensor | None = None,
    positions: Tensor | None = None,
    tokens_at_once: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of target tokens, by one forward pass.

    Args:
        model (`nn.Module`): The model as it comes.
        base (`nn.Module`): The transformers model inside.
        inputs (`Mapping`): `input_ids` and `attention_mask` of P prompts, `decoder_input_ids` of R rows, and their
            `decoder_attention_mask` if they need one.
        targets ([`Targets`]): What to predict.
        row_prompts (`torch.LongTensor` of shape `(R,)`, *optional*): The prompt of each row. By default its own.
        positions (`torch.LongTensor` of shape `(R, T)`, *optional*): In place of 0 to T - 1 in each row.
        tokens_at_once (`int`, *optional*):
            Decoder tokens, padding included, in a piece of rows. By default all rows are one piece.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`, each of shape `(C,)` and float32: log p of each label, and the mean of
        log p over the vocabulary in its place.
    """
    with ExitStack() as stack:
        pieces = row_pieces(inputs["decoder_input_ids"], tokens_at_once, base)
        if len(pieces) > 1:
            stack.enter_context(decoder_in_pieces(base.get_decoder(), pieces, row_prompts, positions))
        else:
            if positions is not None:
                stack.enter_context(positions_replaced(base.get_decoder(), positions))
            if row_prompts is not None:
                stack.enter_context(prompts_of_rows(base.get_decoder(), row_prompts))
        projection = base.get_output_embeddings()
        if projection is None:
            raise DGRValueError(
                f"{type(base).__name__}.get_output_embeddings() gives no module, so it is not known what makes its "
                "logits. Use an architecture with an output projection, such as BART or T5."
            )
        plain = _is_plain(base)
        results = stack.enter_context((_predicting if plain else _selecting)(projection, base, targets))
        stack.enter_context(_shapes_may_vary(model))
        outputs = model(**inputs, use_cache=False)
    logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
    if not plain:
        values, means = token_log_probabilities(logits.flatten(0, -2), targets.sources, targets.labels)
        return values, means[targets.sources]
    if logits.dtype in (torch.float32, torch.float64):
        return logits[0], logits[1]
    # FSDP turns outputs to half precision. Its hooks wait for a gradient of the outputs, so they take part.
    tie = 0.0 * logits.sum()
    return results[0][0] + tie, results[0][1] + tie


def _shapes_may_vary(model: nn.Module) -> AbstractContextManager:
    """Let a compiled model take the targets' shape, which differs from batch to batch, for one that may change."""
    if not (is_compiled_module(model) or has_compiled_regions(model)):
        return nullcontext()
    # Hooks bring the targets in, and the compiler takes what it finds at a module for constant in shape.
    return torch._dynamo.config.patch(force_nn_module_property_static_shapes=False)


def _is_plain(base: Any) -> bool:
    """Whether a model's logits are those of its projection, but for a known bias."""
    written_in = next(one.__module__ for one in type(base).__mro__ if "forward" in vars(one))
    return base.config.model_type in _PLAIN_PROJECTIONS and written_in.startswith("transformers.")


@contextmanager
def _predicting(projection: nn.Module, base: Any, targets: Targets) -> Iterator[list[Tensor]]:
    """Let a projection return log p of the targets and its mean over the vocabulary, `(2, C)`; listed as well."""
    bias = getattr(base, "final_logits_bias", None)
    width = int(getattr(projection, "out_features", base.config.vocab_size))  # Weights may be shards.
    first, at_once = max(1, _KEPT_LOGITS // width), max(1, _LOGITS_AT_ONCE // width)
    pieces = most_of_all(-(-max(0, len(targets.states) - first) // at_once), base)
    has_dropout = any(isinstance(module, nn.Dropout) for module in projection.modules())
    results: list[Tensor] = []
    hidden: list[Tensor] = []
    running = False

    def values_of(logits: Tensor, start: int) -> tuple[Tensor, Tensor]:
        if bias is not None:
            logits = logits.add_(bias.to(logits.device))
        own = targets.sources - start
        inside = (own >= 0) & (own < len(logits))
        values, means = token_log_probabilities(logits, own.clamp(0, len(logits) - 1), targets.labels)
        return torch.where(inside, values, 0.0), means

    def values_again(states: Tensor, start: int) -> tuple[Tensor, Tensor]:
        return values_of(projection(states), start)

    def before(_: nn.Module, args: Any) -> Any:
        if running:
            return args
        states = args[0].flatten(0, -2)[targets.states]
        hidden.append(states)
        return (states[:first], *args[1:])

    def after(_: nn.Module, args: Any, logits: Tensor) -> Tensor:
        nonlocal running
        if running:
            return logits
        running = True
        states = hidden.pop()
        parts = [values_of(logits, 0)]
        for start in range(first, first + pieces * at_once, at_once):
            # Past the end is a piece that another process has: the last state again, which predicts nothing.
            piece = states[start : start + at_once] if start < len(states) else states[-1:]
            parts.append(
                checkpoint(values_again, piece, start, use_reentrant=False, preserve_rng_state=has_dropout)
                if torch.is_grad_enabled()
                else values_again(piece, start)
            )
        running = False
        values = torch.stack([part[0] for part in parts]).sum(0) if len(parts) > 1 else parts[0][0]
        results.append(torch.stack([values, torch.cat([part[1] for part in parts])[targets.sources]]))
        return results[0]

    with installed(projection.register_forward_pre_hook(before), projection.register_forward_hook(after)):
        try:
            if bias is not None:
                base.final_logits_bias = bias.new_zeros(1, 1)  # Added to the logits already.
            yield results
        finally:
            if bias is not None:
                base.final_logits_bias = bias


@contextmanager
def _selecting(projection: nn.Module, base: Any, targets: Targets) -> Iterator[list[Tensor]]:
    """Let a projection make logits, `(1, N, V)`, of the states to project, for architectures that work on logits."""

    def before(_: nn.Module, args: Any) -> Any:
        return (args[0].flatten(0, -2)[targets.states].unsqueeze(0), *args[1:])

    with installed(projection.register_forward_pre_hook(before)):
        yield []
