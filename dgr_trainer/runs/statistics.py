"""Statistics of rank lists, to look at before training: their lengths and the ranks of relevant passages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from dgr_trainer.data.grades import Qrels, as_qrels
from dgr_trainer.data.ids import as_id
from dgr_trainer.errors import DGRValueError
from dgr_trainer.runs.rank_list import RankList
from dgr_trainer.runs.rankings import as_rankings

RANKS = (1, 5, 20, 100)
"""Last rank of each group in which relevant passages are counted."""


@dataclass(frozen=True)
class RankListStatistics:
    """Statistics of rank lists; `str()` of it is a table.

    Args:
        queries (`int`): Queries looked at.
        lists (`int`): Those with a rank list of one passage or more.
        lengths (`tuple[int, ...]`): Shortest, lower quartile, median, upper quartile and longest list.
        tied (`float`): Share of neighbours in the lists with equal scores, whose order is not the teacher's.
        judged (`int`): Queries with a rank list and a relevant passage.
        ranks (`dict[str, int]`):
            In how many of these the first relevant passage has the ranks `"1"`, `"2-5"`, ..., further down
            (`"above 100"`), or nowhere (`"not ranked"`).
        above (`tuple[float, ...]`): Where a relevant passage is ranked: lower quartile, median and upper quartile of
            how much higher the teacher scores the best passage that is not relevant than the best relevant one
            (below 0: the relevant one is first). Helps to choose a `false_negative_margin`.
    """

    queries: int
    lists: int
    lengths: tuple[int, ...]
    tied: float
    judged: int
    ranks: dict[str, int]
    above: tuple[float, ...]

    def __str__(self) -> str:
        lines = [f"queries                     {self.queries:,}, with a rank list {self.lists:,}"]
        if self.lists:
            shortest, lower, median, upper, longest = self.lengths
            lines.append(f"passages in a list          {shortest} to {longest}, half of them {lower} to {upper}")
            lines[-1] += f", median {median}"
            lines.append(f"neighbours of equal score   {self.tied:.1%}")
        if self.judged:
            lines.append(f"first relevant passage      of {self.judged:,} queries:")
            lines += [f"  {name:<26}{count:,} ({count / self.judged:.1%})" for name, count in self.ranks.items()]
        if self.above:
            low, middle, high = self.above
            lines.append(f"best other above relevant   half of them {low:.4g} to {high:.4g}, median {middle:.4g}")
        return "\n".join(lines)


def rank_list_statistics(
    rankings: Mapping[str, RankList] | Mapping[str, Mapping[str, float]],
    qrels: Qrels | None = None,
    query_ids: Iterable[str] | None = None,
    relevance_level: int = 1,
) -> RankListStatistics:
    """Compute statistics of rank lists.

    Args:
        rankings ([`Rankings`]): The teacher's rank lists.
        qrels (`Qrels`, *optional*): Judgements.
        query_ids (`Iterable[str]`, *optional*): The training queries. By default those of the rankings.
        relevance_level (`int`, *optional*, defaults to 1): The lowest grade of a relevant passage.

    Returns:
        [`RankListStatistics`]

    Raises:
        ValueError: if there are no queries.

    Example:

    ```python
    print(rank_list_statistics(Rankings.from_trec("teacher.trec"), read_qrels("train.qrels")))
    ```
    """
    rankings, qrels = as_rankings(rankings), None if qrels is None else as_qrels(qrels)
    if query_ids is not None:
        query_ids = [as_id(value, "query", f"query {number}") for number, value in enumerate(query_ids)]
    query_ids = list(dict.fromkeys(rankings if query_ids is None else query_ids))
    if not query_ids:
        raise DGRValueError("There are no queries, so there are no rank lists to describe.")
    names = ["1", *(f"{low + 1}-{high}" for low, high in zip(RANKS, RANKS[1:], strict=False))]
    names += [f"above {RANKS[-1]}", "not ranked"]
    ranks = dict.fromkeys(names, 0)
    lengths: list[int] = []
    above: list[float] = []
    tied = neighbours = judged = 0
    for query_id in query_ids:
        if query_id not in rankings or not rankings[query_id].passage_ids:
            continue
        passage_ids, scores = rankings[query_id]
        lengths.append(len(passage_ids))
        tied += int((np.diff(scores) == 0).sum())
        neighbours += len(scores) - 1
        relevant = {
            passage_id for passage_id, grade in (qrels or {}).get(query_id, {}).items() if grade >= relevance_level
        }
        if not relevant:
            continue
        judged += 1
        hits = [passage_id in relevant for passage_id in passage_ids]
        first = hits.index(True) if any(hits) else None
        ranks[names[-1] if first is None else names[int(np.searchsorted(RANKS, first + 1))]] += 1
        if first is not None and not all(hits):
            above.append(float(scores[hits.index(False)] - scores[first]))
    return RankListStatistics(
        queries=len(query_ids),
        lists=len(lengths),
        lengths=tuple(int(value) for value in np.percentile(lengths, [0, 25, 50, 75, 100])) if lengths else (),
        tied=tied / neighbours if neighbours else 0.0,
        judged=judged,
        ranks=ranks if judged else {},
        above=tuple(float(value) for value in np.percentile(above, [25, 50, 75])) if above else (),
    )
