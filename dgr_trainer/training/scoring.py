"""Scoring: one forward pass of a sequence-to-sequence model, whole identifiers' log-likelihoods out.

Identifiers come packed, many to a decoder row (see `packing`). Inside a row each attends to itself only, by a
block-diagonal causal mask, and counts its positions from 0: so packed identifiers get the log-likelihoods that they
get one by one. Decoders with relative or rotary positions need the mask only; those that add position embeddings have
their positions replaced for the one forward pass. Decoders that allow neither are given one identifier a row, and the
encoder still reads each prompt once.
"""

import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn

from dgr_trainer.training.log_probabilities import token_log_probabilities
from dgr_trainer.training.packing import pack_identifiers

logger = logging.getLogger(__name__)
_told_flat: set[str] = set()


class TokenScores(NamedTuple):
    """
    Log-probabilities of packed target tokens, 0 where there is no token.

    Args:
        log_probabilities (`torch.Tensor`, float32, shape of the labels): log p of each token.
        mean_log_probabilities (`torch.Tensor`, same): Mean of log p over the vocabulary, for label smoothing.
    """

    log_probabilities: Tensor
    mean_log_probabilities: Tensor


def underlying_model(model: nn.Module) -> Any:
    """The transformers model inside wrappers for distribution, compilation and adapters."""
    base: Any = extract_model_from_parallel(model, keep_fp32_wrapper=True, keep_torch_compile=False)
    return base.get_base_model() if hasattr(base, "get_base_model") else base


def start_token_id(model: nn.Module) -> int:
    """The token with which the decoder begins. Raises a `ValueError` if the model's configuration names none."""
    base = underlying_model(model)
    generation = getattr(base, "generation_config", None)
    for config in (base.config, generation):
        token = getattr(config, "decoder_start_token_id", None)
        if token is not None:
            return int(token[0] if isinstance(token, list) else token)
    raise ValueError(
        f"The configuration of {type(base).__name__} has no decoder_start_token_id, so it is not known what its "
        "decoder reads first. Set model.config.decoder_start_token_id (mBART: to the id of the language code)."
    )


def position_module(decoder: nn.Module) -> nn.Module | None:
    """The decoder's module of position embeddings, if it can be told which positions to embed."""
    module = getattr(decoder, "embed_positions", None)
    if module is not None and "position_ids" in inspect.signature(module.forward).parameters:
        return module
    return None


def can_pack(model: nn.Module) -> bool:
    """
    Whether a model's decoder can score several identifiers in one row.

    It can when its positions are relative (a bias in its attention, as T5) or rotary, or when its position embeddings
    take `position_ids` (BART, Pegasus, Marian, ...).
    """
    decoder = underlying_model(model).get_decoder()
    if getattr(decoder, "embed_positions", None) is not None:
        return position_module(decoder) is not None
    return hasattr(decoder, "rotary_emb") or any(hasattr(m, "relative_attention_bias") for m in decoder.modules())


def packing_attention(model: nn.Module) -> str:
    """
    The attention implementation of a model's decoder, which decides the form of its masks.

    Raises:
        `ValueError`: if it takes no mask for many identifiers in one row.
    """
    base = underlying_model(model)
    attention = getattr(base.get_decoder().config, "_attn_implementation", None) or base.config._attn_implementation
    if attention not in ("sdpa", "eager"):
        raise ValueError(
            f"The model uses attn_implementation={attention!r}, which takes no mask for many identifiers in one row. "
            "Load it with attn_implementation='sdpa'."
        )
    return attention


def score_rows(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    row_prompts: Tensor,
    labels: Tensor,
    segments: Tensor,
    positions: Tensor,
    *,
    packed: bool | None = None,
) -> TokenScores:
    """
    Log-probabilities of the tokens of packed identifiers, by one forward pass of the model.

    Args:
        model (`nn.Module`): A sequence-to-sequence model as it comes, wrapped for DDP or with adapters.
        input_ids (`torch.LongTensor` of shape `(P, L)`): Prompts.
        attention_mask (`torch.LongTensor` of shape `(P, L)`): 1 where a prompt has a token.
        row_prompts (`torch.LongTensor` of shape `(R,)`): The prompt that each decoder row answers, 0 to P - 1.
        labels (`torch.LongTensor` of shape `(R, T)`): Tokens to predict; negative where there is none.
        segments (`torch.LongTensor` of shape `(R, T)`): Number of each token's identifier; -1 where there is none.
        positions (`torch.LongTensor` of shape `(R, T)`): Position of each token in its identifier, from 0.
        packed (`bool`, *optional*):
            Whether to run the rows as they are, or one identifier a row. By default as `can_pack` says.

    Returns:
        [`TokenScores`] of shape `(R, T)`.

    Raises:
        `ValueError`: if the model uses an attention implementation that takes no mask, or has no start token.
    """
    base = underlying_model(model)
    if packed is None:
        packed = can_pack(model)
        if not packed and type(base).__name__ not in _told_flat:
            _told_flat.add(type(base).__name__)
            logger.warning(
                "The decoder of %s cannot restart its positions inside a row, so each identifier gets a row of its "
                "own: the same results, but slower than with a model such as BART or T5.",
                type(base).__name__,
            )
    present = segments >= 0
    targets = labels.clamp(min=0)
    pad = base.config.pad_token_id if isinstance(base.config.pad_token_id, int) else 0
    inputs = torch.where(positions == 0, start_token_id(model), targets.roll(1, dims=-1))
    inputs = torch.where(present, inputs, pad)
    if packed:
        mask = _packed_mask(segments, base)
        logits = _logits(model, base, input_ids, attention_mask, row_prompts, inputs, mask, positions)
        log_p, mean = token_log_probabilities(logits, targets)
    else:
        # Cell of each token in rows of one identifier each; cells without a token share row 0 and are blanked below.
        starts = present & (positions == 0)
        rows = (starts.flatten().cumsum(0) - 1).clamp(min=0).view_as(segments)
        columns = torch.where(present, positions, 0)
        of_row = torch.arange(len(segments), device=segments.device).unsqueeze(-1).expand_as(segments)[starts]
        prompts = row_prompts[of_row] if len(of_row) else row_prompts[:1]
        flat = inputs.new_full((len(prompts), int(columns.max()) + 1), pad)
        flat[rows[present], columns[present]] = inputs[present]
        wanted = torch.zeros_like(flat)
        wanted[rows[present], columns[present]] = targets[present]
        logits = _logits(model, base, input_ids, attention_mask, prompts, flat, None, None)
        log_p, mean = (values[rows, columns] for values in token_log_probabilities(logits, wanted))
    return TokenScores(log_p.masked_fill(~present, 0.0), mean.masked_fill(~present, 0.0))


@torch.no_grad()
def score_identifiers(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    identifiers: Sequence[Sequence[Sequence[int]]],
    *,
    max_row_tokens: int = 256,
    max_batch_tokens: int = 2048,
) -> list[list[float]]:
    """
    Log-likelihoods of identifiers under a prompt each, without gradients and without dropout.

    Args:
        model (`nn.Module`): A sequence-to-sequence model.
        prompts (`Sequence[Sequence[int]]`): Token ids of the encoder input of each query.
        identifiers (`Sequence[Sequence[Sequence[int]]]`): Token ids of the identifiers to score for each query.
        max_row_tokens (`int`, defaults to 256): Longest decoder row.
        max_batch_tokens (`int`, defaults to 2048): Decoder tokens, padding included, in one forward pass.

    Returns:
        `list[list[float]]`: l(i|q) = sum of log p, natural logarithm, for each identifier of each query.
    """
    device = next(model.parameters()).device
    results = [[0.0] * len(of_query) for of_query in identifiers]
    queries = [q for q, of_query in enumerate(identifiers) if of_query]
    packed = pack_identifiers(
        [identifiers[q] for q in queries], [[0] * len(identifiers[q]) for q in queries], max_row_tokens
    )
    used = np.nonzero((packed.segments >= 0).any(-1))
    order = sorted(zip(*used, strict=True), key=lambda row: -(packed.segments[row] >= 0).sum())
    training = model.training
    model.eval()
    try:
        while order:
            width = int((packed.segments[order[0]] >= 0).sum())
            size = max(1, max_batch_tokens // width)
            batch, order = order[:size], order[size:]
            own = sorted({row[0] for row in batch})
            longest = max(len(prompts[queries[b]]) for b in own)
            input_ids = torch.zeros(len(own), longest, dtype=torch.long)
            attention_mask = torch.zeros_like(input_ids)
            for place, b in enumerate(own):
                ids = torch.tensor(prompts[queries[b]])
                input_ids[place, : len(ids)] = ids
                attention_mask[place, : len(ids)] = 1
            labels, segments, positions = (
                torch.stack([torch.from_numpy(array[row][:width]) for row in batch])
                for array in (packed.labels, packed.segments, packed.positions)
            )
            row_prompts = torch.tensor([own.index(row[0]) for row in batch])
            tensors = (input_ids, attention_mask, row_prompts, labels, segments, positions)
            log_p = score_rows(model, *(t.to(device) for t in tensors)).log_probabilities
            sums = sum_by_identifier(log_p, segments.to(device), int(segments.max()) + 1).cpu()
            for (b, _), row_sums, row_segments in zip(batch, sums.tolist(), segments.numpy(), strict=True):
                for k in set(row_segments[row_segments >= 0].tolist()):
                    results[queries[b]][k] = row_sums[k]
    finally:
        model.train(training)
    return results


def sum_by_identifier(values: Tensor, segments: Tensor, num_identifiers: int) -> Tensor:
    """
    Sums over the tokens of each identifier.

    Args:
        values (`torch.Tensor` of shape `(B, ...)`, floating): One value a token.
        segments (`torch.LongTensor` of the same shape): Number of the identifier of each token, -1 for none.
        num_identifiers (`int`): K, more than the largest number.

    Returns:
        `torch.Tensor` of shape `(B, K)`.
    """
    numbers = segments.flatten(1).where(segments.flatten(1) >= 0, num_identifiers)
    sums = values.new_zeros(len(values), num_identifiers + 1)
    return sums.scatter_add(1, numbers, values.flatten(1))[:, :num_identifiers]


def _packed_mask(segments: Tensor, base: Any) -> Tensor:
    """Who may attend to whom, `(R, 1, T, T)`, in the form that the model's attention wants."""
    attention = packing_attention(base)
    same = (segments.unsqueeze(1) == segments.unsqueeze(2)) & (segments >= 0).unsqueeze(1)
    # Cells without a token attend to themselves: a softmax over nothing is not a number.
    allowed = same.tril() | torch.eye(segments.shape[1], dtype=torch.bool, device=segments.device)
    if attention == "sdpa":
        return allowed.unsqueeze(1)
    additive = torch.zeros(allowed.shape, dtype=base.dtype, device=segments.device)
    return additive.masked_fill(~allowed, torch.finfo(base.dtype).min).unsqueeze(1)


def _logits(
    model: nn.Module,
    base: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    row_prompts: Tensor,
    decoder_input_ids: Tensor,
    mask: Tensor | None,
    positions: Tensor | None,
) -> Tensor:
    with ExitStack() as stack:
        module = position_module(base.get_decoder())
        if positions is not None and module is not None:
            stack.enter_context(_positions_replaced(module, positions))
        if len(row_prompts) != len(input_ids):
            stack.enter_context(_each_prompt_encoded_once(base.get_encoder(), len(input_ids), row_prompts))
        outputs = model(
            input_ids=input_ids[row_prompts],
            attention_mask=attention_mask[row_prompts],
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=mask,
            use_cache=False,
        )
    return outputs["logits"] if isinstance(outputs, dict) else outputs[0]


@contextmanager
def _positions_replaced(module: nn.Module, positions: Tensor) -> Iterator[None]:
    """Make a module embed these positions, `(R, T)`, whatever it is asked for."""
    signature = inspect.signature(module.forward)

    def before(_: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        bound = signature.bind(*args, **kwargs)
        # In one row: some modules add a dimension in front and some do not.
        bound.arguments["position_ids"] = positions.flatten()
        return bound.args, bound.kwargs

    def after(_: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output.reshape(*positions.shape, output.shape[-1])

    with _installed(module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)):
        yield


@contextmanager
def _each_prompt_encoded_once(encoder: nn.Module, num_prompts: int, row_prompts: Tensor) -> Iterator[None]:
    """Give the encoder one row a prompt, and the decoder one a decoder row."""
    rows = len(row_prompts)
    numbers = torch.arange(rows, device=row_prompts.device)
    row_of_prompt = numbers.new_zeros(num_prompts).scatter(0, row_prompts, numbers)

    def narrowed(value: Any) -> Any:
        return value[row_of_prompt] if isinstance(value, Tensor) and value.dim() > 1 and len(value) == rows else value

    def before(_: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return tuple(map(narrowed, args)), {name: narrowed(value) for name, value in kwargs.items()}

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
