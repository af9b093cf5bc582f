"""How much rankings agree: in the order of the passages that they share, and in how many they share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from dgr_trainer.errors import DGRValueError
from dgr_trainer.runs.rank_list import RankList
from dgr_trainer.runs.rankings import Rankings, as_rankings


@dataclass(frozen=True)
class Agreement:
    """How much two rankings agree, as means over the queries that both have.

    Args:
        first (`str`): name of one ranking.
        second (`str`): name of the other.
        tau (`float`): Kendall's tau-b of the passages that both lists hold; NaN if it is defined for no query.
        overlap (`float`): the share of the first k passages that both lists have in common.
        queries (`int`): number of queries that both have.
        ordered (`int`): number of queries for which tau is defined: two passages in common, whose scores differ.
    """

    first: str
    second: str
    tau: float
    overlap: float
    queries: int
    ordered: int


@dataclass(frozen=True)
class AgreementTable:
    """Result of [`agreement`].

    Args:
        pairs (`tuple[Agreement, ...]`): each pair of rankings.
        k (`int`): how many passages of a list were compared.
    """

    pairs: tuple[Agreement, ...]
    k: int

    def to_dict(self) -> dict[str, Any]:
        """Return the table as plain dicts and numbers; a tau that is not defined is `None`."""
        pairs = [asdict(pair) | {"tau": None if math.isnan(pair.tau) else pair.tau} for pair in self.pairs]
        return {"k": self.k, "pairs": pairs}

    def to_markdown(self, *, digits: int = 3) -> str:
        """Return a Markdown table with a row for each pair."""
        rows = [["rankings", f"tau@{self.k}", f"overlap@{self.k}", "queries"]]
        for pair in self.pairs:
            cells = [f"{pair.tau:.{digits}f}", f"{pair.overlap:.{digits}f}", str(pair.queries)]
            rows.append([f"{pair.first}, {pair.second}".replace("|", "\\|"), *cells])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
            for row in rows
        ]
        return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def agreement(rankings: Mapping[str, Rankings | Mapping[str, Mapping[str, float]]], k: int = 100) -> AgreementTable:
    """Compare every pair of rankings on the queries that both have.

    Fusing teachers that agree fully gains nothing; teachers that do not agree at all may have ranked different data.
    See [`compare_runs`] for how good each of them is.

    Args:
        rankings (`Mapping[str, Rankings | Mapping[str, Mapping[str, float]]]`): two or more, by name.
        k (`int`, *optional*, defaults to 100): how many passages from the top of each list are compared.

    Returns:
        [`AgreementTable`], which prints as a table with `to_markdown()`.

    Raises:
        ValueError: if there are less than two rankings, `k` is not positive, or two have no query in common.

    Example:

    ```python
    >>> from dgr_trainer import Rankings
    >>> from dgr_trainer.evaluation.agreement import agreement
    >>> first, second = Rankings({"q": {"a": 3, "b": 2, "c": 1}}), Rankings({"q": {"a": 3, "c": 2, "b": 1}})
    >>> agreement({"first": first, "second": second}, k=3).pairs[0].tau
    0.3333333333333333

    ```
    """
    if len(rankings) < 2:
        raise DGRValueError(f"Agreement needs two or more rankings, but {len(rankings)} was given.")
    if k < 1:
        raise DGRValueError(f"k is {k}, but at least one passage of each list has to be compared. Use 1 or more.")
    checked = {name: as_rankings(run) for name, run in rankings.items()}
    return AgreementTable(
        tuple(_pair(first, second, checked[first], checked[second], k) for first, second in combinations(checked, 2)),
        k,
    )


def kendall_tau(first: RankList, second: RankList) -> float:
    """Compute Kendall's tau-b of the scores of the passages that two lists have in common, corrected for ties.

    Source: Kendall (1945), The Treatment of Ties in Ranking Problems.

    Args:
        first ([`RankList`]): one list.
        second ([`RankList`]): the other.

    Returns:
        `float`: -1 to 1; NaN if fewer than two passages are in both lists, or one list gives all of them the same
        score.
    """
    second_scores = dict(zip(second.passage_ids, second.scores.tolist(), strict=True))
    shared = [position for position, passage_id in enumerate(first.passage_ids) if passage_id in second_scores]
    x = first.scores[shared]
    y = np.array([second_scores[first.passage_ids[position]] for position in shared])
    concordant = ties_x = ties_y = 0
    # One row of the pair matrix at a time, so that the memory does not grow with the square of the length.
    for row in range(len(shared)):
        left = np.sign(np.less(x[row + 1 :], x[row]).astype(int) - np.greater(x[row + 1 :], x[row]))
        right = np.sign(np.less(y[row + 1 :], y[row]).astype(int) - np.greater(y[row + 1 :], y[row]))
        concordant += int((left * right).sum())
        ties_x += int((left == 0).sum())
        ties_y += int((right == 0).sum())
    pairs = len(shared) * (len(shared) - 1) // 2
    scale = math.sqrt((pairs - ties_x) * (pairs - ties_y))
    return concordant / scale if scale else math.nan


def _pair(first: str, second: str, first_rankings: Rankings, second_rankings: Rankings, k: int) -> Agreement:
    queries = [query_id for query_id in first_rankings if query_id in second_rankings]
    if not queries:
        examples = f"{next(iter(first_rankings), None)!r} and {next(iter(second_rankings), None)!r}"
        raise DGRValueError(
            f"{first} and {second} have no query in common: their query ids are such as {examples}. Compare rankings "
            "of the same queries."
        )
    taus, overlaps = [], []
    for query_id in sorted(queries):
        left, right = (
            RankList(ids[:k], scores[:k]) for ids, scores in (first_rankings[query_id], second_rankings[query_id])
        )
        taus.append(kendall_tau(left, right))
        longest = max(len(left.passage_ids), len(right.passage_ids))
        overlaps.append(len(set(left.passage_ids) & set(right.passage_ids)) / longest if longest else 1.0)
    defined = [tau for tau in taus if not math.isnan(tau)]
    mean = math.fsum(defined) / len(defined) if defined else math.nan
    return Agreement(first, second, mean, math.fsum(overlaps) / len(overlaps), len(queries), len(defined))
