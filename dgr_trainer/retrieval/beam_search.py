"""A beam search constrained by the index, which keeps every identifier that it visits with its log-likelihood.

It finds what `generate` finds with `early_stopping="never"`, no length penalty and every illegal token masked, at a
lower cost: only legal tokens are ranked, the first step runs once per query instead of once per beam, and finished
queries leave the batch. The model runs through its own `forward`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from dgr_trainer.candidates import MatchedIdentifier
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.index.tensor_index import TensorIndex
from dgr_trainer.retrieval.beam_kernels import best_children
from dgr_trainer.retrieval.device_children import (
    Children,
    DeviceChildren,
    Proposal,
    fetched,
    index_on_device,
    sent,
    taken,
)
from dgr_trainer.retrieval.legal_tokens import LegalTokens
from dgr_trainer.retrieval.outlook import NextTokens, Occurrences, Outlook, with_next_tokens
from dgr_trainer.student.model_facts import model_device
from dgr_trainer.student.students import student_of


class ViewSearch(NamedTuple):
    """The result of a search in one view.

    Attributes:
        identifiers (`list[list[MatchedIdentifier]]`): The identifiers of each query, in the order in which the search
            visited them. Their score is the sum of the model's log-probabilities of `ids`, over the full vocabulary.
        first_scores (`torch.Tensor` of shape `(queries, vocabulary)`): Log-probabilities of the first token, -inf
            where no identifier of the view starts with it.
    """

    identifiers: list[list[MatchedIdentifier]]
    first_scores: torch.Tensor


def search_views(
    model: Any,
    index: FMIndex,
    identifiers: Identifiers,
    queries: Sequence[str],
    lengths: Mapping[str, int],
    num_beams: int,
    on_token: Callable[[int], None] | None = None,
    constraint_device: str = "auto",
    look_ahead: Callable[[Mapping[str, torch.Tensor]], Outlook] | None = None,
) -> dict[str, ViewSearch]:
    """Generate the identifiers of several views for a batch of queries, all in one search.

    Each step finds a query's best legal children, twice as many as it has beams, and keeps all of them. Complete ones
    leave the search; the best of the others are the beams of the next step. A query is finished once no open
    hypothesis can become one of its `num_beams` best complete ones. The other queries of a batch change only rounding.

    Args:
        model ([`~transformers.PreTrainedModel`]): The student, without wrappers; see `generation_mode`.
        index ([`FMIndex`]): Index of the corpus; or an [`EditedIndex`], whose readers are the queries.
        identifiers ([`Identifiers`]): Prompts and markers.
        queries (`Sequence[str]`): At least one query.
        lengths (`Mapping[str, int]`): Length of the longest identifier of each view, in tokens, closing marker
            included.
        num_beams (`int`): Beams per query and view.
        on_token (`Callable[[int], None]`, *optional*): Called after each step with the number of tokens so far.
        constraint_device (`str`, *optional*, defaults to `"auto"`):
            Where the index is asked: see `SearchSettings.constraint_device`. The results are the same.
        look_ahead (`Callable[[Mapping[str, torch.Tensor]], Outlook]`, *optional*):
            Called with the `first_scores` of each view before the first step. What follows a hypothesis in the texts
            of the [`Outlook`] is among its children, and which children are the best is decided with the bonuses of
            these texts. Scores and counts are without them.

    Returns:
        `dict[str, ViewSearch]`: the result of each view.
    """
    searches = [
        _ViewBeams(view, LegalTokens(index, identifiers, view, best=2 * num_beams), length, len(queries), num_beams)
        for view, length in lengths.items()
    ]
    where = constraint_device if look_ahead is None else "host"
    on_device = index_on_device(index, model_device(model), where, num_beams)
    if on_device is not None:
        for search in searches:
            search.move_to(on_device)
    prompts = [ids for view in lengths for ids in identifiers.encode_prompts(queries, view)]
    decoder = student_of(model).prefill(prompts)
    scores = decoder.scores
    if look_ahead is not None:
        first = {
            search.view: search.read_first(scores[number * len(queries) : (number + 1) * len(queries)])
            for number, search in enumerate(searches)
        }
        outlook = look_ahead(first)
        for search in searches:
            search.look_ahead(outlook)
    step = 0
    while True:
        rows = np.cumsum([0, *(len(search.scores) for search in searches)])
        of_views = [scores[rows[n] : rows[n + 1]] for n in range(len(searches))]
        known = fetched([search.propose(of_view) for search, of_view in zip(searches, of_views, strict=True)])
        parents_by_view = [
            search.grow(search.children(of_view) if children is None else children)
            for search, of_view, children in zip(searches, of_views, known, strict=True)
        ]
        parents = np.concatenate([view_parents + rows[n] for n, view_parents in enumerate(parents_by_view)])
        tokens = np.concatenate([search.ids[:, -1] for search in searches])
        step += 1
        if on_token is not None:
            on_token(step)
        if not len(tokens):
            break
        scores = decoder.step(parents, tokens)
    return {search.view: ViewSearch(search.identifiers, search.first_scores) for search in searches}


class _ViewBeams:
    """The beams of one view, for all queries of a batch.

    Attributes:
        ids (`np.ndarray` of int64, shape `(rows, length)`): Tokens of the beams, grouped by query, best first.
        scores (`np.ndarray` of float32, shape `(rows,)`): Log-likelihoods of the beams.
        identifiers (`list[list[MatchedIdentifier]]`): Identifiers of each query so far.
    """

    def __init__(self, view: str, legal: LegalTokens, length: int, num_queries: int, num_beams: int) -> None:
        self.view = view
        self.legal = legal
        self.length = length
        self.num_beams = num_beams
        self.identifiers: list[list[MatchedIdentifier]] = [[] for _ in range(num_queries)]
        self.ids = np.zeros((num_queries, 0), dtype=np.int64)
        self.scores = np.zeros(num_queries, dtype=np.float32)
        self._num_queries = num_queries
        self._queries = np.arange(num_queries)
        self._ranges: Any = legal.roots(num_queries)  # A tensor once the index on the device is asked.
        self._device_children: DeviceChildren | None = None
        # Scores of the best complete hypotheses so far, ascending: the first is the one to beat.
        self._complete_scores = np.full((num_queries, num_beams), -np.inf, dtype=np.float32)
        self.first_scores = torch.empty(0)  # Set in the first step, or before it by `read_first`.
        self._outlook: Outlook | None = None
        self._occurrences = Occurrences(np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int64))

    def read_first(self, scores: torch.Tensor) -> torch.Tensor:
        """Set `first_scores`, given the scores `(queries, vocabulary)` of all tokens, and return them."""
        self._first(scores)
        return self.first_scores

    def look_ahead(self, outlook: Outlook) -> None:
        """Favour the hypotheses that occur in texts from now on."""
        self._outlook = outlook
        self._occurrences = outlook.roots(self.legal.prefix)

    def move_to(self, index: TensorIndex) -> None:
        """Let the index on the model's device propose the children from now on."""
        self._device_children = DeviceChildren(self.legal, index, self._num_queries, self.num_beams)
        self._ranges = sent(self._ranges, index.device)

    def propose(self, scores: torch.Tensor) -> Proposal | None:
        """Begin to choose the children on the device; `None` if the host does it."""
        if self._device_children is None or not len(self.ids) or not len(self.legal.first):
            return None
        if self.ids.shape[1] == 0:
            first, of_first = self._first(scores)
            return self._device_children.first(of_first, first, self._ranges)
        return self._device_children.next(scores, self.scores, self.ids, self._queries, self._ranges)

    def children(self, scores: torch.Tensor) -> Children:
        """Choose the best children of each query on the host.

        Args:
            scores (`torch.Tensor` of shape `(rows, vocabulary)`): Log-probabilities of the next token of each beam.
        """
        if not len(self.ids):
            none = np.zeros(0, dtype=np.int64)
            return Children(none, none, np.zeros(0, dtype=np.float32), none, none, self._ranges)
        on_device = isinstance(self._ranges, torch.Tensor)
        all_ranges = self._ranges.cpu().numpy() if on_device else self._ranges
        rows, tokens, totals = self._legal_children(scores, all_ranges)
        values = totals
        if self._outlook is not None:
            rows, tokens, totals, values = self._favoured_children(rows, tokens, scores, self._outlook)
        queries = self._queries[rows]
        chosen = best_children(queries, values, rows * scores.shape[1] + tokens, self._num_queries, 2 * self.num_beams)
        rows, tokens = rows[chosen], tokens[chosen]
        ranges: Any = self.legal.extend(all_ranges[rows], tokens)
        counts = self.legal.index.counts(ranges)
        if on_device:
            ranges = sent(ranges, self._ranges.device)
        return Children(rows, tokens, totals[chosen], queries[chosen], counts, ranges)

    def grow(self, children: Children) -> np.ndarray:
        """Extend the beams by one token.

        Args:
            children ([`Children`]): The best children of each query.

        Returns:
            `np.ndarray` of int64: for each beam of the next step, the row of this step that it extends.
        """
        if not len(self.ids):
            return np.zeros(0, dtype=np.int64)
        rows, queries, totals = children.rows, children.queries, children.totals
        ids = np.concatenate([self.ids[rows], children.tokens[:, None]], axis=1)
        complete = self.legal.is_complete(ids)
        kept = complete if len(self.legal.end) else np.ones(len(ids), dtype=bool)
        for query, tokens_so_far, count, score in zip(
            queries[kept].tolist(),
            ids[kept].tolist(),
            children.counts[kept].tolist(),
            totals[kept].tolist(),
            strict=True,
        ):
            self.identifiers[query].append(MatchedIdentifier(self.view, tuple(tokens_so_far), count, score))
        beams = self._beams(queries, totals, complete) if ids.shape[1] < self.length else np.zeros(0, dtype=np.int64)
        self.ids, self.scores, self._queries = ids[beams], totals[beams], queries[beams]
        self._ranges = taken(children.ranges, beams)
        parents: np.ndarray = rows[beams]
        if self._outlook is not None:
            self._occurrences = self._outlook.extend(self._occurrences, parents, self.ids[:, -1])
        return parents

    def _first(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens that an identifier can start with, and their scores for each query."""
        first = sent(self.legal.first, scores.device)
        self.first_scores = torch.full_like(scores, -torch.inf)
        of_first = scores[:, first]
        if self.legal.first_of_query is not None:
            of_first = of_first.masked_fill(~sent(self.legal.first_of_query, scores.device), -torch.inf)
        self.first_scores[:, first] = of_first
        return first, of_first

    def _legal_children(self, scores: torch.Tensor, ranges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, tokens and scores of legal children, which include the best of each query."""
        if self.ids.shape[1] == 0:
            first, of_first = self._first(scores)
            best, positions = of_first.topk(min(2 * self.num_beams, len(first)), dim=-1)
            rows = np.repeat(np.arange(len(scores)), best.shape[1])
            tokens, totals = self.legal.first[positions.flatten().cpu().numpy()], best.flatten().cpu().numpy()
        else:
            rows, tokens = self.legal.next(self.ids, ranges, scores)
            pairs = sent(rows, scores.device), sent(tokens, scores.device)
            totals = self.scores[rows] + scores[pairs].cpu().numpy()
        possible = totals > -np.inf  # Some models give tokens probability zero.
        return rows[possible], tokens[possible], totals[possible]

    def _favoured_children(
        self, rows: np.ndarray, tokens: np.ndarray, scores: torch.Tensor, outlook: Outlook
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Legal children and those that follow in the texts: rows, tokens, scores, and these with the bonuses."""
        following = outlook.next_tokens(self._occurrences)
        legal = self.legal.are_legal(self.ids, following.rows, following.tokens)
        following = NextTokens(*(values[legal] for values in following))
        rows, tokens, bonuses = with_next_tokens(rows, tokens, following, len(self.ids), outlook.vocab_size)
        pairs = sent(rows, scores.device), sent(tokens, scores.device)
        totals = self.scores[rows] + scores[pairs].cpu().numpy()
        possible = totals > -np.inf
        rows, tokens, totals, bonuses = (values[possible] for values in (rows, tokens, totals, bonuses))
        return rows, tokens, totals, totals + bonuses

    def _beams(self, queries: np.ndarray, totals: np.ndarray, complete: np.ndarray) -> np.ndarray:
        """Choose the children that become the next beams: the best open ones of unfinished queries."""
        closed = np.flatnonzero(complete)
        for query, total in zip(queries[closed].tolist(), totals[closed].tolist(), strict=True):
            if total > self._complete_scores[query, 0]:
                self._complete_scores[query, 0] = total
                self._complete_scores[query].sort()
        still_open = np.flatnonzero(~complete)
        rank = np.arange(len(still_open)) - np.searchsorted(queries[still_open], queries[still_open])
        best_open = np.full(self._num_queries, -np.inf, dtype=np.float32)
        np.maximum.at(best_open, queries[still_open], totals[still_open])  # Look-ahead sorts by more than the totals.
        unfinished = best_open > self._complete_scores[:, 0]
        beams: np.ndarray = still_open[(rank < self.num_beams) & unfinished[queries[still_open]]]
        return beams
