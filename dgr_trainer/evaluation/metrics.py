"""Retrieval metrics, computed by trec_eval (through pytrec_eval)."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytrec_eval

from dgr_trainer.data.grades import as_qrels
from dgr_trainer.errors import DGRTypeError, DGRValueError
from dgr_trainer.runs.rankings import Rankings, as_rankings

logger = logging.getLogger(__name__)

DEFAULT_METRICS = ("hits@1", "hits@5", "hits@20", "mrr@10", "ndcg@10")

_TREC_EVAL = {  # name: (trec_eval's name with a cut, and without one)
    "hits": ("success", None),
    "map": ("map_cut", "map"),
    "mrr": ("recip_rank", "recip_rank"),
    "ndcg": ("ndcg_cut", "ndcg"),
    "precision": ("P", None),
    "recall": ("recall", None),
}


@dataclass(frozen=True)
class Metric:
    """A metric and its name as users write it.

    Args:
        name (`str`): `hits@k`, `recall@k`, `precision@k`, `mrr@k`, `ndcg@k` or `map@k` with any k of at least 1;
            `mrr`, `ndcg` and `map` also without a cut.
        kind (`str`): the name without the cut.
        k (`int`, *optional*): the cut: how many passages of a list count.
    """

    name: str
    kind: str
    k: int | None

    @classmethod
    def parse(cls, name: str) -> Metric:
        """Parse the name of a metric.

        Raises:
            ValueError: if there is no metric of this name.
        """
        match = re.fullmatch(r"([a-z]+)(?:@([1-9][0-9]*))?", name) if isinstance(name, str) else None
        kind, cut = match.groups() if match else (None, None)
        if kind not in _TREC_EVAL or (cut is None and _TREC_EVAL[kind][1] is None):
            with_cut = ", ".join(f"{known}@k" for known in _TREC_EVAL)
            without = ", ".join(known for known, names in _TREC_EVAL.items() if names[1])
            raise DGRValueError(
                f"There is no metric {name!r}. There are {with_cut}, where k is 1 or more (such as 'hits@5'), "
                f"and without a cut {without}."
            )
        return cls(name, kind, None if cut is None else int(cut))

    @property
    def measure(self) -> str:
        """Name of the measure in trec_eval, which has no cut for recip_rank: `list_length` cuts the list instead."""
        cut, whole = _TREC_EVAL[self.kind]
        return f"{cut}.{self.k}" if self.k is not None and self.kind != "mrr" else str(whole)

    @property
    def list_length(self) -> int | None:
        """Length to cut lists to before trec_eval sees them; `None` leaves them whole."""
        return self.k if self.kind == "mrr" else None


def evaluate_run(
    rankings: Rankings | Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Mapping[str, int]],
    metrics: Sequence[str] = DEFAULT_METRICS,
    *,
    relevance_level: int = 1,
    ignore_identical_ids: bool = False,
) -> dict[str, float]:
    """Mean of each metric over the queries of the qrels.

    A query of the qrels without a rank list, or without a relevant passage, counts as 0; a query without qrels does
    not count. See [`evaluate_per_query`] for the arguments.

    Returns:
        `dict[str, float]`: mean by metric, in the order asked for.

    Example:

    ```python
    >>> from dgr_trainer import Rankings, evaluate_run
    >>> evaluate_run(Rankings({"q1": {"p1": 2.0, "p2": 1.0}}), {"q1": {"p2": 1}}, ["hits@1", "hits@2", "mrr"])
    {'hits@1': 0.0, 'hits@2': 1.0, 'mrr': 0.5}

    ```
    """
    values = evaluate_per_query(
        rankings, qrels, metrics, relevance_level=relevance_level, ignore_identical_ids=ignore_identical_ids
    )
    return {metric: math.fsum(by_query.values()) / len(by_query) for metric, by_query in values.items()}


def evaluate_per_query(
    rankings: Rankings | Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Mapping[str, int]],
    metrics: Sequence[str] = DEFAULT_METRICS,
    *,
    relevance_level: int = 1,
    ignore_identical_ids: bool = False,
) -> dict[str, dict[str, float]]:
    """Compute each metric for each query of the qrels.

    `hits@k` is 1 if a relevant passage is among the first k (DPR's top-k accuracy; trec_eval's success). `recall@k` is
    the share of the relevant passages that are among the first k, `precision@k` the share of the first k that are
    relevant. `mrr@k` is 1 over the rank of the first relevant passage (0 beyond k). `map` is the precision at the rank
    of each relevant passage, averaged over all of them. `ndcg@k` has the relevance as gain and log2(1 + rank) as
    discount.

    Passages with equal scores are ordered as [`Rankings`] orders them, which is trec_eval's rule.

    Args:
        rankings (`Rankings` or `Mapping[str, Mapping[str, float]]`): the run. In a mapping ids may be integers.
        qrels (`Mapping[str, Mapping[str, int]]`): relevance by query id and passage id, checked as those of a file:
            ids may be integers, and a grade may be 1.0, but not 0.9 or `None`.
        metrics (`Sequence[str]`, *optional*): see [`Metric`] for their names.
        relevance_level (`int`, *optional*, defaults to 1): the lowest relevance that counts as relevant (2 is usual
            for TREC DL passages), for all metrics but `ndcg`, which is graded.
        ignore_identical_ids (`bool`, *optional*, defaults to `False`): whether to leave the passage that has the id of
            the query out of the lists, as BEIR does.

    Returns:
        `dict[str, dict[str, float]]`: by metric, the value by query id, in the order of the qrels.

    Raises:
        TypeError: if an id is neither a string nor an integer, or a score no number.
        ValueError: if a metric is unknown, `relevance_level` is below 1, a grade is no integer, the qrels are empty,
            or the run has a list for none of their queries.
    """
    if isinstance(metrics, str):
        raise DGRTypeError(f"metrics is the string {metrics!r}. Give a list of names: [{metrics!r}].")
    parsed = [Metric.parse(name) for name in metrics]
    if not parsed:
        raise DGRValueError("No metric was given. Name at least one, such as 'hits@5' or 'ndcg@10'.")
    if relevance_level < 1:
        raise DGRValueError(
            f"relevance_level is {relevance_level}, but a passage of relevance 0 is not relevant. Use 1 or more."
        )
    qrels = as_qrels(qrels)
    if not qrels:
        raise DGRValueError("The qrels are empty, so there is no query to evaluate. Check the file or the split.")
    rankings = as_rankings(rankings)
    if ignore_identical_ids:
        rankings = rankings.without_identical_ids()
    lists = {query_id: rankings[query_id].passage_ids for query_id in qrels if query_id in rankings}
    if not lists:
        raise DGRValueError(
            f"None of the {len(qrels)} queries of the qrels (such as {next(iter(qrels))!r}) has a rank list; the run "
            f"has {len(rankings)} lists{f' (such as {next(iter(rankings))!r})' if rankings else ''}. "
            f"{_hint(rankings, qrels)}"
        )
    _warn_of_missing(qrels, lists, parsed, relevance_level)

    # Judgements below 0 mean the same as 0; pytrec_eval never returns from a query whose judgements are all below 0.
    judged = {query_id: {id: max(level, 0) for id, level in levels.items()} for query_id, levels in qrels.items()}
    computed: dict[str, dict[str, float]] = {}
    for length in sorted({metric.list_length for metric in parsed}, key=lambda value: value or 0):
        wanted = [metric for metric in parsed if metric.list_length == length]
        # trec_eval gets ranks instead of scores: it stores scores in 32 bits, where different scores become ties.
        run = {query_id: {id: float(-rank) for rank, id in enumerate(ids[:length])} for query_id, ids in lists.items()}
        evaluator = pytrec_eval.RelevanceEvaluator(
            judged, {metric.measure for metric in wanted}, relevance_level=relevance_level
        )
        results = evaluator.evaluate(run)
        for metric in wanted:
            measure = metric.measure.replace(".", "_")
            computed[metric.name] = {
                query_id: float(results[query_id][measure]) if query_id in results else 0.0 for query_id in qrels
            }
    return {metric.name: computed[metric.name] for metric in parsed}


def _hint(rankings: Rankings, qrels: Mapping[str, Mapping[str, int]]) -> str:
    judged = {id for levels in qrels.values() for id in levels}
    if any(query_id in judged for query_id in rankings) and any(
        set(rank_list.passage_ids) & set(qrels) for rank_list in rankings.values()
    ):
        return "Its query ids are passage ids of the qrels: its columns of queries and passages are swapped."
    return "Check that run and qrels are of the same queries."


def _warn_of_missing(
    qrels: Mapping[str, Mapping[str, int]],
    lists: Mapping[str, tuple[str, ...]],
    metrics: Sequence[Metric],
    relevance_level: int,
) -> None:
    missing = [query_id for query_id in qrels if not lists.get(query_id)]
    if missing:
        logger.warning(
            "%d of %d queries of the qrels have no rank list, or an empty one, and count as 0, such as %r.",
            len(missing), len(qrels), missing[0],
        )  # fmt: skip
    # nDCG has the relevance as gain, whatever counts as relevant: any relevance above 0 adds to it.
    needed = {metric.name: 1 if metric.kind == "ndcg" else relevance_level for metric in metrics}
    for lowest in sorted(set(needed.values())):
        without_relevant = [
            query_id
            for query_id, levels in qrels.items()
            if levels and not any(level >= lowest for level in levels.values())
        ]
        names = [name for name, level in needed.items() if level == lowest]
        if without_relevant:
            logger.warning(
                "%d of %d queries of the qrels have no passage of relevance %d or more and count as 0%s, such as %r.",
                len(without_relevant), len(qrels), lowest,
                "" if len(names) == len(needed) else f" in {', '.join(names)}", without_relevant[0],
            )  # fmt: skip
