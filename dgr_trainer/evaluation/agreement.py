"""How much rankings agree: by the order of what they share, and by how much they share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from dgr_trainer.errors import DGRValueError
from dgr_trainer.runs.rank_list import RankList
from dgr_trainer.runs.rankings import Rankings


@dataclass(frozen=True)
class Agreement:
    """How much two rankings agree, as means over the queries that both have.

    Args:
        first, second (`str`): names of the rankings.
        tau (`float`): Kendall's tau-b of the passages that both lists hold; NaN if it is defined for no query.
        overlap (`float`): the part of the first k passages that both lists have in common.
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
    """What [`agreement`] found.

    Args:
        pairs (`tuple[Agreement, ...]`): each pair of rankings.
        k (`int`): how many passages of a list were compared.
    """

    pairs: tuple[Agreement, ...]
    k: int

    def to_dict(self) -> dict[str, Any]:
        """The same as plain dicts and numbers; a tau that is not defined is `None`."""
        pairs = [asdict(pair) | {"tau": None if math.isnan(pair.tau) else pair.tau} for pair in self.pairs]
        return {"k": self.k, "pairs": pairs}

    def to_markdown(self, *, digits: int = 3) -> str:
        """A Markdown table: a row for each pair."""
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


def agreement(rankings: Mapping[str, Rankings], k: int = 100) -> AgreementTable:
    """Compare every pair of rankings on the queries that both have.

    Teachers that agree fully have nothing to add to each other; teachers that do not agree at all may be of different
    data. See [`compare_runs`] for how good each of them is.

    Args:
        rankings (`Mapping[str, Rankings]`): two or more, by name.
        k (`int`, *optional*, defaults to 100): how many first passages of a list are compared.

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
        raise DGRValueError(f"Agreement is between rankings, but there is {len(rankings)}. Give two or more.")
    if k < 1:
        raise DGRValueError(f"k is {k}, but at least one passage of a list has to be compared.")
    return AgreementTable(
        tuple(
            _pair(first, second, rankings[first], rankings[second], k) for first, second in combinations(rankings, 2)
        ),
        k,
    )


def kendall_tau(first: RankList, second: RankList) -> float:
    """Kendall's tau-b of the passages that two lists have in common, by their scores; ties are neither way.

    Source: Kendall (1945), The Treatment of Ties in Ranking Problems.

    Args:
        first, second ([`RankList`]): the lists.

    Returns:
        `float`: -1 to 1; NaN if fewer than two passages are in both, or all of them have one score in a list.
    """
    others = dict(zip(second.passage_ids, second.scores.tolist(), strict=True))
    shared = [place for place, passage_id in enumerate(first.passage_ids) if passage_id in others]
    x = first.scores[shared]
    y = np.array([others[first.passage_ids[place]] for place in shared])
    concordant = ties_x = ties_y = 0
    # A row at a time, so that long lists take no memory.
    for place in range(len(shared)):
        left = np.sign(np.less(x[place + 1 :], x[place]).astype(int) - np.greater(x[place + 1 :], x[place]))
        right = np.sign(np.less(y[place + 1 :], y[place]).astype(int) - np.greater(y[place + 1 :], y[place]))
        concordant += int((left * right).sum())
        ties_x += int((left == 0).sum())
        ties_y += int((right == 0).sum())
    pairs = len(shared) * (len(shared) - 1) // 2
    scale = math.sqrt((pairs - ties_x) * (pairs - ties_y))
    return concordant / scale if scale else math.nan


def _pair(first: str, second: str, one: Rankings, other: Rankings, k: int) -> Agreement:
    queries = [query_id for query_id in one if query_id in other]
    if not queries:
        example = f"{next(iter(one), None)!r} and {next(iter(other), None)!r}"
        raise DGRValueError(f"{first} and {second} have no query in common: their queries have ids such as {example}.")
    taus, overlaps = [], []
    for query_id in sorted(queries):
        left, right = (RankList(ids[:k], scores[:k]) for ids, scores in (one[query_id], other[query_id]))
        taus.append(kendall_tau(left, right))
        longest = max(len(left.passage_ids), len(right.passage_ids))
        overlaps.append(len(set(left.passage_ids) & set(right.passage_ids)) / longest if longest else 1.0)
    defined = [tau for tau in taus if not math.isnan(tau)]
    mean = math.fsum(defined) / len(defined) if defined else math.nan
    return Agreement(first, second, mean, math.fsum(overlaps) / len(overlaps), len(queries), len(defined))
