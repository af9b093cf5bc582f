"""The search in its simplest form, as an oracle: `generate` with all illegal tokens masked, and an observer.

`MaskEverythingIllegal` searches every hypothesis from its start and masks every token that does not follow it.
`HypothesisRecorder` sees all children that transformers' beam search weighs, and scores them from the masked scores.
"""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from dgr_trainer.candidates import MatchedIdentifier
from dgr_trainer.retrieval.beam_kernels import match_prefixes
from dgr_trainer.retrieval.beam_search import ViewSearch
from dgr_trainer.retrieval.constraint import DEAD_END
from dgr_trainer.student.model_facts import start_token_id


def plain_search(model, index, identifiers, queries, view, length, num_beams):
    """What `search_views` finds in one view, for two beams or more."""
    inputs = model_inputs(model, identifiers, queries, view)
    seq2seq = model.config.is_encoder_decoder
    constraint = MaskEverythingIllegal(
        index, identifiers, view, num_beams, prompt_length=1 if seq2seq else inputs["input_ids"].shape[1]
    )
    recorder = HypothesisRecorder(constraint, len(queries))
    model.generation_config = GenerationConfig(decoder_start_token_id=start_token_id(model) if seq2seq else None)
    model.generate(
        **inputs,
        generation_config=beam_settings(num_beams, length),
        logits_processor=[constraint],
        stopping_criteria=[recorder],
    )
    return ViewSearch(recorder.identifiers(), recorder.first_scores)


def model_inputs(model, identifiers, queries, view):
    """Padded prompts: on the right for an encoder, on the left for a model that goes on writing them."""
    prompts = identifiers.encode_prompts(queries, view)
    width, pad = max(map(len, prompts)), model.config.get_text_config().pad_token_id or 0
    right = model.config.is_encoder_decoder

    def padded(ids, value):
        padding = [value] * (width - len(ids))
        return [*ids, *padding] if right else [*padding, *ids]

    return {
        "input_ids": torch.tensor([padded(ids, pad) for ids in prompts]),
        "attention_mask": torch.tensor([padded([1] * len(ids), 0) for ids in prompts]),
    }


def beam_settings(num_beams, length):
    """Plain beam search for `length` tokens, which only its stopping criteria may end earlier."""
    return GenerationConfig(num_beams=num_beams, do_sample=False, max_new_tokens=length, use_cache=True,
                            early_stopping="never", length_penalty=0.0)  # fmt: skip


class MaskEverythingIllegal(LogitsProcessor):
    """Does what `IndexConstraint` promises, row by row and without state between steps."""

    def __init__(self, index, identifiers, view, num_beams, prompt_length=1):
        self.prompt_length = prompt_length
        self.index, self.identifiers, self.view, self.num_beams = index, identifiers, view, num_beams
        self.end = np.asarray(identifiers.end(view), dtype=np.int64)
        self.eos_token_id = identifiers.eos_token_id
        self.state = None

    def is_complete(self, ids):
        width = len(self.end)
        if width == 0 or ids.shape[-1] <= width:
            return np.zeros(ids.shape[:-1], dtype=bool)
        return (ids[..., -width:] == self.end).all(axis=-1)

    def __call__(self, input_ids, scores):
        ids = input_ids[:, self.prompt_length :].numpy()
        masked = torch.full_like(scores, -torch.inf)
        ranges = self.index.empty(len(ids))
        for row, of_row in enumerate(ids.tolist()):
            if ids.shape[1] == 0 and row % self.num_beams:
                legal = set()
            elif self.is_complete(np.asarray(of_row)):
                legal = {self.eos_token_id}
            elif self.eos_token_id in of_row:
                legal = set()
            else:
                ranges[row] = self.index.find(self.identifiers.pattern(self.view, of_row))
                legal = set(self.index.continuations(ranges[row])[0].tolist()) - self.identifiers.forbidden_token_ids
                if self.eos_token_id not in self.end:
                    legal.discard(self.eos_token_id)
                if tuple(of_row) == tuple(self.end[:-1]) and len(self.end):
                    legal.discard(int(self.end[-1]))
            tokens = sorted(legal)
            masked[row, tokens] = scores[row, tokens]
            if not tokens:
                masked[row, self.eos_token_id] = DEAD_END
        self.state = SimpleNamespace(ids=ids, ranges=ranges, open=self.index.counts(ranges) > 0, scores=masked)
        return masked


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
        constraint (`MaskEverythingIllegal`): The constraint of the same search.
        num_queries (`int`): Queries in the batch.

    Attributes:
        first_scores (`torch.Tensor` of shape `(num_queries, vocabulary)`): Log-probabilities of the first token where
            it is legal, -inf elsewhere; set by the first step.
    """

    def __init__(self, constraint, num_queries):
        self.constraint = constraint
        self.num_queries = num_queries
        self.first_scores: torch.Tensor | None = None
        self._steps: list[_Step] = []
        self._settled = np.zeros(num_queries, dtype=bool)
        # Best complete hypotheses so far, ascending: the first is the one to beat.
        self._finished = np.full((num_queries, constraint.num_beams), -np.inf, dtype=np.float32)
        # The children of the previous step that can be extended.
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
        ids = input_ids[:, self.constraint.prompt_length :].cpu().numpy()
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

    def identifiers(self) -> list[list[MatchedIdentifier]]:
        """Identifiers of each query, in the order in which the search visited them."""
        found: list[list[MatchedIdentifier]] = [[] for _ in range(self.num_queries)]
        for step in self._steps:
            values = zip(
                step.query.tolist(),
                step.ids.tolist(),
                step.score.tolist(),
                step.occurrences.tolist(),
                strict=True,
            )
            for query, ids, score, count in values:
                found[query].append(MatchedIdentifier(self.constraint.view, tuple(ids), count, score))
        return found


def _first_of_each(values):
    """A mask of the first occurrence of each value."""
    first = np.zeros(len(values), dtype=bool)
    first[np.unique(values, return_index=True)[1]] = True
    return first
