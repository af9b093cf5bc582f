"""A hit: what a search returns for a query."""

from __future__ import annotations

from dataclasses import dataclass

from dgr_trainer.candidates import MatchedIdentifier


@dataclass(frozen=True)
class Hit:
    """A passage that was found.

    Args:
        passage_id (`str`): The passage.
        score (`float`): Its score; the higher the better, comparable within a query.
        identifiers (`tuple[MatchedIdentifier, ...]`): What it was found by, in the order of credit; the scores add up
            to the passage's.
    """

    passage_id: str
    score: float
    identifiers: tuple[MatchedIdentifier, ...]
