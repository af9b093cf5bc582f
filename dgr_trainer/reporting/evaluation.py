"""Before and after: runs compared on the same qrels, as a table and query by query."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset

from dgr_trainer.data.grades import as_qrels
from dgr_trainer.data.queries import Qrels, queries_mapping, read_qrels, read_queries
from dgr_trainer.errors import DGRValueError
from dgr_trainer.evaluation.comparison import RunComparison, compare_runs
from dgr_trainer.evaluation.metrics import DEFAULT_METRICS, Metric
from dgr_trainer.evaluation.significance import confidence_interval
from dgr_trainer.reporting.found_passages import FoundPassages, ShownHit, read_found
from dgr_trainer.reporting.training_runs import Pipeline
from dgr_trainer.runs.rankings import Rankings, as_rankings
from dgr_trainer.training.run_record import RUN_RECORD

Run = str | os.PathLike[str] | Rankings | FoundPassages | Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Side:
    """A query in one of the two runs that are compared.

    Args:
        value (`float`): The main metric.
        rank (`int`, *optional*): Rank of the first relevant passage; `None` if it is not in the list.
        relevant (`str`, *optional*): That passage.
        first (`str`, *optional*): The passage that stands first.
        relevant_hit, first_hit ([`ShownHit`], *optional*): Their titles and identifiers, if they are known.
    """

    value: float
    rank: int | None
    relevant: str | None
    first: str | None
    relevant_hit: ShownHit | None
    first_hit: ShownHit | None


@dataclass(frozen=True)
class QueryChange:
    """A query before and after."""

    query_id: str
    text: str
    before: Side
    after: Side

    @property
    def difference(self) -> float:
        """What the query gained in the main metric."""
        return self.after.value - self.before.value


@dataclass(frozen=True)
class Evaluation:
    """Runs compared.

    Args:
        comparison ([`RunComparison`]): The table.
        metric (`str`): The main metric.
        before, after (`str`): The baseline and the run of the verdict; `before` is empty if there is one run.
        interval (`tuple[float, float]`): 95 % bootstrap interval of the mean difference between the two.
        changes (`list[QueryChange]`): Query by query, the greatest gain first.
        depths (`dict[str, int]`): The longest list of each run.
    """

    comparison: RunComparison
    metric: str
    before: str
    after: str
    interval: tuple[float, float] = (0.0, 0.0)
    changes: list[QueryChange] = field(default_factory=list)
    depths: dict[str, int] = field(default_factory=dict)


def evaluate_given(
    runs: Mapping[str, Run],
    qrels: str | os.PathLike[str] | Mapping[str, Mapping[str, int]] | None,
    queries: str | os.PathLike[str] | Dataset | Mapping[str, str] | None,
    metrics: Sequence[str],
    *,
    baseline: str | None = None,
    result: str | None = None,
    seed: int = 0,
) -> Evaluation:
    """Compare runs.

    Args:
        runs (`Mapping[str, Run]`): Files or rank lists by name.
        qrels (`str` or `Mapping`, *optional*): Judgements.
        queries (`str`, `Dataset` or `Mapping`, *optional*): Texts of the queries.
        metrics (`Sequence[str]`): The first of `ndcg`, `mrr` and whatever else there is, is the main one.
        baseline (`str`, *optional*): By default the first run.
        result (`str`, *optional*): The run that the report is about; by default the last one.
        seed (`int`, *optional*, defaults to 0): Seed of intervals and tests.

    Raises:
        ValueError: if there are no qrels, a name is unknown, or for the reasons of [`compare_runs`].
    """
    if qrels is None:
        raise DGRValueError("runs were given without qrels. Give the judgements of their queries (--qrels).")
    names = list(runs)
    for name in (baseline, result):
        if name is not None and name not in runs:
            raise DGRValueError(f"There is no run {name!r} among {names}.")
    after = result or names[-1]
    before = (baseline or names[0]) if len(names) > 1 else ""
    if before == after:
        raise DGRValueError(f"The baseline and the result are both {after!r}. Give two runs to compare.")
    found = {name: _found(run) for name, run in runs.items()}
    judged = as_qrels(read_qrels(qrels) if isinstance(qrels, (str, os.PathLike)) else qrels)
    texts: dict[str, str] = {}
    for one in found.values():
        texts |= one.queries
    if queries is not None:
        read = read_queries(queries) if isinstance(queries, (str, os.PathLike)) else queries
        texts |= queries_mapping(read)
    rankings = {name: one.rankings for name, one in found.items()}
    comparison = compare_runs(rankings, judged, metrics, baseline=before or None, seed=seed)
    metric = main_metric(metrics)
    depths = {name: max((len(one.passage_ids) for one in run.values()), default=0) for name, run in rankings.items()}
    if not before:
        return Evaluation(comparison, metric, "", after, depths=depths)
    values = {name: comparison.per_query[name][metric] for name in (before, after)}
    changes = [
        QueryChange(
            query_id,
            texts.get(query_id, ""),
            _side(found[before], judged, query_id, values[before][query_id]),
            _side(found[after], judged, query_id, values[after][query_id]),
        )
        for query_id in values[after]
    ]
    changes.sort(key=lambda change: (-change.difference, change.query_id))
    interval = confidence_interval([change.difference for change in changes], 0.95, seed)
    return Evaluation(comparison, metric, before, after, interval, changes, depths)


def evaluate_stored(pipeline: Pipeline) -> Evaluation | None:
    """Compare the runs that a pipeline stored; `None` if it stored none."""
    stored: dict[str, Any] | None = pipeline.record.get("evaluation")
    if not stored:
        return None
    for path in [stored["qrels"], *stored["runs"].values()]:
        if not (pipeline.folder / path).is_file():
            raise FileNotFoundError(
                f"{pipeline.folder / path} is missing, which {pipeline.folder / RUN_RECORD} names. Restore it, or "
                "give the runs and qrels yourself."
            )
    runs: dict[str, Run] = {}
    for name, path in stored["runs"].items():
        found = read_found(pipeline.folder / path)
        hits = stored.get("hits", {}).get(name)
        if hits is not None and (pipeline.folder / hits).is_file():
            shown = read_found(pipeline.folder / hits)
            found = FoundPassages(found.rankings, shown.queries, shown.hits)
        runs[name] = found
    return evaluate_given(
        runs,
        pipeline.folder / stored["qrels"],
        None,
        stored.get("metrics", DEFAULT_METRICS),
        baseline=stored.get("baseline"),
        result=stored.get("result"),
        seed=stored.get("seed", 0),
    )


def main_metric(metrics: Sequence[str]) -> str:
    """The metric of the verdict: nDCG if it was asked for, else the reciprocal rank, else the first."""
    kinds = [Metric.parse(metric).kind for metric in metrics]
    for kind in ("ndcg", "mrr"):
        if kind in kinds:
            return list(metrics)[kinds.index(kind)]
    return list(metrics)[0]


def _found(run: Run) -> FoundPassages:
    if isinstance(run, FoundPassages):
        return run
    if isinstance(run, (str, os.PathLike)):
        return read_found(run)
    return FoundPassages(as_rankings(run))


def _side(found: FoundPassages, qrels: Qrels, query_id: str, value: float) -> Side:
    ids = found.rankings[query_id].passage_ids if query_id in found.rankings else ()
    relevant = {id for id, grade in qrels[query_id].items() if grade > 0}
    rank = next((rank for rank, id in enumerate(ids, start=1) if id in relevant), None)
    hits = found.hits.get(query_id, {})
    first_relevant = ids[rank - 1] if rank is not None else min(relevant, default=None)
    first = ids[0] if ids else None
    return Side(
        value,
        rank,
        first_relevant,
        first,
        hits.get(first_relevant) if first_relevant is not None else None,
        hits.get(first) if first is not None else None,
    )
