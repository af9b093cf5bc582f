"""Scoring: one forward pass of a sequence-to-sequence model, whole identifiers' log-likelihoods out.

Identifiers come packed, many to a decoder row (see `packing`). Inside a row each prefix attends to the prefixes that
it begins with, and its position is its length: so packed identifiers get the log-likelihoods that they get one by one.
Decoders with relative positions need the mask only; those that add position embeddings have their positions replaced
for the one forward pass. Decoders that allow neither are given one identifier a row, and the encoder still reads each
prompt once.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn

from dgr_trainer.errors import DGRValueError
from dgr_trainer.student.decoder_rows import position_modules
from dgr_trainer.student.forward_pass import Targets, predict
from dgr_trainer.student.packing import pack_identifiers
from dgr_trainer.student.prefix_trees import EMPTY

logger = logging.getLogger(__name__)
_told_flat: set[str] = set()


class TokenScores(NamedTuple):
    """Log-probabilities of packed target tokens, 0 where there is no token.

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


def embedding_rows(model: nn.Module) -> int:
    """How many tokens a model embeds."""
    embeddings = underlying_model(model).get_input_embeddings()
    # peft wraps embeddings that are trained beside an adapter.
    return getattr(embeddings, "original_module", embeddings).num_embeddings


def start_token_id(model: nn.Module) -> int:
    """The token with which the decoder begins. Raises a `ValueError` if the model's configuration names none."""
    base = underlying_model(model)
    generation = getattr(base, "generation_config", None)
    for config in (base.config, generation):
        token = getattr(config, "decoder_start_token_id", None)
        if token is not None:
            return int(token[0] if isinstance(token, list) else token)
    raise DGRValueError(
        f"The configuration of {type(base).__name__} has no decoder_start_token_id, so it is not known what its "
        "decoder reads first. Set model.config.decoder_start_token_id (mBART: to the id of the language code)."
    )


def can_pack(model: nn.Module) -> bool:
    """Whether a model's decoder can score several identifiers in one row.

    It can when it can be told the positions of its tokens: when its position embeddings take `position_ids` (BART,
    Pegasus, Marian, ...) or its positions are rotary or a bias in its attention (T5).
    """
    return position_modules(underlying_model(model).get_decoder()) is not None


def packing_attention(model: nn.Module) -> str:
    """The attention implementation of a model's decoder, which decides the form of its masks.

    Raises:
        ValueError: if it takes no mask for many identifiers in one row.
    """
    base = underlying_model(model)
    attention = getattr(base.get_decoder().config, "_attn_implementation", None) or base.config._attn_implementation
    if attention not in ("sdpa", "eager"):
        raise DGRValueError(
            f"The model uses attn_implementation={attention!r}, which takes no mask for many identifiers in one row. "
            "Load it with attn_implementation='sdpa'."
        )
    return attention


def score_tokens(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    rows: Mapping[str, Tensor],
    *,
    packed: bool | None = None,
    tokens_at_once: int | None = None,
) -> TokenScores:
    """Log-probabilities of the tokens of packed identifiers, by one forward pass of the model.

    Args:
        model (`nn.Module`): A sequence-to-sequence model as it comes, wrapped for DDP or with adapters.
        input_ids (`torch.LongTensor` of shape `(P, L)`): Prompts.
        attention_mask (`torch.LongTensor` of shape `(P, L)`): 1 where a prompt has a token.
        rows (`Mapping[str, torch.LongTensor]`): The arrays of [`PackedIdentifiers`], by name; others are left alone.
        packed (`bool`, *optional*):
            Whether to run the rows as they are, or one identifier a row. By default as `can_pack` says.
        tokens_at_once (`int`, *optional*):
            Decoder tokens, padding included, whose activations are kept for the backward pass (see `decoder_rows`).
            By default those of all rows.

    Returns:
        [`TokenScores`] of shape `(B, C)`.

    Raises:
        ValueError: if the model uses an attention implementation that takes no mask, or has no start token.
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
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    labels, present = rows["labels"], rows["segments"] >= 0
    depths = None
    if packed:
        tokens, depths, ends, prompts = (
            rows[name].flatten(0, 1) for name in ("prefix_tokens", "prefix_depths", "prefix_ends", "row_prompts")
        )
        inputs["decoder_input_ids"] = torch.where(tokens == EMPTY, start_token_id(model), tokens)
        inputs["decoder_attention_mask"] = _packed_mask(ends, base)
        scored, sources = rows["scored_prefixes"].flatten(), rows["label_prefixes"].flatten()
    else:
        prompts, inputs["decoder_input_ids"], scored, sources = _one_identifier_a_row(rows, start_token_id(model))
    targets = Targets(scored, sources, labels.clamp(min=0).flatten())
    log_p, mean = predict(
        model, base, inputs, targets, row_prompts=prompts, positions=depths, tokens_at_once=tokens_at_once
    )
    return TokenScores(*(values.view_as(labels).masked_fill(~present, 0.0) for values in (log_p, mean)))


@torch.no_grad()
def score_identifiers(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    identifiers: Sequence[Sequence[Sequence[int]]],
    *,
    max_row_tokens: int = 256,
    max_batch_tokens: int = 2048,
) -> list[list[float]]:
    """Log-likelihoods of identifiers under a prompt each, without gradients and without dropout.

    Args:
        model (`nn.Module`): A sequence-to-sequence model.
        prompts (`Sequence[Sequence[int]]`): Token ids of the encoder input of each query.
        identifiers (`Sequence[Sequence[Sequence[int]]]`): Token ids of the identifiers to score for each query.
        max_row_tokens (`int`, defaults to 256): Longest decoder row.
        max_batch_tokens (`int`, defaults to 2048):
            Tokens of identifiers in one forward pass; those of a query that has more go through the decoder in pieces.

    Returns:
        `list[list[float]]`: l(i|q) = sum of log p, natural logarithm, for each identifier of each query.
    """
    device = next(model.parameters()).device
    results = [[0.0] * len(of_query) for of_query in identifiers]
    # Queries with trees of like size go together.
    order = sorted(
        (q for q, of_query in enumerate(identifiers) if of_query), key=lambda q: sum(map(len, identifiers[q]))
    )
    training = model.training
    model.eval()
    try:
        while order:
            batch = _as_many_as_fit(order, identifiers, max_batch_tokens)
            order = order[: -len(batch)]
            own = [identifiers[q] for q in batch]
            packed = pack_identifiers(own, [[0] * len(ids) for ids in own], 1, max_row_tokens)
            rows = {name: torch.from_numpy(array).to(device) for name, array in packed._asdict().items()}
            input_ids = torch.zeros(len(batch), max(len(prompts[q]) for q in batch), dtype=torch.long)
            attention_mask = torch.zeros_like(input_ids)
            for place, q in enumerate(batch):
                ids = torch.tensor(prompts[q])
                input_ids[place, : len(ids)] = ids
                attention_mask[place, : len(ids)] = 1
            log_p = score_tokens(
                model, input_ids.to(device), attention_mask.to(device), rows, tokens_at_once=max_batch_tokens
            ).log_probabilities
            sums = sum_by_identifier(log_p, rows["segments"], max(map(len, own))).tolist()
            for q, of_query in zip(batch, sums, strict=True):
                results[q] = of_query[: len(identifiers[q])]
    finally:
        model.train(training)
    return results


def _as_many_as_fit(
    order: Sequence[int], identifiers: Sequence[Sequence[Sequence[int]]], max_tokens: int
) -> list[int]:
    """Queries from the end of an order, one at least, with no more tokens than that together."""
    batch: list[int] = []
    tokens = 0
    for q in reversed(order):
        tokens += sum(map(len, identifiers[q]))
        if batch and tokens > max_tokens:
            break
        batch.append(q)
    return batch


def sum_by_identifier(values: Tensor, segments: Tensor, num_identifiers: int) -> Tensor:
    """Sums over the tokens of each identifier.

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


def _packed_mask(ends: Tensor, base: Any) -> Tensor:
    """Who may attend to whom, `(R, 1, N, N)`, in the form that the model's attention wants: prefixes to what they
    begin with, themselves included."""
    attention = packing_attention(base)
    places = torch.arange(ends.shape[1], device=ends.device)
    allowed = (places <= places.unsqueeze(-1)) & (places.unsqueeze(-1) < ends.unsqueeze(1))
    if attention == "sdpa":
        return allowed.unsqueeze(1)
    additive = torch.zeros(allowed.shape, dtype=base.dtype, device=ends.device)
    return additive.masked_fill(~allowed, torch.finfo(base.dtype).min).unsqueeze(1)


def _one_identifier_a_row(rows: Mapping[str, Tensor], start: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One identifier a row: prompts `(I,)`, decoder inputs `(I, T)`, states to project, the state of each token."""
    labels, present = rows["labels"], rows["segments"] >= 0
    width = rows["prefix_tokens"].shape[-1]
    places = rows["scored_prefixes"].flatten()[rows["label_prefixes"]]
    columns = rows["prefix_depths"].flatten()[places]
    prompt_of = rows["row_prompts"].flatten()[places // width]
    starts = present & (columns == 0)
    if not starts.any():
        starts[0, 0] = True  # A pass with nothing in it, so that all processes make one.
    row_of = starts.flatten().cumsum(0).view_as(starts) - 1
    inputs = labels.new_full((int(starts.sum()), int(columns.max()) + 1), 0)
    targets = torch.where(columns == 0, start, labels.clamp(min=0).roll(1, dims=-1))
    inputs[row_of[present], columns[present]] = targets[present]
    scored = (row_of.clamp(min=0) * inputs.shape[1] + columns).flatten()
    return prompt_of[starts], inputs, scored, torch.arange(scored.numel(), device=scored.device)
