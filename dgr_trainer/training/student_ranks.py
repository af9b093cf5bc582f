"""Where the student ranks relevant passages: for training queries and for others, which should not be worlds apart.

They are if a training query finds its passage by its own text, which is a pseudo-query of the passage in the index.
Then its candidates show the student an order that no other query has.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dgr_trainer.training.collator import DistillationCollator
from dgr_trainer.training.identifier_sources import CandidateIdentifiers
from dgr_trainer.training.taught_lists import evenly

logger = logging.getLogger(__name__)

_SAMPLED = 1000
# Shares of queries that differ by this much, and by this many standard errors, are worlds apart.
_DIFFERENCE = 0.2
_STANDARD_ERRORS = 4.0
# An evaluator that does not say how many queries it has.
_UNKNOWN_QUERIES = 100
_HITS = re.compile(r"hits@(\d+)$")


class ShareFound(NamedTuple):
    """How many queries have a relevant passage among their first ones.

    Attributes:
        share (`float`): Their share, from 0 to 1.
        queries (`int`): The number of queries that have relevant passages.
    """

    share: float
    queries: int


def share_found(collator: DistillationCollator, query_ids: Sequence[str], k: int) -> ShareFound | None:
    """The share of queries of which the student has a relevant passage among its first `k` candidates.

    Up to 1,000 queries are looked at, at even distances.

    Args:
        collator ([`DistillationCollator`]): It has the candidates and the qrels.
        query_ids (`Sequence[str]`): The queries.
        k (`int`): Number of candidates.

    Returns:
        [`ShareFound`], *optional*: `None` if there are no candidates of judged queries.
    """
    source, qrels = collator.source, collator.sampler.qrels
    if not isinstance(source, CandidateIdentifiers):
        return None
    relevant = {
        query_id: {passage_id for passage_id, grade in qrels[query_id].items() if grade > 0}
        for query_id in query_ids
        if query_id in source.candidates and query_id in qrels
    }
    judged = evenly([query_id for query_id, of in relevant.items() if of], _SAMPLED)
    if not judged:
        return None
    found = sum(not relevant[query_id].isdisjoint(source.order(query_id)[:k]) for query_id in judged)
    return ShareFound(found / len(judged), len(judged))


def compare_with_metrics(
    collator: DistillationCollator, query_ids: Sequence[str], metrics: Mapping[str, float], queries: int | None
) -> bool:
    """Compare the training queries with the metrics of others, such as `eval_hits@1`, and warn if they are far apart.

    Args:
        collator ([`DistillationCollator`]): It has the candidates of the training queries.
        query_ids (`Sequence[str]`): The training queries.
        metrics (`Mapping[str, float]`): Means over other queries; the `hits@k` of the least k is used.
        queries (`int`, *optional*): Number of these queries.

    Returns:
        `bool`: Whether there was something to compare.
    """
    hits = {int(match[1]): value for name, value in metrics.items() if (match := _HITS.search(name))}
    if not hits:
        return False
    k = min(hits)
    training = share_found(collator, query_ids, k)
    if training is None:
        return False
    compare(training, ShareFound(hits[k], queries or _UNKNOWN_QUERIES), k, "the queries of the evaluator")
    return True


def compare(training: ShareFound, others: ShareFound, k: int, what: str) -> None:
    """Say which share of the training queries and of others the student answers; warn if they are worlds apart.

    Args:
        training ([`ShareFound`]): The training queries.
        others ([`ShareFound`]): Other queries.
        k (`int`): Among how many passages.
        what (`str`): What the others are called.
    """
    pooled = (training.share * training.queries + others.share * others.queries) / (training.queries + others.queries)
    error = math.sqrt(pooled * (1 - pooled) * (1 / training.queries + 1 / others.queries))
    difference = training.share - others.share
    told = (
        f"The student has a relevant passage among its first {k} for {training.share:.1%} of the training queries, "
        f"and for {others.share:.1%} of {what}"
    )
    if difference <= _DIFFERENCE or difference <= _STANDARD_ERRORS * error:
        logger.info("%s.", told)
        return
    logger.warning(
        "%s. The candidates of training queries are not those of other queries, so what is taught on them does not "
        "carry over. If the training queries are pseudo-queries in the index, they find their passages by their own "
        "text: make the candidates with GenerativeRetriever.candidates(..., leave_out_own_text=True). If the student "
        "was trained on these very queries, take others for this stage (dgr_trainer.split_queries).",
        told,
    )
