"""Checks and look-ups that the teachers share: passage fields, the length of rank lists, and candidates."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.errors import DGRTypeError, DGRValueError
from dgr_trainer.runs.rankings import Rankings

logger = logging.getLogger(__name__)

FIELDS = ("title", "text", "pseudo_queries")


def check_fields(fields: Sequence[str]) -> tuple[str, ...]:
    """Check the names of the passage fields that a teacher reads.

    Args:
        fields (`Sequence[str]`): Some of `"title"`, `"text"` and `"pseudo_queries"`.

    Returns:
        `tuple[str, ...]`: The same names.

    Raises:
        ValueError: if there is none, or one is unknown.
    """
    fields = (fields,) if isinstance(fields, str) else tuple(fields)
    unknown = [field for field in fields if field not in FIELDS]
    if unknown or not fields:
        raise DGRValueError(f"fields is {fields!r}, but it must name at least one of {FIELDS} and nothing else.")
    return fields


def passage_text(passage: Passage, fields: Sequence[str]) -> str:
    """Join the non-empty fields of a passage, one per line.

    Args:
        passage (`Passage`): The passage.
        fields (`Sequence[str]`): Names that `check_fields` returned.

    Returns:
        `str`: The text that a lexical teacher indexes.
    """
    texts = {"title": passage.title, "text": passage.text, "pseudo_queries": "\n".join(passage.pseudo_queries)}
    return "\n".join(texts[field] for field in fields if texts[field])


def check_depth(k: int) -> int:
    """Check the maximum length of rank lists.

    Args:
        k (`int`): Number of passages per query.

    Returns:
        `int`: The same number.

    Raises:
        ValueError: if `k` is not a positive integer.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise DGRValueError(f"k is {k!r}, but it is the length of a rank list. Give a positive integer.")
    return k


def rank_without_identical_ids(teacher: Any, queries: Any, candidates: Rankings | None, k: int) -> Rankings:
    """Rank with any teacher, without the passage that has the id of the query: deeper by it, or without it.

    Args:
        teacher ([`Teacher`]): The teacher.
        queries (`datasets.Dataset` or `Mapping[str, str]`): The queries.
        candidates (`Rankings`, *optional*): The passages to rank; otherwise the corpus is searched.
        k (`int`): Maximum length of a rank list.

    Returns:
        `Rankings`: A rank list for each query, best first.
    """
    check_depth(k)
    if isinstance(candidates, Rankings):
        candidates = candidates.without_identical_ids()
    rankings: Rankings = teacher.rank(queries, candidates, k=k if candidates is not None else k + 1)
    return rankings.without_identical_ids().top(k)


def required_candidates(
    name: str, queries: Mapping[str, str], candidates: Rankings | None, corpus: Corpus
) -> dict[str, tuple[str, ...]]:
    """Look up the candidates of every query for a reranker, which cannot do without.

    Args:
        name (`str`): Name of the reranker, for the error.
        queries (`Mapping[str, str]`): Query id -> query.
        candidates (`Rankings`, *optional*): The candidates; their order and scores are not used.
        corpus (`Corpus`): The passages; candidates that it does not contain are dropped with a warning.

    Returns:
        `dict[str, tuple[str, ...]]`: Query id -> passage ids; empty for a query that has no candidates.

    Raises:
        TypeError: if `candidates` is not a `Rankings`.
        ValueError: if `candidates` is `None`, or no query has candidates.
    """
    if candidates is None:
        raise DGRValueError(
            f"{name} is a reranker: it scores given candidates and cannot search the corpus. Give candidates, for "
            "example BM25Teacher(corpus).rank(queries)."
        )
    return candidate_lists(queries, candidates, corpus)


def candidate_lists(
    queries: Mapping[str, str], candidates: Rankings, corpus: Corpus | None
) -> dict[str, tuple[str, ...]]:
    """Look up the candidates of every query.

    Args:
        queries (`Mapping[str, str]`): Query id -> query.
        candidates (`Rankings`): The candidates; their order and scores are not used.
        corpus (`Corpus`, *optional*): If given, candidates that it does not contain are dropped with a warning.

    Returns:
        `dict[str, tuple[str, ...]]`: Query id -> passage ids; empty for a query that has no candidates.

    Raises:
        TypeError: if `candidates` is not a `Rankings`.
        ValueError: if no query has candidates.
    """
    if not isinstance(candidates, Rankings):
        raise DGRTypeError(
            f"candidates is a {type(candidates).__name__}, but a teacher ranks the passages of a Rankings. Give one, "
            "for example BM25Teacher(corpus).rank(queries) or Rankings.from_trec(path)."
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
    results: Mapping[str, Mapping[str, float]], candidates: Mapping[str, Sequence[str]], depth: int, *, positive: bool
) -> dict[str, dict[str, float]]:
    """Keep only the candidates of search results; candidates that were not found score below everything found.

    Args:
        results (`Mapping[str, Mapping[str, float]]`): Query id -> passage id -> score, of a search `depth` deep.
        candidates (`Mapping[str, Sequence[str]]`): Query id -> ids of the candidates.
        depth (`int`): Depth of the search; candidates that may lie below it are counted in a warning.
        positive (`bool`): Whether all scores of the search are above 0, so that 0 is below them.

    Returns:
        `dict[str, dict[str, float]]`: Query id -> candidate -> score.
    """
    lists = {}
    uncertain = 0
    for query_id, scores in results.items():
        lowest = 0.0 if positive else min(scores.values(), default=0.0) - 1.0
        lists[query_id] = {passage_id: scores.get(passage_id, lowest) for passage_id in candidates[query_id]}
        uncertain += len(scores) == depth and len(lists[query_id].keys() - scores.keys())
    if uncertain:
        logger.warning(
            "%d candidates are not among the first %d passages of the search and score below them; raise `hits`.",
            uncertain,
            depth,
        )
    return lists
