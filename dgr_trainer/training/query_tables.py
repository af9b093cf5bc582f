"""Identifiers of the queries and passages of a batch, as padded arrays."""

from collections.abc import Sequence

import numpy as np

from dgr_trainer.identifier_weights import ORIGINS
from dgr_trainer.training.sampling import TrainingList


class QueryTable:
    """The distinct identifiers of a query, and which passages and targets use them."""

    def __init__(self) -> None:
        self.slots: dict[tuple[str, tuple[int, ...]], int] = {}
        self.counts: list[int] = []
        self.origins: list[int] = []
        self.passages: list[list[int]] = []
        self.factors: list[list[float]] = []
        self.weights: dict[int, float] = {}

    def slot(self, view: str, ids: tuple[int, ...], count: int, origin: str = "generated") -> int:
        """Number of an identifier. An identifier that several passages share has one number and is scored once."""
        number = self.slots.setdefault((view, ids), len(self.slots))
        if number == len(self.counts):
            self.counts.append(count)
            self.origins.append(ORIGINS.index(origin))
        return number


def identifier_arrays(tables: Sequence[QueryTable]) -> dict[str, np.ndarray]:
    """Counts, kinds and generation weights of the identifiers of each query, `(B, K)`."""
    shape = (len(tables), max([1, *(len(table.slots) for table in tables)]))
    counts = np.zeros(shape, np.int64)
    is_pseudo_query, origins = np.zeros(shape, bool), np.zeros(shape, np.int64)
    weights = np.zeros(shape, np.float32)
    for b, table in enumerate(tables):
        counts[b, : len(table.counts)] = table.counts
        is_pseudo_query[b, : len(table.slots)] = [view == "pseudo_query" for view, _ in table.slots]
        origins[b, : len(table.origins)] = table.origins
        for slot, weight in table.weights.items():
            weights[b, slot] = weight
    return {
        "identifier_counts": counts,
        "identifier_is_pseudo_query": is_pseudo_query,
        "identifier_origins": origins,
        "generation_weights": weights,
    }


def list_arrays(tables: Sequence[QueryTable], lists: Sequence[TrainingList]) -> dict[str, np.ndarray]:
    """The identifiers of each passage of each list, `(B, M, I)`, the lists, `(B, M)`, and which are judged, `(B,)`."""
    size = max([1, *(len(table.passages) for table in tables)])
    longest = max([1, *(len(slots) for table in tables for slots in table.passages)])
    slots = np.full((len(tables), size, longest), -1, np.int64)
    factors = np.zeros(slots.shape, np.float32)
    mask = np.zeros(slots.shape[:2], bool)
    scores = np.zeros(slots.shape[:2], np.float32)
    ranks = np.zeros(slots.shape[:2], np.int64)
    for b, (table, sampled) in enumerate(zip(tables, lists, strict=True)):
        mask[b, : len(table.passages)] = True
        scores[b, : len(table.passages)] = sampled.teacher_scores
        ranks[b, : len(table.passages)] = sampled.ranks
        for m, (numbers, discounts) in enumerate(zip(table.passages, table.factors, strict=True)):
            slots[b, m, : len(numbers)] = numbers
            factors[b, m, : len(numbers)] = discounts
    return {
        "passage_identifiers": slots,
        "passage_factors": factors,
        "list_mask": mask,
        "teacher_scores": scores,
        "taught_ranks": ranks,
        "judged": np.array([sampled.judged for sampled in lists], bool),
    }


def passage_cells(segments: np.ndarray, identifiers: np.ndarray) -> np.ndarray:
    """Where the tokens of each passage's one identifier are among the labels, `(B, M, D)`, -1 for padding.

    Args:
        segments (`np.ndarray` of shape `(B, C)`): Number of the identifier of each label; its labels are consecutive.
        identifiers (`np.ndarray` of shape `(B, M)`): Number of the identifier of each passage, -1 for none.
    """
    found = (segments[:, None] == identifiers[..., None]) & (identifiers[..., None] >= 0)
    lengths = found.sum(-1, keepdims=True)
    depths = np.arange(max(1, int(lengths.max())))
    return np.where(depths < lengths, found.argmax(-1)[..., None] + depths, -1)
