"""What the readers of queries and judgements yield in every format."""

from __future__ import annotations

from typing import NamedTuple


class QueryRow(NamedTuple):
    """A query on its way into a dataset.

    Args:
        location (`str`): How errors name its line, row or record.
        query_id (`str`): Its id.
        query (`str`): Its text.
        answers (`list[str]`): Its answers; empty if the format has none.
    """

    location: str
    query_id: str
    query: str
    answers: list[str]


class JudgementRow(NamedTuple):
    """The judgement of one passage for one query.

    Args:
        location (`str`): How errors name its line, row or record.
        query_id (`str`): Id of the query.
        passage_id (`str`): Id of the passage.
        relevance (`int`): Grade; 0 and less is not relevant.
    """

    location: str
    query_id: str
    passage_id: str
    relevance: int
