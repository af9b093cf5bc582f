"""The protocol of teachers: everything that ranks passages for queries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from datasets import Dataset

from dgr_trainer.runs.rankings import Rankings


@runtime_checkable
class Teacher(Protocol):
    """Ranks passages for queries.

    Every teacher of the library has this method with this signature, and any object that has it is a teacher. What
    differs between teachers (the corpus, a model, a cache) is given when they are constructed.
    """

    def rank(
        self,
        queries: Dataset | Mapping[str, str],
        candidates: Rankings | None = None,
        *,
        k: int = 100,
        ignore_identical_ids: bool = False,
    ) -> Rankings:
        """Rank passages for every query.

        Args:
            queries (`datasets.Dataset` or `Mapping[str, str]`): Columns `query_id` and `query`, or id -> query.
            candidates (`Rankings`, *optional*): The passages to rank for each query; their order and scores are not
                used. Without it, the whole corpus is searched. Rerankers score every candidate and cannot search a
                corpus, so they need it.
            k (`int`, *optional*, defaults to 100): Maximum length of a rank list.
            ignore_identical_ids (`bool`, *optional*, defaults to `False`): Whether to leave out the passage that has
                the id of the query.

        Returns:
            `Rankings`: A rank list for each query, best first.

        Raises:
            TypeError: if `candidates` is not a `Rankings`.
            ValueError: if `k` is not positive, no query has candidates, or a reranker gets no candidates.
        """
        ...
