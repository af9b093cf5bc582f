"""Every identifier that a beam search looks at, with its exact log-likelihood."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteria

from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval.beams import match_prefixes
from dgr_trainer.retrieval.constraint import DEAD_END, IndexConstraint
from dgr_trainer.training.scoring import start_token_id


class Hypothesis(NamedTuple):
    """
    An identifier that the search found.

    Attributes:
        ids: The generated ids, closing marker included.
        log_likelihood: Sum of the model's log-probabilities of `ids`, over the full vocabulary.
        occurrences: How often it occurs in the corpus.
    """

    ids: tuple[int, ...]
    log_likelihood: float
    occurrences: int


class _Step(NamedTuple):
    """What one step of the search found: one entry a hypothesis, better ones of a query first."""

    query: np.ndarray
    ids: np.ndarray
    score: np.ndarray
    occurrences: np.ndarray


class HypothesisRecorder(StoppingCriteria):
    """
    Watches a constrained beam search and keeps every legal hypothesis it looks at, kept in the beam or not.

    In each step beam search weighs the best children of its beams, twice as many as beams, and shows them to its
    stopping criteria. Their log-probabilities are those that the constraint let through. A complete hypothesis leaves
    the beam. Once no open hypothesis can come among a query's `num_beams` best complete ones, the query is settled,
    and what the search still does with it (because others of the batch go on) is not recorded: so the outcome does
    not depend on the batch.

    Args:
        constraint ([`IndexConstraint`]): The constraint of the same search.
        num_queries (`int`): Queries in the batch.

    Attributes:
        first_scores (`torch.Tensor` of shape `(num_queries, vocabulary)`): Log-probabilities of the first token where
            it is legal, -inf elsewhere; set by the first step.
    """

    def __init__(self, constraint: IndexConstraint, num_queries: int) -> None:
        self.constraint = constraint
        self.num_queries = num_queries
        self.first_scores: torch.Tensor | None = None
        self._steps: list[_Step] = []
        self._settled = np.zeros(num_queries, dtype=bool)
        # Best complete hypotheses so far, ascending: the first is the one to beat.
        self._finished = np.full((num_queries, constraint.num_beams), -np.inf, dtype=np.float32)
        # The children of the step before that can go on.
        self._ids = np.zeros((num_queries, 0), dtype=np.int64)
        self._scores = np.zeros(num_queries, dtype=np.float32)
        self._open = np.ones(num_queries, dtype=bool)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: object) -> torch.BoolTensor:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(num_queries * children, length)`): Children, best first.
            scores: Not used.

        Returns:
            `torch.BoolTensor` of shape `(num_queries * children,)`: which of them go no further.
        """
        state = self.constraint.state
        if state is None:
            raise ValueError(
                "The recorder saw no scores: pass its constraint to the same search, as a logits processor."
            )
        ids = input_ids[:, 1:].cpu().numpy()
        if ids.shape[1] == 1:
            self.first_scores = state.scores[:: self.constraint.num_beams].clone()
        queries = np.arange(len(ids)) // (len(ids) // self.num_queries)
        rows, in_beam = match_prefixes(ids, state.ids, self.num_queries, state.open)
        parents, known = match_prefixes(ids, self._ids, self.num_queries, self._open)
        picked = torch.from_numpy(rows).to(state.scores.device), input_ids[:, -1].to(state.scores.device)
        token_scores = state.scores[picked].float().cpu().numpy()
        totals = self._scores[parents] + token_scores

        legal = in_beam & known & (token_scores > DEAD_END / 10) & ~self._settled[queries]
        legal[legal] = _first_of_each(rows[legal] * state.scores.shape[1] + ids[legal, -1])
        index = self.constraint.index
        occurrences = np.zeros(len(ids), dtype=np.int64)
        occurrences[legal] = index.counts(index.extend(state.ranges[rows[legal]], ids[legal, -1]))
        complete = legal & self.constraint.is_complete(ids)
        keep = complete if len(self.constraint.end) else legal
        self._steps.append(_Step(queries[keep], ids[keep], totals[keep], occurrences[keep]))

        self._ids, self._scores, self._open = ids, totals, legal & ~complete
        self._settle(complete)
        done = ~self._open | self._settled[queries]
        return torch.from_numpy(done).to(input_ids.device)  # type: ignore[return-value]

    def _settle(self, complete: np.ndarray) -> None:
        """Close the queries in which no open hypothesis can still come among the best complete ones."""
        best_open = np.where(self._open, self._scores, -np.inf).reshape(self.num_queries, -1).max(axis=1)
        new = np.where(complete, self._scores, -np.inf).reshape(self.num_queries, -1)
        merged = np.sort(np.concatenate([self._finished, new], axis=1), axis=1)
        self._finished = merged[:, -self.constraint.num_beams :].astype(np.float32)
        self._settled |= best_open <= self._finished[:, 0]

    def hypotheses(self) -> list[list[Hypothesis]]:
        """Identifiers of each query, in the order in which the search came upon them."""
        found: list[list[Hypothesis]] = [[] for _ in range(self.num_queries)]
        for step in self._steps:
            values = zip(
                step.query.tolist(),
                step.ids.tolist(),
                step.score.tolist(),
                step.occurrences.tolist(),
                strict=True,
            )
            for query, ids, score, count in values:
                found[query].append(Hypothesis(tuple(ids), score, count))
        return found


class ViewSearch(NamedTuple):
    """What a search in one view found.

    Attributes:
        hypotheses: Identifiers of each query.
        first_scores (`torch.Tensor` of shape `(queries, vocabulary)`): Log-probabilities of the first token, -inf
            where no identifier of the view starts with it.
    """

    hypotheses: list[list[Hypothesis]]
    first_scores: torch.Tensor


def search_view(
    model: Any,
    index: FMIndex,
    identifiers: Identifiers,
    queries: Sequence[str],
    view: str,
    *,
    num_beams: int,
    length: int,
) -> ViewSearch:
    """
    Generate the identifiers of one view for a batch of queries.

    Args:
        model ([`~transformers.PreTrainedModel`]): The student, without wrappers; see `ready_to_generate`.
        index ([`FMIndex`]): Index of the corpus.
        identifiers ([`Identifiers`]): Prompts and markers.
        queries (`Sequence[str]`): At least one query.
        view (`str`): The view.
        num_beams (`int`): Beams a query.
        length (`int`): Longest identifier in tokens, closing marker included.
    """
    constraint = IndexConstraint(index, identifiers, view, num_beams, best=2 * num_beams)
    recorder = HypothesisRecorder(constraint, len(queries))
    model.generate(
        **encoder_inputs(model, identifiers, queries, view),
        generation_config=beam_settings(num_beams, length),
        logits_processor=[constraint],
        stopping_criteria=[recorder],
    )
    assert recorder.first_scores is not None  # Every search makes at least one step.
    return ViewSearch(recorder.hypotheses(), recorder.first_scores)


def encoder_inputs(
    model: PreTrainedModel, identifiers: Identifiers, queries: Sequence[str], view: str
) -> dict[str, torch.Tensor]:
    """Prompts that ask for identifiers of a view, padded and on the device of the model."""
    prompts = identifiers.encode_prompts(queries, view)
    width = max(map(len, prompts))
    pad = model.config.pad_token_id or 0
    device = next(model.parameters()).device
    return {
        "input_ids": torch.tensor([ids + [pad] * (width - len(ids)) for ids in prompts], device=device),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in prompts], device=device),
    }


def beam_settings(num_beams: int, length: int) -> GenerationConfig:
    """Plain beam search for so many tokens, which nothing but its stopping criteria ends earlier."""
    # What is left out here is looked up in the model's own settings: see `ready_to_generate`.
    beams = {"early_stopping": "never", "length_penalty": 0.0} if num_beams > 1 else {}
    return GenerationConfig(num_beams=num_beams, do_sample=False, max_new_tokens=length, use_cache=True, **beams)


@contextmanager
def ready_to_generate(model: torch.nn.Module) -> Iterator[PreTrainedModel]:
    """
    A view of a model that generates exactly what its weights say; the model itself is left as it was.

    Dropout and autocast are off inside. A checkpoint's generation settings (forced tokens, penalties, minimum
    lengths, ...) fill every gap in what `generate` is told, so the view has none but the start of the decoder.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]): An encoder-decoder model, wrapped or not.

    Raises:
        `ValueError`: for an adapter that works by prompts, and for a model that cannot generate.
    """
    model = extract_model_from_parallel(model, keep_fp32_wrapper=True, keep_torch_compile=False)
    base = model
    if hasattr(model, "get_base_model"):
        if model.active_peft_config.is_prompt_learning:  # type: ignore[union-attr]
            raise ValueError(
                f"The adapter is of type {model.active_peft_config.peft_type.value}, which "  # type: ignore[union-attr]
                "puts virtual tokens before the query; constrained decoding does not support it. Use LoRA or another "
                "adapter that changes the layers."
            )
        base = model.get_base_model()  # type: ignore[operator]
    if not getattr(getattr(base, "config", None), "is_encoder_decoder", False) or not hasattr(base, "generate"):
        raise ValueError(
            f"{type(base).__name__} is no encoder-decoder model that generates. Load the student with "
            "AutoModelForSeq2SeqLM."
        )
    # Shares every parameter and module; only attributes set on the copy are its own.
    plain: Any = copy.copy(base)
    if "_original_forward" in vars(plain):  # Accelerate's, around which it put autocast.
        plain.forward = plain._original_forward
    plain.generation_config = GenerationConfig(decoder_start_token_id=start_token_id(base))
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    plain.eval()
    try:
        with torch.no_grad(), torch.autocast(next(base.parameters()).device.type, enabled=False):
            yield plain
    finally:
        for module, training in modes:
            module.training = training


def _first_of_each(values: np.ndarray) -> np.ndarray:
    """Which values are the first of their equals."""
    first = np.zeros(len(values), dtype=bool)
    first[np.unique(values, return_index=True)[1]] = True
    return first
