"""Runs one forward pass with temporary hooks on the encoder, decoder and output layer.

The model is called once and everything happens inside that call, so that DDP, FSDP and DeepSpeed see an ordinary
forward pass. The hooks belong to a private copy of its modules (see `private_copy`). The encoder reads each prompt
once. Hooks set the positions of the decoder's tokens, and make
the output layer return log-probabilities of the targets instead of logits: logits are computed in pieces, only where a
target is predicted, and all pieces but the first are recomputed in the backward pass. Long lists go through the
decoder in pieces of its rows (see `decoder_rows`).
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
    hooks_installed,
    position_modules,
    positions_replaced,
    prompts_selected,
    row_pieces,
)
from dgr_trainer.student.log_probabilities import token_log_probabilities
from dgr_trainer.student.model_facts import underlying_model
from dgr_trainer.student.private_copy import private_model
from dgr_trainer.student.sharding import is_partitioned_by_deepspeed, max_over_processes

# Logits that are kept for the backward pass, and logits in each piece that is recomputed.
_KEPT_LOGITS = 1 << 26
_LOGITS_AT_ONCE = 1 << 25
# Architectures whose logits are the projection's output, plus `final_logits_bias` if they have one, and then bounded
# by `final_logit_softcapping` if the configuration has it.
_PLAIN_PROJECTIONS = frozenset(
    "bart mbart plbart pegasus marian mvp blenderbot blenderbot-small bigbird_pegasus led m2m_100 "
    "t5 mt5 umt5 longt5 switch_transformers "
    "llama mistral mixtral qwen2 qwen3 qwen2_moe qwen3_moe gemma gemma2 gemma3_text gpt2 gptj gpt_neox gpt_bigcode "
    "opt phi phi3 smollm3 olmo olmo2 olmo3 starcoder2 stablelm".split()
)


class Targets(NamedTuple):
    """The tokens to predict, and the decoder states that predict them.

    Args:
        states (`torch.LongTensor` of shape `(N,)`): Indices, in the flattened decoder rows, of the states to project.
        sources (`torch.LongTensor` of shape `(C,)`): Index, in `states`, of the state that predicts each label.
        labels (`torch.LongTensor` of shape `(C,)`): Token ids, not negative.
    """

    states: Tensor
    sources: Tensor
    labels: Tensor


def predict(
    model: nn.Module,
    inputs: Mapping[str, Any],
    targets: Targets,
    *,
    row_prompts: Tensor | None = None,
    positions: Tensor | None = None,
    tokens_at_once: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute log-probabilities of target tokens with one forward pass.

    Args:
        model (`nn.Module`): The model, wrapped or not.
        inputs (`Mapping`): `input_ids` and `attention_mask` of P prompts, `decoder_input_ids` of R rows, and their
            `decoder_attention_mask` if they need one. For a model without an encoder: `input_ids` of R rows, their
            `attention_mask`, and `position_ids` if they need them.
        targets ([`Targets`]): What to predict.
        row_prompts (`torch.LongTensor` of shape `(R,)`, *optional*): The prompt of each row. By default row r reads
            prompt r.
        positions (`torch.LongTensor` of shape `(R, T)`, *optional*): The position of each decoder token. By default 0
            to T - 1 in each row.
        tokens_at_once (`int`, *optional*):
            Decoder tokens, padding included, in a piece of rows. By default all rows are one piece.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`, each of shape `(C,)` and float32: log p of each label, and the mean of
        log p over the vocabulary where the label is predicted.

    Raises:
        ValueError: if the model has no output projection.
    """
    with ExitStack() as stack:
        given = model
        model = stack.enter_context(private_model(model, _changed_modules(underlying_model(model))))
        base = underlying_model(model)
        pieces = row_pieces(inputs.get("decoder_input_ids", inputs["input_ids"]), tokens_at_once, base)
        copied = torch.is_grad_enabled() and (model is not given or can_be_copied(model))
        decoder = base.get_decoder()
        if len(pieces) > 1 or (positions is not None and copied):
            stack.enter_context(decoder_in_pieces(decoder, pieces, row_prompts, positions, copied=copied))
        else:
            if positions is not None:
                stack.enter_context(positions_replaced(decoder, positions))
            if row_prompts is not None:
                stack.enter_context(prompts_selected(decoder, row_prompts))
        projection = base.get_output_embeddings()
        plain = _is_plain(base)
        project = _project_to_log_probabilities if plain else _project_selected_states
        results = stack.enter_context(project(projection, base, targets))
        stack.enter_context(_shapes_may_vary(model))
        outputs = model(**inputs, use_cache=False)
    logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
    if not plain:
        log_p, means = token_log_probabilities(logits.flatten(0, -2), targets.sources, targets.labels)
        return log_p, means[targets.sources]
    # Wrappers may have cast the outputs to half precision, so the results are not among them. But the hooks of FSDP
    # and DDP need a gradient of the outputs: none of their values are added.
    nothing = logits[..., :0].sum()
    return results[0][0] + nothing, results[0][1] + nothing


def predict_plainly(model: nn.Module, inputs: Mapping[str, Tensor], targets: Targets) -> tuple[Tensor, Tensor]:
    """Compute what `predict` does, with all logits, by a call of the model in which nothing is changed.

    Args:
        model (`nn.Module`): The model, wrapped or not.
        inputs (`Mapping`): `input_ids` and `attention_mask` of R prompts, and `decoder_input_ids` of R rows.
        targets ([`Targets`]): What to predict.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: see `predict`.
    """
    outputs = model(**inputs, use_cache=False)
    logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
    # A learned prompt in front of the tokens has logits, too.
    logits = logits[:, -inputs.get("decoder_input_ids", inputs["input_ids"]).shape[1] :].flatten(0, -2)
    log_p, means = token_log_probabilities(logits[targets.states], targets.sources, targets.labels)
    return log_p, means[targets.sources]


def can_be_copied(model: nn.Module) -> bool:
    """Whether parts of a model can run on copies: not if each copy would be compiled again, and not with DeepSpeed."""
    compiled = is_compiled_module(model) or has_compiled_regions(model)
    return not compiled and not is_partitioned_by_deepspeed(model)


def _changed_modules(base: Any) -> list[nn.Module]:
    """The modules that get hooks or another forward pass."""
    projection = base.get_output_embeddings()
    if projection is None:
        raise DGRValueError(
            f"{type(base).__name__}.get_output_embeddings() returns None, so its output projection is unknown. "
            "Use an architecture that has one, such as BART or T5."
        )
    decoder = base.get_decoder()
    return [decoder, projection, *(position_modules(decoder) or ())]


def _shapes_may_vary(model: nn.Module) -> AbstractContextManager[Any]:
    """Tell a compiled model that the shape of the targets differs from batch to batch."""
    if not (is_compiled_module(model) or has_compiled_regions(model)):
        return nullcontext()
    # The targets belong to hooks, and by default the compiler assumes that tensors of modules do not change shape.
    patched: AbstractContextManager[Any] = torch._dynamo.config.patch(force_nn_module_property_static_shapes=False)
    return patched


def _is_plain(base: Any) -> bool:
    """Whether a model's logits are the output of its projection, except for a known bias."""
    defined_in = next(cls.__module__ for cls in type(base).__mro__ if "forward" in vars(cls))
    return base.config.model_type in _PLAIN_PROJECTIONS and defined_in.startswith("transformers.")


@contextmanager
def _project_to_log_probabilities(projection: nn.Module, base: Any, targets: Targets) -> Iterator[list[Tensor]]:
    """Make a projection compute log p of the targets and its mean over the vocabulary.

    Yields:
        `list[torch.Tensor]`: gets both, `(2, C)`. The projection returns zeros `(1, V)` that depend on them.
    """
    bias = getattr(base, "final_logits_bias", None)
    bound = getattr(base.config, "final_logit_softcapping", None)
    width = int(getattr(projection, "out_features", base.config.vocab_size))  # Weights may be shards.
    first, at_once = max(1, _KEPT_LOGITS // width), max(1, _LOGITS_AT_ONCE // width)
    pieces = max_over_processes(-(-max(0, len(targets.states) - first) // at_once), base)
    has_dropout = any(isinstance(module, nn.Dropout) for module in projection.modules())
    results: list[Tensor] = []
    hidden: list[Tensor] = []
    running = False

    def log_p_from_logits(logits: Tensor, start: int) -> tuple[Tensor, Tensor]:
        if bias is not None:
            logits = logits.add_(bias.to(logits.device))
        if bound is not None:
            logits = torch.tanh(logits / bound) * bound
        rows = targets.sources - start
        inside = (rows >= 0) & (rows < len(logits))
        log_p, means = token_log_probabilities(logits, rows.clamp(0, len(logits) - 1), targets.labels)
        return torch.where(inside, log_p, 0.0), means

    def log_p_from_states(states: Tensor, start: int) -> tuple[Tensor, Tensor]:
        return log_p_from_logits(projection(states), start)

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
        parts = [log_p_from_logits(logits, 0)]
        for start in range(first, first + pieces * at_once, at_once):
            # Beyond the end is a piece that only another process needs: repeat the last state, which predicts nothing.
            piece = states[start : start + at_once] if start < len(states) else states[-1:]
            parts.append(
                checkpoint(log_p_from_states, piece, start, use_reentrant=False, preserve_rng_state=has_dropout)
                if torch.is_grad_enabled()
                else log_p_from_states(piece, start)
            )
        running = False
        log_p = torch.stack([part[0] for part in parts]).sum(0) if len(parts) > 1 else parts[0][0]
        results.append(torch.stack([log_p, torch.cat([part[1] for part in parts])[targets.sources]]))
        # Of a shape that the model can add its bias to.
        return results[0][:, :0].sum().to(logits.dtype).expand(1, width)

    with hooks_installed(projection.register_forward_pre_hook(before), projection.register_forward_hook(after)):
        yield results


@contextmanager
def _project_selected_states(projection: nn.Module, base: Any, targets: Targets) -> Iterator[list[Tensor]]:
    """Make a projection compute logits, `(1, N, V)`, of the selected states, for architectures that change logits."""

    def before(_: nn.Module, args: Any) -> Any:
        return (args[0].flatten(0, -2)[targets.states].unsqueeze(0), *args[1:])

    with hooks_installed(projection.register_forward_pre_hook(before)):
        yield []
