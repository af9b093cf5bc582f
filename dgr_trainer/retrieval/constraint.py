"""A logits processor that lets a model generate only identifiers that occur in the corpus."""

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

# Log-probability of the end of sequence where no token is legal: finite, so that nothing becomes NaN, and below the
# log-likelihood of any sequence.
DEAD_END = -1e9


@dataclass(frozen=True)
class _State:
    """The rows of the constraint's previous call.

    Attributes:
        ids (`np.ndarray` of int64, shape `(rows, length)`): Generated ids, without what the decoder started with.
        ranges (`np.ndarray` of int64, shape `(rows, segments, 2)`): The range of prefix and ids in the index, empty
            for rows that cannot be extended.
        open (`np.ndarray` of bool, shape `(rows,)`): Whether that range is not empty.
    """

    ids: np.ndarray
    ranges: np.ndarray
    open: np.ndarray


class IndexConstraint(LogitsProcessor):
    """Restricts a model's own `generate` to the identifiers of one view.

    A hypothesis continues only with tokens that follow it in the corpus ([`LegalTokens`]). After the view's closing
    marker, only the end of sequence is legal; before it, the end of sequence is legal only if it is the marker itself
    (docids). A hypothesis without legal tokens gets the end of sequence with log-probability `DEAD_END`. The
    log-probabilities of legal tokens are not changed.

    The constraint keeps the range of each row in the index from step to step.

    Pass it to `generate(logits_processor=[...])` of any encoder-decoder model whose decoder starts with one token, or
    of a decoder-only model with `prompt_length`. Use it for one search at a time; each search resets it. The scores
    are changed in place.

    Args:
        index ([`FMIndex`]): Index of the corpus.
        identifiers ([`Identifiers`]): The views' markers, and the tokens that are never generated.
        view (`str`): View of the identifiers to generate.
        num_beams (`int`, defaults to 1): Beams of the search; determines which rows belong to one query.
        best (`int`, *optional*):
            Keep at least this many of the best legal tokens of a row, but not always all. This is much faster, and
            gives the same result in a search that uses at most this many continuations of a row: beam search uses
            `2 * num_beams`, sampling uses all. By default all are kept.
        prompt_length (`int`, *optional*, defaults to 1):
            Tokens in front of the generated ones: the start token of a decoder, or for a decoder-only model the length
            of the prompts, padded on the left.
    """

    def __init__(
        self,
        index: FMIndex,
        identifiers: Identifiers,
        view: str,
        num_beams: int = 1,
        best: int | None = None,
        prompt_length: int = 1,
    ) -> None:
        self.legal = LegalTokens(index, identifiers, view, best)
        self.num_beams = num_beams
        self.prompt_length = prompt_length
        self.eos_token_id = identifiers.eos_token_id
        self._state: _State | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Mask every token that is not legal.

        Args:
            input_ids (`torch.LongTensor` of shape `(rows, length)`): Hypotheses, with the start token or the prompts.
            scores (`torch.FloatTensor` of shape `(rows, vocabulary)`): Log-probabilities, or logits without beams.

        Returns:
            `torch.FloatTensor` of the same shape: log-probabilities, -inf where a token is not legal.
        """
        if self.num_beams == 1:  # Without beams, transformers passes logits.
            scores = scores.log_softmax(dim=-1)  # type: ignore[assignment]
        ids = input_ids[:, self.prompt_length :].cpu().numpy()
        if ids.shape[1] == 0:
            ranges = self.legal.roots(len(ids))
            # All beams of a query are equal here, and beam search uses only the first.
            firsts = np.arange(0, len(ids), self.num_beams)
            rows, tokens = np.repeat(firsts, len(self.legal.first)), np.tile(self.legal.first, len(firsts))
        else:
            ranges = self._follow(ids)
            complete = self.legal.is_complete(ids)
            ranges[complete] = 0
            rows, tokens = self.legal.next(ids, ranges, scores)
            finished = np.flatnonzero(complete)
            rows = np.concatenate([rows, finished])
            tokens = np.concatenate([tokens, np.full(len(finished), self.eos_token_id)])
        dead_end = np.ones(len(ids), dtype=bool)
        dead_end[rows] = False
        pairs = torch.from_numpy(rows).to(scores.device), torch.from_numpy(tokens).to(scores.device)
        legal_scores = scores[pairs]
        scores.fill_(-torch.inf)
        scores[pairs] = legal_scores
        scores[torch.from_numpy(dead_end).to(scores.device), self.eos_token_id] = DEAD_END
        self._state = _State(ids, ranges, self.legal.index.counts(ranges) > 0)
        return scores

    def _follow(self, ids: np.ndarray) -> np.ndarray:
        """Extend the ranges of the previous step to the rows' ids; empty for rows that have no legal parent."""
        previous = self._state
        if previous is None or previous.ids.shape != (len(ids), ids.shape[1] - 1):
            raise DGRValueError(
                f"The constraint got hypotheses of {ids.shape[1]} tokens but has not seen the step before. It needs a "
                f"decoder that starts with prompt_length={self.prompt_length} tokens (of decoder-only models those of "
                "the prompts), every step of the search, and one search at a time."
            )
        parents, has_parent = match_prefixes(ids, previous.ids, len(ids) // self.num_beams, previous.open)
        ranges = self.legal.index.empty(len(ids))
        # A row without legal tokens was extended by the end of sequence, which the next passage follows in the index.
        ranges[has_parent] = self.legal.extend(previous.ranges[parents[has_parent]], ids[has_parent, -1])
        return ranges
