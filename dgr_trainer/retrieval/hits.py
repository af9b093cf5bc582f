"""The result of a search."""

from __future__ import annotations

from dataclasses import dataclass

from dgr_trainer.candidates import MatchedIdentifier


@dataclass(frozen=True)
class Hit:
    """A passage that a search returns for a query.

    Args:
        passage_id (`str`): Id of the passage.
        score (`float`): Its score; higher is better, comparable within a query.
        identifiers (`tuple[MatchedIdentifier, ...]`): The identifiers that it contains, in the order of credit. Their
            scores add up to the passage's score.
    """

    passage_id: str
    score: float
    identifiers: tuple[MatchedIdentifier, ...]
