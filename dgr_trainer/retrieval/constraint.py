"""Decoding bound to the index: a logits processor that lets a model generate only what stands in the corpus."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers import LogitsProcessor

from dgr_trainer.errors import DGRValueError
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval.beam_kernels import match_prefixes
from dgr_trainer.retrieval.legal_tokens import LegalTokens

# Log-probability of the only way on where there is none: finite, so that nothing turns into NaN, and below any sum of
# log-probabilities of a sequence.
DEAD_END = -1e9


@dataclass(frozen=True)
class _State:
    """What stands in the rows that the constraint saw last.

    Attributes:
        ids (`np.ndarray` of int64, shape `(rows, length)`): Generated ids, without the start of the decoder.
        ranges (`np.ndarray` of int64, shape `(rows, segments, 2)`): The range of prefix and ids in the index, empty
            where the row goes no further.
        open (`np.ndarray` of bool, shape `(rows,)`): Where that range is not empty.
    """

    ids: np.ndarray
    ranges: np.ndarray
    open: np.ndarray


class IndexConstraint(LogitsProcessor):
    """Restricts a model's own `generate` to the identifiers of one view.

    A hypothesis goes on only with tokens that follow it in the corpus ([`LegalTokens`]). Once it ends with the view's
    closing marker it goes on only with the end of sequence; before that, the end of sequence is legal where it is the
    marker itself (docids). A hypothesis that cannot go on gets the end of sequence at `DEAD_END`. Log-probabilities of
    legal tokens stay as the model gives them.

    Each row's range in the index is carried from step to step.

    Passed to `generate(logits_processor=[...])` of any encoder-decoder model whose decoder starts with one token. An
    object serves one search at a time; it starts anew with each. It writes into the scores that it is given.

    Args:
        index ([`FMIndex`]): Index of the corpus.
        identifiers ([`Identifiers`]): The views' markers, and the tokens that are never generated.
        view (`str`): View of the identifiers to generate.
        num_beams (`int`, defaults to 1): Beams of the search; decides which rows belong to one query.
        best (`int`, *optional*):
            Leave at least so many of the best legal tokens of a row, and perhaps no more: much faster, and the same
            to a search that looks at no more than so many continuations of a row. Beam search looks at
            `2 * num_beams`, sampling at all. By default all are left.
    """

    def __init__(
        self, index: FMIndex, identifiers: Identifiers, view: str, num_beams: int = 1, best: int | None = None
    ) -> None:
        self.legal = LegalTokens(index, identifiers, view, best)
        self.num_beams = num_beams
        self.eos_token_id = identifiers.eos_token_id
        self._state: _State | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Args:
            input_ids (`torch.LongTensor` of shape `(rows, length)`): Hypotheses, the decoder's start included.
            scores (`torch.FloatTensor` of shape `(rows, vocabulary)`): Log-probabilities, or logits without beams.

        Returns:
            `torch.FloatTensor` of the same shape: log-probabilities, -inf where a token is not legal.
        """
        if self.num_beams == 1:  # Without beams, transformers hands over logits.
            scores = scores.log_softmax(dim=-1)  # type: ignore[assignment]
        ids = input_ids[:, 1:].cpu().numpy()
        if ids.shape[1] == 0:
            ranges = np.repeat(self.legal.root[None], len(ids), axis=0)
            # All beams of a query are equal here, and beam search heeds only the first.
            firsts = np.arange(0, len(ids), self.num_beams)
            rows, tokens = np.repeat(firsts, len(self.legal.first)), np.tile(self.legal.first, len(firsts))
        else:
            ranges = self._follow(ids)
            complete = self.legal.is_complete(ids)
            ranges[complete] = 0
            rows, tokens = self.legal.next(ids, ranges, scores)
            done = np.flatnonzero(complete)
            rows = np.concatenate([rows, done])
            tokens = np.concatenate([tokens, np.full(len(done), self.eos_token_id)])
        stuck = np.ones(len(ids), dtype=bool)
        stuck[rows] = False
        pairs = torch.from_numpy(rows).to(scores.device), torch.from_numpy(tokens).to(scores.device)
        kept = scores[pairs]
        scores.fill_(-torch.inf)
        scores[pairs] = kept
        scores[torch.from_numpy(stuck).to(scores.device), self.eos_token_id] = DEAD_END
        self._state = _State(ids, ranges, self.legal.index.counts(ranges) > 0)
        return scores

    def _follow(self, ids: np.ndarray) -> np.ndarray:
        """Ranges of the rows' ids, from the ranges of the step before; empty for rows that have no legal parent."""
        before = self._state
        if before is None or before.ids.shape != (len(ids), ids.shape[1] - 1):
            raise DGRValueError(
                f"The constraint got hypotheses of {ids.shape[1]} tokens without having seen them grow: it needs a "
                "decoder that starts with one token, every step of the search, and one search at a time."
            )
        parents, found = match_prefixes(ids, before.ids, len(ids) // self.num_beams, before.open)
        ranges = self.legal.index.empty(len(ids))
        # Where nothing was legal the end of sequence came next, and in the index the next passage would follow it.
        ranges[found] = self.legal.extend(before.ranges[parents[found]], ids[found, -1])
        return ranges
