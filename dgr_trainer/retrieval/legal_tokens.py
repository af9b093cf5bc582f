"""The tokens that a model may generate next so that the result is an identifier of the corpus."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval.beam_kernels import best_tokens

# Continuations of a pattern with at most this many occurrences are listed; for others, the model's best tokens are
# looked up.
LISTED = 512
# Number of tokens that are looked up per token needed, before the continuations are listed after all.
_TRIED = 4


class LegalTokens:
    """The tokens that continue identifiers of one view, for many hypotheses at a time.

    Legal tokens are those that follow the hypothesis in the corpus. The end of sequence is legal only if it is the
    view's closing marker (docids). No identifier is empty: the closing marker never comes first.

    If `best` limits the number of continuations, the model's best tokens are looked up in the index until enough of
    them are legal; all continuations are listed only for hypotheses with few occurrences.

    Args:
        index ([`FMIndex`]): Index of the corpus.
        identifiers ([`Identifiers`]): The views' markers, and the tokens that are never generated.
        view (`str`): View of the identifiers.
        best (`int`, *optional*):
            Return at least this many of the best legal tokens of a hypothesis, but not always all; by default all.

    Attributes:
        end (`np.ndarray` of int64): The closing marker, empty for substrings.
        prefix (`tuple[int, ...]`): What precedes an identifier in the index.
        allowed (`np.ndarray` of bool, shape `(vocab_size,)`): Tokens that an identifier may hold.
        num_tried (`int`): How many of the model's best tokens are looked up.
    """

    def __init__(self, index: FMIndex, identifiers: Identifiers, view: str, best: int | None = None) -> None:
        self.index = index
        self.best = best
        self.end = np.asarray(identifiers.end(view), dtype=np.int64)
        self.prefix = identifiers.prefix(view)
        self.allowed = np.ones(index.vocab_size, dtype=bool)
        self.allowed[np.fromiter(identifiers.forbidden_token_ids, dtype=np.int64)] = False
        self.allowed[index.separator] = index.separator in self.end
        self.num_tried = min(_TRIED * (best or 1), int(self.allowed.sum()))

    def roots(self, number: int) -> np.ndarray:
        """Ranges of the empty hypothesis for a number of queries (int64, shape `(number, segments, 2)`)."""
        return self.index.roots(self.prefix, number)

    @property
    def first(self) -> np.ndarray:
        """All tokens that an identifier can start with, for some query (int64)."""
        return self._first[0]

    @property
    def first_of_query(self) -> np.ndarray | None:
        """Which of them can for each query (bool, shape `(queries, tokens)`); `None` if all of them can."""
        return self._first[1]

    @cached_property
    def _first(self) -> tuple[np.ndarray, np.ndarray | None]:
        tokens, occurs = self.index.first_tokens(self.prefix)
        legal = self.allowed[tokens]
        if len(self.end) == 1:
            legal &= tokens != self.end[0]
        return np.asarray(tokens[legal], dtype=np.int64), None if occurs is None else occurs[:, legal]

    def is_complete(self, ids: np.ndarray) -> np.ndarray:
        """Find the hypotheses that end with the closing marker.

        Args:
            ids (`np.ndarray` of int64, shape `(..., length)`): Generated ids.

        Returns:
            `np.ndarray` of bool, shape `(...)`: all `False` for views without a marker.
        """
        width = len(self.end)
        if width == 0 or ids.shape[-1] <= width:
            return np.zeros(ids.shape[:-1], dtype=bool)
        return np.asarray((ids[..., -width:] == self.end).all(axis=-1))

    def extend(self, ranges: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Ranges of hypotheses extended by one token each, same shape as `ranges`; empty if the token is not legal."""
        extended = self.index.empty(len(ranges))
        allowed = np.append(self.allowed, False)[np.minimum(tokens, len(self.allowed))]
        extended[allowed] = self.index.extend(ranges[allowed], tokens[allowed])
        return extended

    def are_legal(self, ids: np.ndarray, rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Tell which tokens may be generated next, of those that follow a hypothesis in the corpus.

        Args:
            ids (`np.ndarray` of int64, shape `(rows, length)`): Generated ids.
            rows (`np.ndarray` of int64, shape `(n,)`): The row that each token follows.
            tokens (`np.ndarray` of int64, shape `(n,)`): The tokens.

        Returns:
            `np.ndarray` of bool, shape `(n,)`.
        """
        legal: np.ndarray = self.allowed[tokens]
        if len(self.end):
            legal &= ~self._would_be_empty(ids)[rows] | (tokens != self.end[-1])
        return legal

    def _would_be_empty(self, ids: np.ndarray) -> np.ndarray:
        """The rows whose identifier would be empty if the closing marker ended here: it is not legal there."""
        if len(self.end) == 0 or ids.shape[1] != len(self.end) - 1:
            return np.zeros(len(ids), dtype=bool)
        return np.asarray((ids == self.end[:-1]).all(axis=1))

    def next(self, ids: np.ndarray, ranges: np.ndarray, scores: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """List legal (row, token) pairs: all tokens of a row, or at least the `best` ones.

        Args:
            ids (`np.ndarray` of int64, shape `(rows, length)`): Generated ids, at least one per row.
            ranges (`np.ndarray` of int64, shape `(rows, segments, 2)`): Ranges of the rows in the index. For an empty
                range, no token is legal.
            scores (`torch.Tensor` of shape `(rows, vocabulary)`): Scores of the tokens; higher is better.

        Returns:
            `tuple`: (rows, tokens), int64, each pair once.
        """
        would_be_empty = self._would_be_empty(ids)
        counts = self.index.counts(ranges)
        listed = counts > 0
        pairs = []
        if self.best is not None:
            wide = np.flatnonzero((counts > LISTED) & ~would_be_empty)
            if len(wide):
                tokens = self._best(scores, wide)
                occurs = self.index.counts(self.index.extend(ranges[wide], tokens, enough=self.best)) > 0
                has_enough = occurs.sum(axis=1) >= self.best
                listed[wide[has_enough]] = False
                occurs[~has_enough] = False
                pairs.append((np.repeat(wide, self.num_tried)[occurs.ravel()], tokens[occurs]))
        rows = np.flatnonzero(listed)
        offsets, tokens, _ = self.index.continuations_batch(ranges[rows])
        rows = np.repeat(rows, np.diff(offsets))
        legal = self.are_legal(ids, rows, tokens)
        pairs.append((rows[legal], tokens[legal]))
        return np.concatenate([rows for rows, _ in pairs]), np.concatenate([tokens for _, tokens in pairs])

    def _best(self, scores: torch.Tensor, rows: np.ndarray) -> np.ndarray:
        """The best allowed tokens of rows, best first."""
        if scores.device.type == "cpu" and scores.dtype == torch.float32:
            best: np.ndarray = best_tokens(scores.detach().numpy(), rows, self.allowed, self.num_tried)
            return best
        never = torch.from_numpy(~self.allowed).to(scores.device)
        chosen = scores[torch.from_numpy(rows).to(scores.device), : len(never)].masked_fill(never, -torch.inf)
        return chosen.topk(self.num_tried, dim=-1).indices.cpu().numpy()
