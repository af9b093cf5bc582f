"""What teachers read: the text of a passage, and the candidates that each query asks to have ranked."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.errors import DGRTypeError, DGRValueError
from dgr_trainer.runs.rankings import Rankings

logger = logging.getLogger(__name__)

FIELDS = ("title", "text", "pseudo_queries")


def check_fields(fields: Sequence[str]) -> tuple[str, ...]:
    """Check the names of the passage fields a teacher is to read.

    Args:
        fields (`Sequence[str]`): some of `"title"`, `"text"` and `"pseudo_queries"`.

    Returns:
        `tuple[str, ...]`: the same names.

    Raises:
        ValueError: if there is none, or one is unknown.
    """
    fields = (fields,) if isinstance(fields, str) else tuple(fields)
    unknown = [field for field in fields if field not in FIELDS]
    if unknown or not fields:
        raise DGRValueError(f"fields is {fields!r}, but it must name at least one of {FIELDS} and nothing else.")
    return fields


def passage_text(passage: Passage, fields: Sequence[str]) -> str:
    """Join fields of a passage, one a line, empty ones left out.

    Args:
        passage (`Passage`): the passage.
        fields (`Sequence[str]`): what `check_fields` returned.

    Returns:
        `str`: the text that a lexical teacher indexes.
    """
    texts = {"title": passage.title, "text": passage.text, "pseudo_queries": "\n".join(passage.pseudo_queries)}
    return "\n".join(texts[field] for field in fields if texts[field])


def check_depth(k: int) -> int:
    """Check the length that rank lists are to have at most.

    Args:
        k (`int`): the number of passages a query.

    Returns:
        `int`: the same number.

    Raises:
        ValueError: if `k` is not a positive integer.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise DGRValueError(f"k is {k!r}, but it is the length of a rank list: give a positive integer.")
    return k


def candidate_lists(
    queries: Mapping[str, str], candidates: Rankings, corpus: Corpus | None
) -> dict[str, tuple[str, ...]]:
    """Look up the candidates of every query.

    Args:
        queries (`Mapping[str, str]`): query id -> query.
        candidates (`Rankings`): the candidates; their order and scores are not used.
        corpus (`Corpus`, *optional*): where given, candidates that it does not hold are dropped, with a warning.

    Returns:
        `dict[str, tuple[str, ...]]`: query id -> passage ids; empty for a query that has no candidates.

    Raises:
        TypeError: if `candidates` is not a `Rankings`.
        ValueError: if no query has candidates.
    """
    if not isinstance(candidates, Rankings):
        raise DGRTypeError(
            f"candidates is a {type(candidates).__name__}, but a teacher ranks the passages of a Rankings: "
            "for example BM25Teacher(corpus).rank(queries), or Rankings.from_trec(path)."
        )
    missing = [query_id for query_id in queries if query_id not in candidates]
    if missing and len(missing) == len(queries):
        raise DGRValueError(
            f"None of the {len(queries)} queries has candidates: the queries have ids like {missing[0]!r}, "
            f"the candidates like {next(iter(candidates), None)!r}. Give the candidates of these queries."
        )
    if missing:
        logger.warning("%d of %d queries have no candidates and get an empty rank list.", len(missing), len(queries))
    if corpus is not None:
        candidates = candidates.check_corpus(corpus.ids)
    return {
        query_id: tuple(candidates[query_id].passage_ids) if query_id in candidates else () for query_id in queries
    }


def keep_candidates(
    found: Mapping[str, Mapping[str, float]], wanted: Mapping[str, Sequence[str]], depth: int, *, positive: bool
) -> dict[str, dict[str, float]]:
    """Take the candidates out of what a search has found; the others get a score below all that it gives.

    Args:
        found (`Mapping[str, Mapping[str, float]]`): query id -> passage id -> score, of a search `depth` deep.
        wanted (`Mapping[str, Sequence[str]]`): query id -> candidates.
        depth (`int`): how deep the search was; what it may have missed is counted in a warning.
        positive (`bool`): whether the search gives scores above 0 only, so that 0 is below all of them.

    Returns:
        `dict[str, dict[str, float]]`: query id -> candidate -> score.
    """
    lists = {}
    unsure = 0
    for query_id, scores in found.items():
        below = 0.0 if positive else min(scores.values(), default=0.0) - 1.0
        lists[query_id] = {passage_id: scores.get(passage_id, below) for passage_id in wanted[query_id]}
        unsure += len(scores) == depth and len(lists[query_id].keys() - scores.keys())
    if unsure:
        logger.warning(
            "%d candidates are not among the first %d passages of the search and score below them; raise `hits`.",
            unsure,
            depth,
        )
    return lists
