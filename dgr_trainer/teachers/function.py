"""Any Python function as teacher: it gets a query and its passages and returns their scores."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.data.queries import queries_mapping
from dgr_trainer.errors import DGRArithmeticError, DGRTypeError, DGRValueError
from dgr_trainer.files.progress import kept_moving
from dgr_trainer.processes import (
    Processes,
    ResultsOn,
    check_results_on,
    gets_results,
    is_main_process,
    map_across_processes,
)
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.teachers.inputs import check_depth, rank_without_identical_ids, required_candidates
from dgr_trainer.teachers.score_cache import KEY, ScoreCache, content_key

ScoreFunction = Callable[[str, list[Passage]], Sequence[float]]


class FunctionTeacher:
    """Ranks candidates by your own function: an API, another library, a listwise model, a rule.

    The function is called once per query, with all its candidates in the order of their ids, and returns a score for
    each: higher is better. A ranker that gives an order without scores can return, for example, minus the rank.

    Args:
        function (`Callable[[str, list[Passage]], Sequence[float]]`): Query, passages -> scores.
        corpus (`Corpus`): The passages.
        name (`str`, *optional*, defaults to the function's name): Name of the rankings and, with `cache`, of the
            scores. A cache needs it for a function that another one may share its name with: a lambda, a function
            defined in another one, a method, a `functools.partial` or another object.
        version (`str`, *optional*, defaults to `"1"`): Change it when the function changes: cached scores belong to
            one name and version.
        progress (`bool`, *optional*, defaults to `True`): Whether to show a progress bar.
        cache (`str` or `os.PathLike`, *optional*): Folder in which scores are cached, by the content of the query and
            of all its passages; the function is not called again for what it contains.
        accelerator ([`~accelerate.Accelerator`] or [`~accelerate.PartialState`], *optional*): The processes that share
            the queries; each of them calls `rank` with the same arguments. Without it, each process works alone.
        results_on (`str`, *optional*, defaults to `"all"`): Which of these processes return the rankings: `"all"`, or
            only the `"main"` one; the others then return none and need no memory for them.

    Raises:
        TypeError: if `function` cannot be called.
        ValueError: if `results_on` is unknown, or a cache is given for a function without a name of its own.

    Example:

    ```python
    def overlap(query, passages):
        words = set(query.lower().split())
        return [len(words & set(passage.text.lower().split())) for passage in passages]


    rankings = FunctionTeacher(overlap, corpus).rank(queries, candidates)
    ```
    """

    def __init__(
        self,
        function: ScoreFunction,
        corpus: Corpus,
        name: str | None = None,
        version: str = "1",
        progress: bool = True,
        cache: str | os.PathLike[str] | None = None,
        accelerator: Processes | None = None,
        results_on: ResultsOn = "all",
    ):
        check_results_on(results_on)
        if not callable(function):
            raise DGRTypeError(
                f"function is a {type(function).__name__}, which cannot be called. Give a function of a query and its "
                "passages."
            )
        if cache is not None and not name and not _has_own_name(function):
            raise DGRValueError(
                f"cache is given, but {function!r} has no name of its own: a cache finds scores by the name of the "
                "function, so those of another one could be returned. Give name=, another one for each function."
            )
        self.function = function
        self.corpus = corpus
        self.name = name or getattr(function, "__name__", type(function).__name__)
        self.version = version
        self.progress = progress
        self.cache = cache
        self.processes = accelerator
        self.results_on = results_on

    def rank(
        self,
        queries: Dataset | Mapping[str, str],
        candidates: Rankings | None = None,
        *,
        k: int = 100,
        ignore_identical_ids: bool = False,
    ) -> Rankings:
        """Rank the candidates of every query.

        Args:
            queries (`datasets.Dataset` or `Mapping[str, str]`): Columns `query_id` and `query`, or id -> query.
            candidates (`Rankings`): The passages to rank. Required: a function cannot search the corpus.
            k (`int`, *optional*, defaults to 100): Maximum length of a rank list.
            ignore_identical_ids (`bool`, *optional*, defaults to `False`): Whether to leave out the passage that has
                the id of the query.

        Returns:
            `Rankings`: Scores, best first. A query without candidates gets an empty rank list.

        Raises:
            FloatingPointError: if a score is not a finite number; names the pair.
            TypeError: if `candidates` is not a `Rankings`, or the function does not return numbers.
            ValueError: if `k` is not positive, there are no candidates, or the number of scores is wrong.
        """
        if ignore_identical_ids:
            return rank_without_identical_ids(self, queries, candidates, k)
        check_depth(k)
        texts = queries_mapping(queries)
        passage_ids = required_candidates("FunctionTeacher", texts, candidates, self.corpus)
        settings = {"function": self.name, "version": self.version}
        hidden = not self.progress or not is_main_process(self.processes)

        def score(query_ids: Sequence[str]) -> Iterator[list[tuple[str, float]]]:
            with (
                ScoreCache(self.cache, settings) if self.cache is not None else nullcontext() as score_cache,
                tqdm(total=len(query_ids), desc=f"Scoring with {self.name}", unit=" queries", disable=hidden) as bar,
                kept_moving(bar),
            ):
                for query_id in query_ids:
                    yield self._list(query_id, texts[query_id], passage_ids[query_id], score_cache)
                    bar.update()

        query_ids = sorted(query_id for query_id in texts if passage_ids[query_id])
        found = map_across_processes(query_ids, score, self.processes, results_on=self.results_on)
        if not gets_results(self.processes, self.results_on):
            return Rankings({}, name=self.name)
        lists = dict(zip(query_ids, found, strict=True))
        return Rankings({query_id: lists.get(query_id, []) for query_id in texts}, name=self.name).top(k)

    def _list(
        self, query_id: str, text: str, passage_ids: Sequence[str], cache: ScoreCache | None
    ) -> list[tuple[str, float]]:
        passages = self.corpus.take([self.corpus.position(id) for id in sorted(passage_ids)])
        keys = _keys(text, passages)
        scores = cache.scores(keys) if cache is not None else np.full(len(keys), np.nan)
        if np.isnan(scores).any():
            scores = self._checked(query_id, passages, self.function(text, passages))
            if cache is not None:
                cache.add(keys, scores)
                # If another job has scored the same list meanwhile, its scores are those that the cache keeps.
                scores = cache.scores(keys)
        return list(zip((passage.id for passage in passages), scores.tolist(), strict=True))

    def _checked(self, query_id: str, passages: list[Passage], returned: Any) -> np.ndarray:
        try:
            scores = np.array([float(score) for score in returned])
        except (TypeError, ValueError) as error:
            raise DGRTypeError(
                f"{self.name} returned {str(returned)[:100]!r} for query {query_id!r}, not a number for each passage."
            ) from error
        if len(scores) != len(passages):
            raise DGRValueError(
                f"{self.name} returned {len(scores)} scores for the {len(passages)} passages of query {query_id!r}. "
                "Return one score per passage, in the order of the passages."
            )
        not_finite = np.flatnonzero(~np.isfinite(scores))
        if len(not_finite):
            raise DGRArithmeticError(
                f"{self.name} gives the score {scores[not_finite[0]]} to query {query_id!r} and passage "
                f"{passages[not_finite[0]].id!r}. Return finite numbers."
            )
        return scores


def _has_own_name(function: ScoreFunction) -> bool:
    """Whether a function is defined once, under a name in its module: others depend on what surrounds them."""
    # Objects, such as those of functools.partial, have no qualified name; "<lambda>" and "<locals>" are parts of one.
    return not inspect.ismethod(function) and "<" not in getattr(function, "__qualname__", "<")


def _keys(query: str, passages: Sequence[Passage]) -> np.ndarray:
    # A score may depend on the whole list, so the keys do as well.
    contents = [_content(passage).encode(errors="surrogatepass") for passage in passages]
    whole = content_key(query.encode(errors="surrogatepass"), b"\0".join(contents))
    return np.array([content_key(whole, content) for content in contents], KEY)


def _content(passage: Passage) -> str:
    content = (passage.id, passage.title, passage.text)
    further = (passage.pseudo_queries, passage.docid)
    # Without them, the key is the one of earlier versions, which passed only the first three to functions.
    return repr(content + further if any(further) else content)
