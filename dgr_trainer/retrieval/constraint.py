"""Decoding bound to the index: a model can only generate what stands in the corpus."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers import LogitsProcessor

from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex

# Log-probability of the only way on where there is none: finite, so that nothing turns into NaN, and below any sum of
# log-probabilities of a sequence.
DEAD_END = -1e9


@dataclass(frozen=True)
class BeamState:
    """
    What stands in the rows that the constraint saw last.

    Attributes:
        ids (`np.ndarray` of int64, shape `(rows, length)`): Generated ids, without the start of the decoder.
        ranges (`np.ndarray` of int64, shape `(rows, segments, 2)`): The range of prefix and ids in the index, empty
            where the row goes no further.
        open (`np.ndarray` of bool, shape `(rows,)`): Where that range is not empty.
        scores (`torch.Tensor`, shape `(rows, vocabulary)`): Log-probabilities; -inf where nothing legal goes on.
    """

    ids: np.ndarray
    ranges: np.ndarray
    open: np.ndarray
    scores: torch.Tensor


class IndexConstraint(LogitsProcessor):
    """
    Restricts beam search to the identifiers of one view.

    A hypothesis goes on only with tokens that follow it in the corpus. Once it ends with the view's closing marker it
    goes on only with the end of sequence; before that, the end of sequence is legal where it is the marker itself
    (docids). No identifier is empty: the closing marker is never generated first. A hypothesis that cannot go on gets
    the end of sequence at `DEAD_END`. Log-probabilities of legal tokens stay as the model gives them.

    Passed to `generate(logits_processor=[...])` of any encoder-decoder model whose decoder starts with one token. An
    object serves one search at a time; it starts anew with each.

    Args:
        index ([`FMIndex`]): Index of the corpus.
        identifiers ([`Identifiers`]): The views' markers, and the tokens that are never generated.
        view (`str`): View of the identifiers to generate.
        num_beams (`int`, defaults to 1): Beams of the search; decides which rows belong to one query.
    """

    def __init__(self, index: FMIndex, identifiers: Identifiers, view: str, num_beams: int = 1) -> None:
        self.index = index
        self.view = view
        self.num_beams = num_beams
        self.end = np.asarray(identifiers.end(view), dtype=np.int64)
        self.eos_token_id = identifiers.eos_token_id
        self._allowed = np.ones(index.vocab_size, dtype=bool)
        self._allowed[np.fromiter(identifiers.forbidden_token_ids, dtype=np.int64)] = False
        self._allowed[index.separator] = index.separator in self.end
        prefix = identifiers.prefix(view)
        self._root = index.find(prefix) if prefix else index.whole
        self._root_tokens: torch.Tensor | None = None
        self.state: BeamState | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(rows, length)`): Hypotheses, the decoder's start included.
            scores (`torch.FloatTensor` of shape `(rows, vocabulary)`): Log-probabilities, or logits without beams.
        """
        if self.num_beams == 1:  # Without beams, transformers hands over logits.
            scores = scores.log_softmax(dim=-1)  # type: ignore[assignment]
        ids = input_ids[:, 1:].cpu().numpy()
        masked = torch.full_like(scores, -torch.inf)
        if ids.shape[1] == 0:
            ranges = np.repeat(self._root[None], len(ids), axis=0)
            tokens = self._first_tokens().to(scores.device)
            stuck = np.ones(len(ids), dtype=bool)
            if len(tokens):  # All beams of a query are equal here, and beam search heeds only the first.
                masked[:: self.num_beams, tokens] = scores[:: self.num_beams, tokens]
                stuck[:: self.num_beams] = False
        else:
            ranges = self._follow(ids)
            complete = self.is_complete(ids)
            ranges[complete] = 0
            rows, following = self._next_tokens(ids, ranges)
            where = torch.from_numpy(rows).to(scores.device), torch.from_numpy(following).to(scores.device)
            masked[where] = scores[where]
            done = torch.from_numpy(complete).to(scores.device)
            masked[done, self.eos_token_id] = scores[done, self.eos_token_id]
            stuck = ~complete
            stuck[rows] = False
        masked[torch.from_numpy(stuck).to(scores.device), self.eos_token_id] = DEAD_END
        self.state = BeamState(ids, ranges, self.index.counts(ranges) > 0, masked)
        return masked  # type: ignore[return-value]

    def is_complete(self, ids: np.ndarray) -> np.ndarray:
        """
        Which hypotheses end with the closing marker.

        Args:
            ids (`np.ndarray` of int64, shape `(..., length)`): Generated ids.

        Returns:
            `np.ndarray` of bool, shape `(...)`: all `False` for views without a marker.
        """
        width = len(self.end)
        if width == 0 or ids.shape[-1] <= width:
            return np.zeros(ids.shape[:-1], dtype=bool)
        return (ids[..., -width:] == self.end).all(axis=-1)

    def _first_tokens(self) -> torch.Tensor:
        """Tokens that an identifier can start with."""
        if self._root_tokens is None:
            tokens, _ = self.index.continuations(self._root)
            legal = self._allowed[tokens]
            if len(self.end) == 1:
                legal &= tokens != self.end[0]
            self._root_tokens = torch.from_numpy(np.asarray(tokens[legal], dtype=np.int64))
        return self._root_tokens

    def _follow(self, ids: np.ndarray) -> np.ndarray:
        """Ranges of the rows' ids, from the ranges of the step before; empty for rows that have no legal parent."""
        before = self.state
        if before is None or before.ids.shape != (len(ids), ids.shape[1] - 1):
            raise ValueError(
                f"The constraint got hypotheses of {ids.shape[1]} tokens without having seen them grow: it needs a "
                "decoder that starts with one token, every step of the search, and one search at a time."
            )
        parents, found = match_prefixes(ids, before.ids, len(ids) // self.num_beams, before.open)
        ranges = self.index.empty(len(ids))
        # Where nothing was legal the end of sequence came next, and in the index the next passage would follow it.
        known = np.flatnonzero(found & np.append(self._allowed, False)[np.minimum(ids[:, -1], len(self._allowed))])
        ranges[known] = self.index.extend(before.ranges[parents[known]], ids[known, -1])
        return ranges

    def _next_tokens(self, ids: np.ndarray, ranges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Legal (row, token) pairs."""
        offsets, tokens, _ = self.index.continuations_batch(ranges)
        rows = np.repeat(np.arange(len(ids)), np.diff(offsets))
        legal = self._allowed[tokens]
        if len(self.end) > 1 and ids.shape[1] == len(self.end) - 1:
            empty = (ids == self.end[:-1]).all(axis=1)
            legal &= ~(empty[rows] & (tokens == self.end[-1]))
        return rows[legal], np.asarray(tokens[legal], dtype=np.int64)


def match_prefixes(
    ids: np.ndarray, prefixes: np.ndarray, groups: int, usable: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """
    Find which row each longer row grew from.

    Args:
        ids (`np.ndarray` of int64, shape `(groups * m, length)`): Rows.
        prefixes (`np.ndarray` of int64, shape `(groups * n, length - 1)`): Rows of the step before.
        groups (`int`): Queries; rows of one query stand together and match among themselves.
        usable (`np.ndarray` of bool, shape `(groups * n,)`): Rows of the step before that may be chosen.

    Returns:
        `tuple`: (the first usable row that matches, int64 of shape `(groups * m,)`; whether there is one, bool).
    """
    m, n = len(ids) // groups, len(prefixes) // groups
    children = ids.reshape(groups, m, 1, -1)[..., :-1]
    parents = prefixes.reshape(groups, 1, n, -1)
    same = (children == parents).all(axis=-1) & usable.reshape(groups, 1, n)
    first = same.argmax(axis=-1) + np.arange(groups)[:, None] * n
    return first.reshape(-1), same.any(axis=-1).reshape(-1)
