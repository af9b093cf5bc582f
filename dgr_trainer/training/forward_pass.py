"""The one forward pass of a step: the model as it is wrapped, with a few of its modules told what to do differently.

The wrapped model is called once and everything happens inside that call, so that DDP, FSDP and DeepSpeed see an
ordinary forward pass. For its duration, hooks let the encoder read each prompt once, give the decoder the positions of
prefixes, and let the output projection return log-probabilities of the targets in place of logits: logits are computed
only where a target is predicted, in pieces, and all pieces but the first are computed again in the backward pass.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch.utils.checkpoint import checkpoint

from dgr_trainer.training.log_probabilities import token_log_probabilities

# Logits kept from the forward to the backward pass, and logits computed at once beyond these.
_KEPT_LOGITS = 1 << 26
_LOGITS_AT_ONCE = 1 << 25
# Architectures that do nothing to the projection's output but add `final_logits_bias`, where they have one.
_PLAIN_PROJECTIONS = frozenset(
    "bart mbart plbart pegasus marian mvp blenderbot blenderbot-small bigbird_pegasus led m2m_100 "
    "t5 mt5 umt5 longt5 switch_transformers".split()
)


class Targets(NamedTuple):
    """
    What is to be predicted from which decoder state.

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
) -> tuple[Tensor, Tensor]:
    """
    Log-probabilities of target tokens, by one forward pass.

    Args:
        model (`nn.Module`): The model as it comes.
        base (`nn.Module`): The transformers model inside.
        inputs (`Mapping`): `input_ids` and `attention_mask` of P prompts, `decoder_input_ids` of R rows, and their
            `decoder_attention_mask` if they need one.
        targets ([`Targets`]): What to predict.
        row_prompts (`torch.LongTensor` of shape `(R,)`, *optional*): The prompt of each row. By default its own.
        positions (`torch.LongTensor` of shape `(R, T)`, *optional*): In place of 0 to T - 1 in each row.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`, each of shape `(C,)` and float32: log p of each label, and the mean of
        log p over the vocabulary in its place.
    """
    prompts = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with ExitStack() as stack:
        if positions is not None:
            stack.enter_context(positions_replaced(base.get_decoder(), positions))
        if row_prompts is not None and len(row_prompts) != len(prompts["input_ids"]):
            stack.enter_context(_each_prompt_encoded_once(base.get_encoder(), prompts, row_prompts))
        if row_prompts is not None:
            prompts = {name: value[row_prompts] for name, value in prompts.items()}
        projection = base.get_output_embeddings()
        plain = base.config.model_type in _PLAIN_PROJECTIONS and type(base).__module__.startswith("transformers.")
        results = stack.enter_context((_predicting if plain else _selecting)(projection, base, targets))
        outputs = model(**{**inputs, **prompts}, use_cache=False)
    logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
    if not plain:
        values, means = token_log_probabilities(logits.flatten(0, -2), targets.sources, targets.labels)
        return values, means[targets.sources]
    if logits.dtype in (torch.float32, torch.float64):
        return logits[0], logits[1]
    # FSDP turns outputs to half precision. Its hooks wait for a gradient of the outputs, so they take part.
    tie = 0.0 * logits.sum()
    return results[0][0] + tie, results[0][1] + tie


@contextmanager
def _predicting(projection: nn.Module, base: Any, targets: Targets) -> Iterator[list[Tensor]]:
    """Let a projection return log p of the targets and its mean over the vocabulary, `(2, C)`; listed as well."""
    bias = getattr(base, "final_logits_bias", None)
    width = projection.weight.shape[0] if isinstance(projection, nn.Linear) else base.config.vocab_size
    first, at_once = max(1, _KEPT_LOGITS // width), max(1, _LOGITS_AT_ONCE // width)
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
        for start in range(first, len(states), at_once):
            piece = states[start : start + at_once]
            parts.append(
                checkpoint(values_again, piece, start, use_reentrant=False, preserve_rng_state=has_dropout)
                if torch.is_grad_enabled()
                else values_again(piece, start)
            )
        running = False
        values = torch.stack([part[0] for part in parts]).sum(0) if len(parts) > 1 else parts[0][0]
        results.append(torch.stack([values, torch.cat([part[1] for part in parts])[targets.sources]]))
        return results[0]

    with _installed(projection.register_forward_pre_hook(before), projection.register_forward_hook(after)):
        try:
            if bias is not None:
                base.final_logits_bias = bias.new_zeros(1, 1)  # Added to the logits already.
            yield results
        finally:
            if bias is not None:
                base.final_logits_bias = bias


@contextmanager
def _selecting(projection: nn.Module | None, base: Any, targets: Targets) -> Iterator[list[Tensor]]:
    """Let a projection make logits, `(1, N, V)`, of the states to project, for architectures that work on logits."""
    if projection is None:
        raise ValueError(
            f"{type(base).__name__}.get_output_embeddings() gives no module, so it is not known what makes its "
            "logits. Use an architecture with an output projection, such as BART or T5."
        )

    def before(_: nn.Module, args: Any) -> Any:
        return (args[0].flatten(0, -2)[targets.states].unsqueeze(0), *args[1:])

    with _installed(projection.register_forward_pre_hook(before)):
        yield []


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

    with _installed(module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)):
        yield


@contextmanager
def _each_prompt_encoded_once(encoder: nn.Module, prompts: dict[str, Tensor], row_prompts: Tensor) -> Iterator[None]:
    """Give the encoder one row a prompt, and the decoder one a decoder row."""
    signature = inspect.signature(encoder.forward)

    def before(_: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        bound = signature.bind(*args, **kwargs)
        bound.arguments.update(prompts)
        return bound.args, bound.kwargs

    def after(_: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0][row_prompts], *output[1:])
        output["last_hidden_state"] = output["last_hidden_state"][row_prompts]
        return output

    with _installed(encoder.register_forward_pre_hook(before, with_kwargs=True), encoder.register_forward_hook(after)):
        yield


@contextmanager
def _installed(*handles: Any) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
