"""Passages that a student found, and the identifiers that led to them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MatchedIdentifier:
    """An identifier of a query or of a passage, with its count in the corpus and a score.

    One type is used from the beam search to the hits. What `score` means depends on the step that made the object:

    | made by | `score` |
    |---|---|
    | the beam search, and the scoring of identifiers that it did not generate | log-likelihood under the student |
    | `weigh_identifiers` | weight for the query (see [`identifier_weights`]) |
    | a `Hit` or a [`Candidate`] | what the identifier added to the score of the passage |
    | words of a query and the text of a passage, before they are scored | 0 |

    Args:
        view (`str`): Its view, for example `"substring"`.
        ids (`tuple[int, ...]`): Its generated tokens, closing marker included.
        count (`int`): Occurrences in the corpus.
        score (`float`): See the table.
        origin (`str`, defaults to `"generated"`): Where it comes from: `"generated"` by the beam search, from the
            `"query"` itself (also if it was generated), or a `"unigram"`, a single token beside the identifiers.
    """

    view: str
    ids: tuple[int, ...]
    count: int
    score: float
    origin: str = "generated"


@dataclass(frozen=True)
class Candidate:
    """A passage that the student found for a query.

    Args:
        passage_id (`str`): The passage.
        score (`float`): The score that the student gave it.
        identifiers (`tuple[MatchedIdentifier, ...]`): The identifiers that it contains, in the order of credit.
    """

    passage_id: str
    score: float
    identifiers: tuple[MatchedIdentifier, ...]
