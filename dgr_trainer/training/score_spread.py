"""The scales of the student's and the teacher's scores, to which margins, temperatures and weights fit by default."""

import copy
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from dgr_trainer.runs.rank_list import RankList, typical_spread
from dgr_trainer.training.arguments import FITTED, DistillationTrainingArguments
from dgr_trainer.training.collator import DistillationCollator
from dgr_trainer.training.given_datasets import query_ids_of
from dgr_trainer.training.identifier_sources import CandidateIdentifiers

logger = logging.getLogger(__name__)


def fitted_arguments(
    args: DistillationTrainingArguments, collator: Any, train_dataset: Any
) -> DistillationTrainingArguments:
    """Arguments that fit the scores of the candidates and of the teacher, where they leave that open.

    They depend on the candidates and rank lists of the training queries alone, so they are the same in every process
    and after resuming.

    Args:
        args ([`DistillationTrainingArguments`]): The arguments; they are not changed.
        collator (`Any`): The collator. Without candidates that are scored by log-odds, margins, temperatures and
            weights stay as they are.
        train_dataset (`Any`): The training queries; by default, those of the candidates are looked at.

    Returns:
        [`DistillationTrainingArguments`]: the arguments, or a copy with `score_spread` and `teacher_spread`, or
        one that states the defaults for log-likelihoods.
    """
    if not isinstance(collator, DistillationCollator):
        return args
    query_ids = query_ids_of(train_dataset)
    return _fitted_to_teacher(_fitted_to_student(args, collator, query_ids), collator.rankings, query_ids)


def _fitted_to_student(
    args: DistillationTrainingArguments, collator: DistillationCollator, query_ids: Iterable[str] | None
) -> DistillationTrainingArguments:
    if collator.scoring.kind != "log_odds":
        return args.for_scores(collator.scoring.kind)
    source = collator.source
    if not isinstance(source, CandidateIdentifiers) or args.score_spread is not None:
        return args
    spread = source.spread(source.candidates if query_ids is None else query_ids)
    if spread <= 0:
        return args
    fitted = copy.copy(args)
    fitted.score_spread = float(f"{spread:.3g}")
    if args.should_log and fitted.ranking_weight > 0:
        values = fitted.to_dict()
        settings = {name: values[name] for name in FITTED if values[name] is not None}
        logger.info(
            "score_spread=%g: the student scores its best candidate by this above its median one, so by default %s.",
            fitted.score_spread,
            ", ".join(f"{name}={value:.3g}" for name, value in settings.items()),
        )
    return fitted


def _fitted_to_teacher(
    args: DistillationTrainingArguments, rankings: Mapping[str, RankList], query_ids: Iterable[str] | None
) -> DistillationTrainingArguments:
    """Arguments with the spread of the teacher's scores, if it is not given and there are rank lists.

    A cross-encoder's scores differ by tens and a bi-encoder's cosines by tenths: the same temperature would teach the
    first passage alone, or that all are alike.
    """
    if args.teacher_spread is not None:
        return args
    asked = rankings if query_ids is None else query_ids
    spread = typical_spread(rankings[query_id].scores for query_id in asked if query_id in rankings)
    if spread <= 0:
        return args
    fitted = copy.copy(args)
    fitted.teacher_spread = float(f"{spread:.3g}")
    if args.should_log and args.ranking_weight > 0:
        for name, value in fitted.settings_of_teacher.items():
            logger.info(
                "teacher_spread=%g: the teacher scores its best passage by this above its median one, so by default "
                "%s=%g.",
                fitted.teacher_spread,
                name,
                value,
            )
    return fitted
