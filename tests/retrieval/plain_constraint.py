"""The constraint in its plainest form, as an oracle: search every pattern from its start, mask everything illegal."""

import numpy as np
import torch
from transformers import LogitsProcessor

from dgr_trainer.retrieval.constraint import DEAD_END, BeamState


class MaskEverythingIllegal(LogitsProcessor):
    """What `IndexConstraint` promises, row by row and without carrying anything from step to step."""

    def __init__(self, index, identifiers, view, num_beams=1, best=None):
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
        if self.num_beams == 1:
            scores = scores.log_softmax(dim=-1)
        ids = input_ids[:, 1:].numpy()
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
        self.state = BeamState(ids, ranges, self.index.counts(ranges) > 0, masked)
        return masked
