"""The scale of the student's scores, to which margins, temperatures and the generation weight fit by default."""

import copy
import logging
from typing import Any

from dgr_trainer.training.arguments import FITTED, DistillationTrainingArguments
from dgr_trainer.training.collator import DistillationCollator
from dgr_trainer.training.given_datasets import query_ids_of
from dgr_trainer.training.identifier_sources import CandidateIdentifiers

logger = logging.getLogger(__name__)


def fitted_arguments(
    args: DistillationTrainingArguments, collator: Any, train_dataset: Any
) -> DistillationTrainingArguments:
    """Arguments with the spread of the candidates' scores, if it is not given and there are candidates.

    It depends on the candidates of the training queries alone, so it is the same in every process and after resuming.

    Args:
        args ([`DistillationTrainingArguments`]): The arguments; they are not changed.
        collator (`Any`): The collator. Without candidates that are scored by log-odds, the arguments stay as they are.
        train_dataset (`Any`): The training queries; by default, those of the candidates are looked at.

    Returns:
        [`DistillationTrainingArguments`]: the arguments, or a copy with `score_spread`, or one that states the
        defaults for log-likelihoods.
    """
    if not isinstance(collator, DistillationCollator):
        return args
    if collator.scoring.kind != "log_odds":
        return args.for_scores(collator.scoring.kind)
    source = collator.source
    if not isinstance(source, CandidateIdentifiers) or args.score_spread is not None:
        return args
    query_ids = query_ids_of(train_dataset)
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
