"""Beam search bound to the index, which keeps every identifier that it looks at with its exact log-likelihood.

It finds what `generate` with `early_stopping="never"`, no length penalty and every illegal token masked finds, at less
cost: only legal tokens are ranked, the first step runs once a query and not once a beam, and what is finished leaves
the batch. The model is asked through its own `forward`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from dgr_trainer.errors import DGRValueError
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval.beam_kernels import best_children
from dgr_trainer.retrieval.legal_tokens import LegalTokens
from dgr_trainer.student.model_facts import start_token_id


class Hypothesis(NamedTuple):
    """An identifier that the search found.

    Attributes:
        ids: The generated ids, closing marker included.
        log_likelihood: Sum of the model's log-probabilities of `ids`, over the full vocabulary.
        occurrences: How often it occurs in the corpus.
    """

    ids: tuple[int, ...]
    log_likelihood: float
    occurrences: int


class ViewSearch(NamedTuple):
    """What a search in one view found.

    Attributes:
        hypotheses: Identifiers of each query, in the order in which the search came upon them.
        first_scores (`torch.Tensor` of shape `(queries, vocabulary)`): Log-probabilities of the first token, -inf
            where no identifier of the view starts with it.
    """

    hypotheses: list[list[Hypothesis]]
    first_scores: torch.Tensor


def search_views(
    model: Any,
    index: FMIndex,
    identifiers: Identifiers,
    queries: Sequence[str],
    lengths: Mapping[str, int],
    num_beams: int,
) -> dict[str, ViewSearch]:
    """Generate the identifiers of views for a batch of queries, all in one search.

    In each step a query's best legal children, twice as many as beams, are found: these are kept, complete ones leave,
    and of the others the best are the beams of the next step. Once no open hypothesis can come among a query's
    `num_beams` best complete ones, the query is done. What else is in the batch changes nothing but rounding.

    Args:
        model ([`~transformers.PreTrainedModel`]): The student, without wrappers; see `generation_mode`.
        index ([`FMIndex`]): Index of the corpus.
        identifiers ([`Identifiers`]): Prompts and markers.
        queries (`Sequence[str]`): At least one query.
        lengths (`Mapping[str, int]`): Of each view, its longest identifier in tokens, closing marker included.
        num_beams (`int`): Beams of each query and view.

    Returns:
        `dict[str, ViewSearch]`: what was found, by view.
    """
    searches = [
        _View(LegalTokens(index, identifiers, view, best=2 * num_beams), length, len(queries), num_beams)
        for view, length in lengths.items()
    ]
    prompts = [ids for view in lengths for ids in identifiers.encode_prompts(queries, view)]
    decoder = Decoder(model, prompts)
    parents = np.zeros(0, np.int64)
    tokens = np.full(len(prompts), start_token_id(model))
    while len(tokens):
        scores = decoder.step(parents, tokens)
        rows = np.cumsum([0, *(len(search.scores) for search in searches)])
        grown = [search.grow(scores[rows[n] : rows[n + 1]]) for n, search in enumerate(searches)]
        parents = np.concatenate([of_view + rows[n] for n, of_view in enumerate(grown)])
        tokens = np.concatenate([search.ids[:, -1] for search in searches])
    return {
        view: ViewSearch(search.found, search.first_scores) for view, search in zip(lengths, searches, strict=True)
    }


class _View:
    """The beams of one view, for all queries of a batch.

    Attributes:
        ids (`np.ndarray` of int64, shape `(rows, length)`), scores (`np.ndarray` of float32, shape `(rows,)`): The
            beams; those of a query stand together, best first.
        found (`list[list[Hypothesis]]`): What was found for each query.
    """

    def __init__(self, legal: LegalTokens, length: int, num_queries: int, num_beams: int) -> None:
        self.legal = legal
        self.length = length
        self.num_beams = num_beams
        self.found: list[list[Hypothesis]] = [[] for _ in range(num_queries)]
        self.ids = np.zeros((num_queries, 0), dtype=np.int64)
        self.scores = np.zeros(num_queries, dtype=np.float32)
        self._queries = np.arange(num_queries)
        self._ranges = np.repeat(legal.root[None], num_queries, axis=0)
        # Best complete hypotheses so far, ascending: the first is the one to beat.
        self._complete = np.full((num_queries, num_beams), -np.inf, dtype=np.float32)
        self.first_scores: Any = None

    def grow(self, scores: torch.Tensor) -> np.ndarray:
        """One step.

        Args:
            scores (`torch.Tensor` of shape `(rows, vocabulary)`): Log-probabilities of what follows each beam.

        Returns:
            `np.ndarray` of int64: the rows that the beams of the next step grew from.
        """
        if not len(self.ids):
            return np.zeros(0, dtype=np.int64)
        rows, tokens, totals = self._children(scores)
        queries = self._queries[rows]
        chosen = best_children(queries, totals, rows * scores.shape[1] + tokens, len(self.found), 2 * self.num_beams)
        rows, queries, totals = rows[chosen], queries[chosen], totals[chosen]
        ids = np.concatenate([self.ids[rows], tokens[chosen, None]], axis=1)
        ranges = self.legal.extend(self._ranges[rows], ids[:, -1])
        complete = self.legal.is_complete(ids)
        kept = complete if len(self.legal.end) else np.ones(len(ids), dtype=bool)
        counts = self.legal.index.counts(ranges[kept])
        for query, of_query, score, count in zip(
            queries[kept].tolist(), ids[kept].tolist(), totals[kept].tolist(), counts.tolist(), strict=True
        ):
            self.found[query].append(Hypothesis(tuple(of_query), score, count))
        beams = self._beams(queries, totals, complete) if ids.shape[1] < self.length else np.zeros(0, dtype=np.int64)
        self.ids, self.scores, self._queries, self._ranges = ids[beams], totals[beams], queries[beams], ranges[beams]
        return rows[beams]

    def _children(self, scores: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, tokens and scores of legal children, the best of each query among them."""
        if self.ids.shape[1] == 0:
            first = torch.from_numpy(self.legal.first).to(scores.device)
            self.first_scores = torch.full_like(scores, -torch.inf)
            self.first_scores[:, first] = scores[:, first]
            best, places = scores[:, first].topk(min(2 * self.num_beams, len(first)), dim=-1)
            rows = np.repeat(np.arange(len(scores)), best.shape[1])
            tokens, totals = self.legal.first[places.flatten().cpu().numpy()], best.flatten().cpu().numpy()
        else:
            rows, tokens = self.legal.next(self.ids, self._ranges, scores)
            pairs = torch.from_numpy(rows).to(scores.device), torch.from_numpy(tokens).to(scores.device)
            totals = self.scores[rows] + scores[pairs].cpu().numpy()
        possible = totals > -np.inf  # Some models rule tokens out by themselves.
        return rows[possible], tokens[possible], totals[possible]

    def _beams(self, queries: np.ndarray, totals: np.ndarray, complete: np.ndarray) -> np.ndarray:
        """Which children are the next beams: the best open ones of queries that are not done."""
        closed = np.flatnonzero(complete)
        for query, total in zip(queries[closed].tolist(), totals[closed].tolist(), strict=True):
            if total > self._complete[query, 0]:
                self._complete[query, 0] = total
                self._complete[query].sort()
        still_open = np.flatnonzero(~complete)
        # Children stand best first: the first open one of a query is its best.
        position = np.arange(len(still_open)) - np.searchsorted(queries[still_open], queries[still_open])
        best = np.full(len(self.found), -np.inf, dtype=np.float32)
        best[queries[still_open[position == 0]]] = totals[still_open[position == 0]]
        going_on = best > self._complete[:, 0]
        return still_open[(position < self.num_beams) & going_on[queries[still_open]]]


class Decoder:
    """A model's decoder, step by step, with its cache.

    Args:
        model ([`~transformers.PreTrainedModel`]): An encoder-decoder model.
        prompts (`list[list[int]]`): Token ids of the encoder's inputs; each is one row of the first step.
    """

    def __init__(self, model: Any, prompts: list[list[int]]) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        width = max(map(len, prompts))
        pad = model.config.pad_token_id or 0
        ids = torch.tensor([ids + [pad] * (width - len(ids)) for ids in prompts], device=self.device)
        mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in prompts], device=self.device)
        self._states = model.get_encoder()(input_ids=ids, attention_mask=mask, return_dict=True)[0]
        self._mask = mask
        self._cache: Any = None
        # transformers 5.24 renamed it.
        parameters = inspect.signature(type(model).forward).parameters
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"
        self._prompt_of = np.arange(len(prompts))
        self._rows = self._states, self._mask

    def step(self, parents: np.ndarray, tokens: np.ndarray) -> torch.Tensor:
        """Read one token a row.

        Args:
            parents (`np.ndarray` of int64, shape `(rows,)`): The row of the step before that each row goes on from;
                not used in the first step.
            tokens (`np.ndarray` of int64, shape `(rows,)`): The tokens.

        Returns:
            `torch.Tensor` of float32, shape `(rows, vocabulary)`: log-probabilities of what follows.
        """
        if self._cache is not None:
            self._reorder(parents)
        states, mask = self._rows
        outputs = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask,
            decoder_input_ids=torch.from_numpy(tokens).to(self.device)[:, None],
            use_cache=True,
            return_dict=True,
            **{self._cache_name: self._cache},
        )
        self._cache = getattr(outputs, self._cache_name)
        if not isinstance(self._cache, EncoderDecoderCache):
            raise DGRValueError(
                f"{type(self.model).__name__} keeps no cache of what its decoder read, which the search needs. Use a "
                "model with an EncoderDecoderCache, such as BART or T5."
            )
        return outputs.logits[:, -1].float().log_softmax(dim=-1)

    def _reorder(self, parents: np.ndarray) -> None:
        rows = torch.from_numpy(parents).to(self.device)
        prompt_of = self._prompt_of[parents]
        if np.array_equal(prompt_of, self._prompt_of):  # What is known of the prompts is the same for each beam.
            self._cache.self_attention_cache.reorder_cache(rows)
            return
        self._cache.reorder_cache(rows)
        prompts = torch.from_numpy(prompt_of).to(self.device)
        self._rows = self._states[prompts], self._mask[prompts]
        self._prompt_of = prompt_of
