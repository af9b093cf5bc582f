"""What the readers of queries and judgements yield in every format."""

from __future__ import annotations

from typing import NamedTuple

from dgr_trainer.data.grades import HIGHEST_GRADE, as_grade
from dgr_trainer.data.ids import as_id


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


def judgement_row(location: str, query: object, passage: object, relevance: object) -> JudgementRow:
    """A judgement with checked values; an error names its location, query and passage."""
    query_id, passage_id = as_id(query, "query", location), as_id(passage, "passage", location)
    if type(relevance) is not int or relevance > HIGHEST_GRADE:
        relevance = as_grade(relevance, f"the relevance of {passage_id!r} for query {query_id!r}", location)
    return JudgementRow(location, query_id, passage_id, relevance)
