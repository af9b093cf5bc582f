"""What a model may generate next, so that an identifier of the corpus comes of it."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval.beam_kernels import best_tokens

# What follows a pattern that occurs at most so often is listed; of others, the model's best tokens are looked up.
_LISTED = 512
# So many tokens are looked up for each that is needed, before what follows is listed after all.
_TRIED = 4


class LegalTokens:
    """The tokens that continue identifiers of one view, for many hypotheses at a time.

    A hypothesis goes on with tokens that follow it in the corpus. The end of sequence is among them only where it is
    the view's closing marker (docids). No identifier is empty: the closing marker never comes first.

    Where `best` says how many continuations of a hypothesis count, the model's best tokens are looked up in the index
    until so many are legal, and what follows a hypothesis is listed only where little does.

    Args:
        index ([`FMIndex`]): Index of the corpus.
        identifiers ([`Identifiers`]): The views' markers, and the tokens that are never generated.
        view (`str`): View of the identifiers.
        best (`int`, *optional*): Give at least so many of the best legal tokens, and perhaps no more; by default all.

    Attributes:
        end (`np.ndarray` of int64): The closing marker, empty for substrings.
        root (`np.ndarray` of int64, shape `(segments, 2)`): The range of the empty hypothesis.
    """

    def __init__(self, index: FMIndex, identifiers: Identifiers, view: str, best: int | None = None) -> None:
        self.index = index
        self.best = best
        self.end = np.asarray(identifiers.end(view), dtype=np.int64)
        prefix = identifiers.prefix(view)
        self.root = index.find(prefix) if prefix else index.whole
        self._allowed = np.ones(index.vocab_size, dtype=bool)
        self._allowed[np.fromiter(identifiers.forbidden_token_ids, dtype=np.int64)] = False
        self._allowed[index.separator] = index.separator in self.end
        self._tried = min(_TRIED * (best or 1), int(self._allowed.sum()))

    @cached_property
    def first(self) -> np.ndarray:
        """All tokens that an identifier can start with (int64)."""
        tokens, _ = self.index.continuations(self.root)
        legal = self._allowed[tokens]
        if len(self.end) == 1:
            legal &= tokens != self.end[0]
        return np.asarray(tokens[legal], dtype=np.int64)

    def is_complete(self, ids: np.ndarray) -> np.ndarray:
        """Which hypotheses end with the closing marker.

        Args:
            ids (`np.ndarray` of int64, shape `(..., length)`): Generated ids.

        Returns:
            `np.ndarray` of bool, shape `(...)`: all `False` for views without a marker.
        """
        width = len(self.end)
        if width == 0 or ids.shape[-1] <= width:
            return np.zeros(ids.shape[:-1], dtype=bool)
        return (ids[..., -width:] == self.end).all(axis=-1)

    def extend(self, ranges: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Ranges of hypotheses with a token more, shape as `ranges`; empty where the token is not legal."""
        extended = self.index.empty(len(ranges))
        allowed = np.append(self._allowed, False)[np.minimum(tokens, len(self._allowed))]
        extended[allowed] = self.index.extend(ranges[allowed], tokens[allowed])
        return extended

    def next(self, ids: np.ndarray, ranges: np.ndarray, scores: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Legal (row, token) pairs: all of a row, or at least `best` of the best.

        Args:
            ids (`np.ndarray` of int64, shape `(rows, length)`): Generated ids, at least one.
            ranges (`np.ndarray` of int64, shape `(rows, segments, 2)`): Their ranges; where one is empty, nothing is
                legal.
            scores (`torch.Tensor` of shape `(rows, vocabulary)`): What makes a token better than others.

        Returns:
            `tuple`: (rows, tokens), int64, each pair once.
        """
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
                tokens = self._best(scores, wide)
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

    def _best(self, scores: torch.Tensor, rows: np.ndarray) -> np.ndarray:
        """The tokens of rows that are tried, best first."""
        if scores.device.type == "cpu" and scores.dtype == torch.float32:
            return best_tokens(scores.detach().numpy(), rows, self._allowed, self._tried)
        never = torch.from_numpy(~self._allowed).to(scores.device)
        chosen = scores[torch.from_numpy(rows).to(scores.device), : len(never)].masked_fill(never, -torch.inf)
        return chosen.topk(self._tried, dim=-1).indices.cpu().numpy()
