"""Settings of a search that are fitted to development queries.

What the student generates for a query does not depend on how it is weighted. So each query is decoded once, its
identifiers are kept with their log-likelihoods, and the passages are scored again for each setting that is tried.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm

from dgr_trainer.candidates import MatchedIdentifier
from dgr_trainer.data.grades import as_qrels
from dgr_trainer.data.queries import queries_mapping
from dgr_trainer.data.query_splits import split_queries
from dgr_trainer.errors import DGRValueError
from dgr_trainer.evaluation.metrics import Metric, evaluate_per_query
from dgr_trainer.evaluation.significance import paired_test
from dgr_trainer.files.atomic import atomic_write
from dgr_trainer.identifier_weights import ScoringSettings
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval.query_identifiers import QueryIdentifiers
from dgr_trainer.retrieval.search_engine import SearchEngine
from dgr_trainer.retrieval.settings import SearchSettings
from dgr_trainer.runs.rankings import Rankings

if TYPE_CHECKING:
    from dgr_trainer.retrieval.retriever import GenerativeRetriever

logger = logging.getLogger(__name__)

GRID: dict[str, tuple[Any, ...]] = {
    "exponent": (1.0, 1.5, 2.0, 2.5, 3.0, 4.0),
    "smoothing": (0.1, 0.5, 1.0, 2.0, 5.0, 10.0),
    "repetition": (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0),
    "pseudo_query_bonus": (0.0, 2.0, 5.0, 8.0, 11.0, 14.0),
    "query_weight": (0.5, 1.0, 1.5, 2.0, 3.0, 4.0),
    "unigrams": (0, 100, 500, 5000),
    "max_occurrences": (100, 500, 1500),
}
"""The settings that are tried, by name, and their values. The values at hand are tried, too."""

_OF_SCORING = ("smoothing", "exponent", "repetition", "pseudo_query_bonus", "query_weight")
_OF_SEARCH = ("unigrams", "max_occurrences", "max_passages")


@dataclass(frozen=True)
class Trial:
    """Settings that were tried.

    Args:
        changed (`Mapping[str, Any]`): The settings that differ from those of the retriever.
        value (`float`): Mean of the metric over the queries that the settings are fitted to.
    """

    changed: Mapping[str, Any]
    value: float


@dataclass(frozen=True)
class TunedSearch:
    """Settings of a search, fitted to development queries.

    Args:
        settings ([`SearchSettings`]): Limits of the search.
        scoring ([`ScoringSettings`]): Weights of the identifiers.
        metric (`str`): What was maximised.
        changed (`Mapping[str, Any]`): The settings that differ from those of the retriever.
        fitted_queries (`int`): Number of queries that the settings are fitted to.
        held_out_queries (`int`): Number of the other queries, which the settings were not chosen by.
        fitted_before (`float`): Mean of the metric over the fitted queries, with the settings of the retriever.
        fitted_after (`float`): The same with the new settings.
        held_out_before (`float`): Mean over the held-out queries, with the settings of the retriever.
        held_out_after (`float`): The same with the new settings.
        p_value (`float`): Of a paired randomisation test between the last two.
        seed (`int`): Seed of the halves.
        trials (`Sequence[Trial]`): Everything that was tried, in order.
    """

    settings: SearchSettings
    scoring: ScoringSettings
    metric: str
    changed: Mapping[str, Any]
    fitted_queries: int
    held_out_queries: int
    fitted_before: float
    fitted_after: float
    held_out_before: float
    held_out_after: float
    p_value: float
    seed: int
    trials: Sequence[Trial] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: `search`, `scoring`, and `tuning` with everything else."""
        values = asdict(self)
        return {"search": values.pop("settings"), "scoring": values.pop("scoring"), "tuning": values}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file that `read_settings` and `dgr search --settings` read."""
        with atomic_write(path) as file:
            file.write(json.dumps(self.to_dict(), indent=2) + "\n")


def tune_search(
    retriever: GenerativeRetriever,
    queries: Dataset | Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
    *,
    metric: str = "ndcg@10",
    grid: Mapping[str, Sequence[Any]] | None = None,
    beam_sizes: Sequence[int] | None = None,
    max_queries: int | None = 400,
    rounds: int = 2,
    seed: int = 0,
    progress: bool = True,
) -> TunedSearch:
    """Fit the settings of a search to development queries.

    The queries are divided in two halves by a hash of their ids. The settings are chosen on the first one, one at a
    time: of the values of a setting, the one with the highest mean of the metric is kept (the value at hand, if no
    other is better), then the next setting is tried, for some rounds. The second half says what that gained; do not
    give test queries. Equal arguments give equal results.

    Args:
        retriever ([`GenerativeRetriever`]): The retriever; its settings are where the search begins, and are not
            changed. With `lookahead`, every trial has the identifiers that these settings lead to.
        queries (`datasets.Dataset` with columns `query_id` and `query`, or `Mapping[str, str]`): Development queries.
        qrels (`Mapping[str, Mapping[str, int]]`): Their judgements; queries without relevant passages are left out.
        metric (`str`, defaults to `"ndcg@10"`): What is maximised, as in [`evaluate_run`].
        grid (`Mapping[str, Sequence[Any]]`, *optional*): Values to try of `smoothing`, `exponent`, `repetition`,
            `pseudo_query_bonus` and `query_weight` (`ScoringSettings`), and of `unigrams`, `max_occurrences` and
            `max_passages` (`SearchSettings`). By default those of `dgr_trainer.evaluation.tuning.GRID`.
        beam_sizes (`Sequence[int]`, *optional*): Beam sizes to try, each of which decodes the queries anew. By default
            only that of the retriever.
        max_queries (`int`, *optional*, defaults to 400): Number of queries; of more, a random sample is taken.
        rounds (`int`, defaults to 2): How often the settings are gone through; fewer if a round changes nothing.
        seed (`int`, defaults to 0): Seed of the sample and of the halves.
        progress (`bool`, defaults to `True`): Show a progress bar.

    Returns:
        [`TunedSearch`]: the settings, and what they gain.

    Raises:
        ValueError: if too few queries are judged, the retriever ranks by log-likelihoods, or a name, value or metric
            is unknown.

    Example:

    ```python
    tuned = tune_search(retriever, dev_queries, dev_qrels)
    retriever.settings, retriever.scoring = tuned.settings, tuned.scoring
    ```
    """
    grid = dict(GRID if grid is None else grid)
    _check(retriever, grid, beam_sizes, rounds, max_queries)
    cut = Metric.parse(metric).k or 100
    judged, relevant = _judged(queries, qrels, max_queries, seed)
    halves = split_queries(judged, seed=seed)
    start = _Choice(retriever.settings, retriever.scoring)
    sizes = list(dict.fromkeys([retriever.settings.beam_size, *(beam_sizes or ())]))
    trials: list[Trial] = []

    steps = rounds * (sum(len(values) for values in grid.values()) + len(sizes))
    with tqdm(total=len(sizes) + steps, desc="Tuning", unit=" steps", disable=not progress) as bar:
        decoded = {}
        for size in sizes:
            bar.set_postfix_str(f"decoding {len(judged)} queries with {size} beams")
            decoded[size] = _decode(retriever, judged, size)
            bar.update()

        def per_query(choice: _Choice, half: int) -> dict[str, float]:
            found = decoded[choice.settings.beam_size]
            engine = SearchEngine(replace(retriever._parts, settings=choice.settings, scoring=choice.scoring))
            ranked = {query_id: _rank(engine, found[query_id], cut) for query_id in halves[half]}
            qrels_of_half = {query_id: relevant[query_id] for query_id in halves[half]}
            return evaluate_per_query(Rankings(ranked), qrels_of_half, [metric])[metric]

        def value(choice: _Choice) -> float:
            bar.update()
            mean = float(np.mean(list(per_query(choice, 0).values())))
            trials.append(Trial(choice.changed_from(start), mean))
            return mean

        best, before = _ascend(start, grid | {"beam_size": sizes}, value, rounds)
    held_out = [per_query(choice, 1) for choice in (start, best.choice)]
    means = [float(np.mean(list(values.values()))) for values in held_out]
    tuned = TunedSearch(
        best.choice.settings,
        best.choice.scoring,
        metric,
        best.choice.changed_from(start),
        fitted_queries=len(halves[0]),
        held_out_queries=len(halves[1]),
        fitted_before=before,
        fitted_after=best.value,
        held_out_before=means[0],
        held_out_after=means[1],
        p_value=paired_test(*held_out, seed=seed).randomisation_p_value,
        seed=seed,
        trials=tuple(trials),
    )
    if means[1] < means[0]:
        logger.warning(
            "The settings that are best for %d queries, %s, are worse for %d others: %s falls from %.3f to %.3f. Keep "
            "the settings of the retriever, or give more queries.",
            len(halves[0]),
            dict(tuned.changed),
            len(halves[1]),
            metric,
            *means,
        )
    return tuned


class _Choice(NamedTuple):
    """The settings of a trial."""

    settings: SearchSettings
    scoring: ScoringSettings

    def with_value(self, name: str, value: Any) -> _Choice:
        if name in _OF_SCORING:
            return self._replace(scoring=replace(self.scoring, **{name: value}))
        return self._replace(settings=replace(self.settings, **{name: value}))

    def value_of(self, name: str) -> Any:
        return getattr(self.scoring if name in _OF_SCORING else self.settings, name)

    def changed_from(self, other: _Choice) -> dict[str, Any]:
        names = (*_OF_SCORING, *_OF_SEARCH, "beam_size")
        return {name: self.value_of(name) for name in names if self.value_of(name) != other.value_of(name)}


class _Best(NamedTuple):
    choice: _Choice
    value: float


def _ascend(
    start: _Choice, grid: Mapping[str, Sequence[Any]], value: Callable[[_Choice], float], rounds: int
) -> tuple[_Best, float]:
    """Improve one setting at a time; the best choice, and the value of the first one."""
    best = _Best(start, value(start))
    before = best.value
    for _ in range(rounds):
        at_start = best.choice
        for name, values in grid.items():
            for candidate in values:
                if candidate == best.choice.value_of(name):
                    continue
                choice = best.choice.with_value(name, candidate)
                found = value(choice)
                if found > best.value:
                    best = _Best(choice, found)
        if best.choice == at_start:
            break
    return best, before


class _Decoded(NamedTuple):
    """What the student generated for a query, packed: a few thousand identifiers.

    Attributes:
        views, origins (`list[str]`), counts, scores, lengths (`np.ndarray`): One entry per identifier.
        tokens (`np.ndarray` of int32): Their tokens, one after the other.
        first_scores (`torch.Tensor`, *optional*): Log-probabilities of the first token of a substring.
    """

    views: list[str]
    origins: list[str]
    counts: np.ndarray
    scores: np.ndarray
    lengths: np.ndarray
    tokens: np.ndarray
    first_scores: torch.Tensor | None

    @classmethod
    def pack(cls, found: Sequence[MatchedIdentifier], first_scores: torch.Tensor | None) -> _Decoded:
        return cls(
            [identifier.view for identifier in found],
            [identifier.origin for identifier in found],
            np.array([identifier.count for identifier in found], np.int64),
            np.array([identifier.score for identifier in found], np.float64),
            np.array([len(identifier.ids) for identifier in found], np.int64),
            np.array([token for identifier in found for token in identifier.ids], np.int32),
            None if first_scores is None else first_scores.cpu().clone(),
        )

    def unpack(self) -> list[MatchedIdentifier]:
        ends = np.cumsum(self.lengths).tolist()
        tokens = self.tokens.tolist()
        columns = zip(
            self.views, self.origins, self.counts.tolist(), self.scores.tolist(), [0, *ends], ends, strict=False
        )
        return [
            MatchedIdentifier(view, tuple(tokens[start:end]), count, score, origin)
            for view, origin, count, score, start, end in columns
        ]


class _RecordingEngine(SearchEngine):
    """A search engine that keeps what it is about to weigh, in the order of the queries."""

    def __init__(self, parts: Any) -> None:
        super().__init__(parts)
        self.decoded: list[_Decoded] = []

    def weigh(
        self, found: list[MatchedIdentifier], first_scores: torch.Tensor | None, index: FMIndex
    ) -> QueryIdentifiers:
        self.decoded.append(_Decoded.pack(found, first_scores))
        return QueryIdentifiers([], np.zeros(0))


def _decode(retriever: GenerativeRetriever, queries: Mapping[str, str], beam_size: int) -> dict[str, _Decoded]:
    """What the student generates for each query."""
    parts = retriever._parts
    engine = _RecordingEngine(replace(parts, settings=replace(parts.settings, beam_size=beam_size)))
    ids = list(queries)
    nothing = np.zeros(0, np.int64)
    for start in range(0, len(ids), parts.settings.batch_size):
        texts = [queries[query_id] for query_id in ids[start : start + parts.settings.batch_size]]
        engine.query_identifiers(texts, [nothing] * len(texts))
    return dict(zip(ids, engine.decoded, strict=True))


def _rank(engine: SearchEngine, decoded: _Decoded, k: int) -> list[tuple[str, float]]:
    """The k best passages of a query, weighed by the engine's settings; ties as in a search."""
    identifiers = engine.weigh(decoded.unpack(), decoded.first_scores, engine.index)
    ranked = engine.rank_passages(identifiers, k, np.zeros(0, np.int64), engine.index)
    ids = engine.index.passage_ids.take(np.array([passage.position for passage in ranked], np.int64))
    return sorted(
        ((id, passage.score) for id, passage in zip(ids, ranked, strict=True)),
        key=lambda hit: (hit[1], hit[0]),
        reverse=True,
    )[:k]


def _judged(
    queries: Dataset | Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
    max_queries: int | None,
    seed: int,
) -> tuple[dict[str, str], dict[str, Mapping[str, int]]]:
    """Queries with relevant passages, and their qrels; of too many, a random sample."""
    texts, grades = queries_mapping(queries), as_qrels(qrels)
    ids = [query_id for query_id in sorted(texts) if any(grade > 0 for grade in grades.get(query_id, {}).values())]
    if max_queries is not None and len(ids) > max_queries:
        order = np.random.default_rng(seed).permutation(len(ids))[:max_queries]
        ids = [ids[number] for number in sorted(order.tolist())]
    if len(ids) < 20:
        raise DGRValueError(
            f"Only {len(ids)} of {len(texts)} queries have relevant passages in the qrels, which is too few to choose "
            "settings by: give at least 20 development queries, and better some hundred."
        )
    return {query_id: texts[query_id] for query_id in ids}, {query_id: grades[query_id] for query_id in ids}


def _check(
    retriever: GenerativeRetriever,
    grid: Mapping[str, Sequence[Any]],
    beam_sizes: Sequence[int] | None,
    rounds: int,
    max_queries: int | None,
) -> None:
    if retriever.scoring.kind != "log_odds":
        raise DGRValueError(
            f"The retriever ranks by kind={retriever.scoring.kind!r}, which has no settings to fit. Only log-odds do."
        )
    unknown = sorted(set(grid) - {*_OF_SCORING, *_OF_SEARCH})
    if unknown:
        raise DGRValueError(
            f"grid names {', '.join(unknown)}, but what can be fitted is {', '.join((*_OF_SCORING, *_OF_SEARCH))}; "
            "and beam_sizes."
        )
    if rounds < 1 or (max_queries is not None and max_queries < 20):
        raise DGRValueError(f"rounds={rounds} has to be at least 1, and max_queries={max_queries} at least 20.")
    start = _Choice(retriever.settings, retriever.scoring)
    for name, values in [*grid.items(), ("beam_size", beam_sizes or ())]:
        for value in values:
            start.with_value(name, value)
