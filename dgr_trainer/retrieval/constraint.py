"""Decoding bound to the index: a model can only generate what stands in the corpus."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers import LogitsProcessor

from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval.beams import best_tokens, match_prefixes

# Log-probability of the only way on where there is none: finite, so that nothing turns into NaN, and below any sum of
# log-probabilities of a sequence.
DEAD_END = -1e9
# What follows a pattern that occurs at most so often is listed; of others, the model's best tokens are looked up.
_LISTED = 256
# So many tokens are looked up for each that is needed, before what follows is listed after all.
_TRIED = 4


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

    Each row's range in the index is carried from step to step. Where `best` says how many continuations of a
    hypothesis count, the model's best tokens are looked up in the index until so many are legal, and what follows a
    hypothesis is listed only where little does; the search then finds exactly what it finds with every legal token,
    in a fraction of the time.

    Passed to `generate(logits_processor=[...])` of any encoder-decoder model whose decoder starts with one token. An
    object serves one search at a time; it starts anew with each. It writes into the scores that it is given.

    Args:
        index ([`FMIndex`]): Index of the corpus.
        identifiers ([`Identifiers`]): The views' markers, and the tokens that are never generated.
        view (`str`): View of the identifiers to generate.
        num_beams (`int`, defaults to 1): Beams of the search; decides which rows belong to one query.
        best (`int`, *optional*):
            Leave at least so many of the best legal tokens of a row, and perhaps no more. Beam search without end of
            sequence looks at `2 * num_beams`, with one also; sampling looks at all. By default all are left.
    """

    def __init__(
        self, index: FMIndex, identifiers: Identifiers, view: str, num_beams: int = 1, best: int | None = None
    ) -> None:
        self.index = index
        self.view = view
        self.num_beams = num_beams
        self.best = best
        self.end = np.asarray(identifiers.end(view), dtype=np.int64)
        self.eos_token_id = identifiers.eos_token_id
        self._allowed = np.ones(index.vocab_size, dtype=bool)
        self._allowed[np.fromiter(identifiers.forbidden_token_ids, dtype=np.int64)] = False
        self._allowed[index.separator] = index.separator in self.end
        self._tried = min(_TRIED * (best or 1), int(self._allowed.sum()))
        prefix = identifiers.prefix(view)
        self._root = index.find(prefix) if prefix else index.whole
        self._root_tokens: np.ndarray | None = None
        self.state: BeamState | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(rows, length)`): Hypotheses, the decoder's start included.
            scores (`torch.FloatTensor` of shape `(rows, vocabulary)`): Log-probabilities, or logits without beams.

        Returns:
            `torch.FloatTensor` of the same shape: the same scores, -inf where a token is not legal.
        """
        if self.num_beams == 1:  # Without beams, transformers hands over logits.
            scores = scores.log_softmax(dim=-1)  # type: ignore[assignment]
        ids = input_ids[:, 1:].cpu().numpy()
        if ids.shape[1] == 0:
            ranges = np.repeat(self._root[None], len(ids), axis=0)
            # All beams of a query are equal here, and beam search heeds only the first.
            first, following = np.arange(0, len(ids), self.num_beams), self._first_tokens()
            rows, tokens = np.repeat(first, len(following)), np.tile(following, len(first))
        else:
            ranges = self._follow(ids)
            complete = self.is_complete(ids)
            ranges[complete] = 0
            rows, tokens = self._next_tokens(ids, ranges, scores)
            done = np.flatnonzero(complete)
            rows = np.concatenate([rows, done])
            tokens = np.concatenate([tokens, np.full(len(done), self.eos_token_id)])
        stuck = np.ones(len(ids), dtype=bool)
        stuck[rows] = False
        legal = torch.from_numpy(rows).to(scores.device), torch.from_numpy(tokens).to(scores.device)
        kept = scores[legal]
        scores.fill_(-torch.inf)
        scores[legal] = kept
        scores[torch.from_numpy(stuck).to(scores.device), self.eos_token_id] = DEAD_END
        self.state = BeamState(ids, ranges, self.index.counts(ranges) > 0, scores)
        return scores

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

    def _first_tokens(self) -> np.ndarray:
        """Tokens that an identifier can start with."""
        if self._root_tokens is None:
            tokens, _ = self.index.continuations(self._root)
            legal = self._allowed[tokens]
            if len(self.end) == 1:
                legal &= tokens != self.end[0]
            self._root_tokens = np.asarray(tokens[legal], dtype=np.int64)
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

    def _next_tokens(self, ids: np.ndarray, ranges: np.ndarray, scores: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Legal (row, token) pairs: all of a row, or at least `best` of the best."""
        # The closing marker is not legal where it would close an empty identifier.
        empty = np.zeros(len(ids), dtype=bool)
        if len(self.end) > 1 and ids.shape[1] == len(self.end) - 1:
            empty = (ids == self.end[:-1]).all(axis=1)
        counts = self.index.counts(ranges)
        listed = counts > 0
        pairs = []
        if self.best is not None:
            wide = np.flatnonzero((counts > _LISTED) & ~empty)
            if len(wide):
                tokens = self._best_tokens(scores, wide)
                occurs = self.index.counts(self.index.extend(ranges[wide], tokens, enough=self.best)) > 0
                enough = occurs.sum(axis=1) >= self.best
                listed[wide[enough]] = False
                occurs[~enough] = False
                pairs.append((np.repeat(wide, self._tried)[occurs.ravel()], tokens[occurs]))
        rows = np.flatnonzero(listed)
        offsets, tokens, _ = self.index.continuations_batch(ranges[rows])
        rows = np.repeat(rows, np.diff(offsets))
        legal = self._allowed[tokens]
        legal &= ~empty[rows] | (tokens != (self.end[-1] if len(self.end) else -1))
        pairs.append((rows[legal], tokens[legal]))
        return np.concatenate([rows for rows, _ in pairs]), np.concatenate([tokens for _, tokens in pairs])

    def _best_tokens(self, scores: torch.Tensor, rows: np.ndarray) -> np.ndarray:
        """The tokens of rows that are tried, best first."""
        if scores.device.type == "cpu" and scores.dtype == torch.float32:
            return best_tokens(scores.detach().numpy(), rows, self._allowed, self._tried)
        never = torch.from_numpy(~self._allowed).to(scores.device)
        chosen = scores[torch.from_numpy(rows).to(scores.device), : len(never)].masked_fill(never, -torch.inf)
        return chosen.topk(self._tried, dim=-1).indices.cpu().numpy()
