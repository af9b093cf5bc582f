"""What the lists of a distillation teach, measured before the first step: ranks of relevant passages, ties, scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from dgr_trainer.runs.statistics import rank_list_statistics
from dgr_trainer.training.collator import DistillationCollator
from dgr_trainer.training.identifier_sources import CandidateIdentifiers
from dgr_trainer.training.losses.margin import margin_settings
from dgr_trainer.training.objective import RankingObjective
from dgr_trainer.training.sampling import TrainingList
from dgr_trainer.training.teacher_agreement import count_violated_margins

MOST_QUERIES = 5000
"""More training queries than this are sampled, evenly spaced, so that measuring takes about a second."""
_LISTS_AT_ONCE = 256


def taught_lists(
    collator: DistillationCollator, objective: RankingObjective, query_ids: Sequence[str]
) -> dict[str, Any]:
    """Measure the teacher's rank lists and the lists of the first epoch.

    Args:
        collator ([`DistillationCollator`]): Has the rank lists, and draws from them.
        objective ([`RankingObjective`]): The loss, perhaps with margins.
        query_ids (`Sequence[str]`): The training queries.

    Returns:
        `dict[str, Any]`: for JSON:

        - `training_queries`, `queries`: how many there are, and how many were looked at.
        - `teacher`: the fields of [`RankListStatistics`] of the teacher's whole lists.
        - `lists`, `mean_length`: lists of two passages or more that were drawn, and their mean length.
        - `first_is_relevant`: share of them that begin with a passage that the qrels judge relevant.
        - `pairs`, `tied_pairs`: pairs of passages, and how many of them the teacher does not tell apart.
        - `student_scores`: only with [`Candidates`]: what the student's scores before training say of the same lists.
          `pairs` that it scored, share of them in the `wrong_order`, `spread` between the best and the last passage of
          a list and `neighbours`' difference in the order to be taught (lower quartile, median, upper quartile).
        - `margins`: only if the loss has margins: `margin`, `margin_gap`, and with candidates the share `violated` of
          the pairs that the loss compares, and, unless scores are standardised, `relative_to_spread`: the margin that
          is asked for between the first and the last passage of a list of mean length, divided by the median spread.
    """
    chosen = evenly(query_ids, MOST_QUERIES)
    qrels = collator.sampler.qrels
    drawn = [collator.sampler.sample(query_id, 0) for query_id in chosen]
    lists = [(query_id, one) for query_id, one in zip(chosen, drawn, strict=True) if len(one.passage_ids) > 1]
    lengths = [len(one.passage_ids) for _, one in lists]
    pairs = sum(length * (length - 1) // 2 for length in lengths)
    result: dict[str, Any] = {
        "training_queries": len(query_ids),
        "queries": len(chosen),
        "teacher": asdict(rank_list_statistics(collator.rankings, qrels, chosen)),
        "lists": len(lists),
        "mean_length": float(np.mean(lengths)) if lists else 0.0,
        "first_is_relevant": sum(qrels.get(query_id, {}).get(one.passage_ids[0], 0) > 0 for query_id, one in lists)
        / max(1, len(lists)),
        "pairs": pairs,
        "tied_pairs": sum(_tied_pairs(one.ranks) for _, one in lists),
    }
    settings = margin_settings(objective.settings) if objective.has_margins else {}
    margins = {name: float(settings[name]) for name in ("margin", "margin_gap") if settings}
    if isinstance(collator.source, CandidateIdentifiers):
        scores, violated = _student_scores(collator.source, lists, settings)
        if scores is not None:
            result["student_scores"] = scores
            if violated is not None:
                margins["violated"] = violated
                median = scores["spread"][1]
                if median > 0 and settings.get("normalization", "none") == "none":
                    asked = margins["margin"] + margins["margin_gap"] * max(0.0, result["mean_length"] - 2)
                    margins["relative_to_spread"] = asked / median
    if margins:
        result["margins"] = margins
    return result


def _student_scores(
    source: CandidateIdentifiers, lists: Sequence[tuple[str, TrainingList]], margins: Mapping[str, Any]
) -> tuple[dict[str, Any] | None, float | None]:
    """The student's scores of the lists before training, and the share of taught pairs that violate their margin."""
    spreads: list[float] = []
    neighbours: list[float] = []
    pairs = wrong = 0
    by_length: dict[int, list[tuple[np.ndarray, ...]]] = {}
    for query_id, one in lists:
        if query_id not in source.candidates:
            continue
        known = dict(zip(source.order(query_id), source.candidates.scores(query_id).tolist(), strict=True))
        rows = zip(one.passage_ids, one.ranks, one.teacher_scores, strict=True)
        kept = [(known[id], rank, teacher) for id, rank, teacher in rows if id in known]
        if len(kept) < 2:
            continue
        scores, ranks, teacher_scores = (np.array(values) for values in zip(*kept, strict=True))
        spreads.append(float(scores.max() - scores.min()))
        neighbours += (scores[:-1] - scores[1:]).tolist()
        first, second = np.triu_indices(len(scores), 1)
        apart = ranks[first] < ranks[second]
        difference = (scores[first] - scores[second])[apart]
        pairs += len(difference)
        wrong += int((difference < 0).sum())
        by_length.setdefault(len(kept), []).append((scores, ranks, teacher_scores))
    if not pairs:
        return None, None
    measured = {
        "pairs": pairs,
        "wrong_order": wrong / pairs,
        "spread": _quartiles(spreads),
        "neighbours": _quartiles(neighbours),
    }
    return measured, _violated(list(by_length.values()), margins) if margins else None


def _violated(groups: Sequence[Sequence[tuple[np.ndarray, ...]]], margins: Mapping[str, Any]) -> float:
    """Share of the taught pairs that violate their margin, of groups of lists of one length.

    A list has scores, ranks and teacher scores.
    """
    violated = taught = 0
    for group in groups:
        for start in range(0, len(group), _LISTS_AT_ONCE):
            columns = zip(*group[start : start + _LISTS_AT_ONCE], strict=True)
            scores, ranks, teacher_scores = (torch.from_numpy(np.stack(column)) for column in columns)
            mask = torch.ones_like(scores, dtype=torch.bool)
            counts = count_violated_margins(scores, mask, taught_ranks=ranks, teacher_scores=teacher_scores, **margins)
            violated += int(counts[0].sum())
            taught += int(counts[1].sum())
    return violated / max(1, taught)


def _quartiles(values: Sequence[float]) -> list[float]:
    return [float(value) for value in np.percentile(values, [25, 50, 75])]


def _tied_pairs(ranks: Sequence[int]) -> int:
    return sum(count * (count - 1) // 2 for count in np.unique(ranks, return_counts=True)[1].tolist())


def evenly(values: Sequence[str], count: int) -> list[str]:
    """At most `count` different values, evenly spaced."""
    values = list(dict.fromkeys(values))
    if len(values) <= count:
        return values
    return [values[position * len(values) // count] for position in range(count)]
