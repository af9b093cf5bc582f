"""The result of a search."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

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


def identifier_records(
    identifiers: Iterable[MatchedIdentifier], text_of: Callable[[MatchedIdentifier], str]
) -> list[dict[str, Any]]:
    """Identifiers of a hit as strings and numbers, as `dgr search --json` prints them."""
    return [{"view": one.view, "text": text_of(one), "count": one.count, "score": one.score} for one in identifiers]
