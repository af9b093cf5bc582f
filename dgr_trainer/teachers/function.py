"""Any Python function as teacher: given a query and its passages, it returns their scores."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.data.queries import queries_mapping
from dgr_trainer.errors import DGRArithmeticError, DGRTypeError, DGRValueError
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.teachers.inputs import candidate_lists, check_depth
from dgr_trainer.teachers.pair_scoring import Pairs
from dgr_trainer.teachers.score_store import KEY, ScoreStore, content_key

ScoreFunction = Callable[[str, list[Passage]], Sequence[float]]


class FunctionTeacher:
    """Ranks candidates by a function of yours: an API, another library, a listwise model, a rule.

    The function is called once a query, with all its candidates in the order of their ids, and returns a score for
    each: higher is better. A ranker that gives an order and no scores returns, for example, minus the rank.

    Args:
        function (`Callable[[str, list[Passage]], Sequence[float]]`): query, passages -> scores.
        corpus (`Corpus`): the passages.
        name (`str`, *optional*, defaults to the function's name): name of the rankings.
        version (`str`, *optional*, defaults to `"1"`): change it when the function changes: scores in a cache are
            those of one name and version.
        progress (`bool`, *optional*, defaults to `True`): whether to show a progress bar.

    Raises:
        TypeError: if `function` cannot be called.

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
    ):
        if not callable(function):
            raise DGRTypeError(
                f"function is a {type(function).__name__}, but it has to be called with a query and its passages."
            )
        self.function = function
        self.corpus = corpus
        self.name = name or getattr(function, "__name__", type(function).__name__)
        self.version = version
        self.progress = progress

    def rank(
        self,
        queries: Dataset | Mapping[str, str],
        candidates: Rankings,
        k: int = 100,
        cache: str | os.PathLike[str] | None = None,
    ) -> Rankings:
        """Rank the candidates of every query.

        Args:
            queries (`datasets.Dataset` or `Mapping[str, str]`): columns `query_id` and `query`, or id -> query.
            candidates (`Rankings`): the passages to rank.
            k (`int`, *optional*, defaults to 100): length of a rank list at most.
            cache (`str` or `os.PathLike`, *optional*): a folder to which the scores of every query are added, under
                the content of the query and of all its passages; what it holds is not asked for again.

        Returns:
            `Rankings`: scores, best first. A query without candidates gets an empty rank list.

        Raises:
            FloatingPointError: if a score is not a finite number; names the pair.
            TypeError: if `candidates` is not a `Rankings`, or the function returns something else than numbers.
            ValueError: if `k` is not positive, no query has candidates, or there is not one score for each passage.
        """
        check_depth(k)
        texts = queries_mapping(queries)
        wanted = candidate_lists(texts, candidates, self.corpus)
        lists: dict[str, list[tuple[str, float]]] = {query_id: [] for query_id in texts}
        store = ScoreStore(cache, {"function": self.name, "version": self.version}) if cache is not None else None
        try:
            for query_id, text in tqdm(sorted(texts.items()), desc=self.name, unit="query", disable=not self.progress):
                if wanted[query_id]:
                    lists[query_id] = self._list(query_id, text, wanted[query_id], store)
            if store is not None:
                store.merge()
        finally:
            if store is not None:
                store.close()
        return Rankings(lists, name=self.name).top(k)

    def _list(
        self, query_id: str, text: str, passage_ids: Sequence[str], store: ScoreStore | None
    ) -> list[tuple[str, float]]:
        pairs = Pairs.of({query_id: text}, {query_id: passage_ids}, self.corpus)
        passages = [passage for _, passage in pairs.read(np.arange(len(pairs)), self.corpus)]
        keys = _keys(text, passages)
        scores = store.scores(keys) if store is not None else np.full(len(keys), np.nan)
        if np.isnan(scores).any():
            scores = self._scores(query_id, passages, self.function(text, passages))
            if store is not None:
                store.add(keys, scores)
        return list(zip((passage.id for passage in passages), scores.tolist(), strict=True))

    def _scores(self, query_id: str, passages: list[Passage], found: Any) -> np.ndarray:
        try:
            scores = np.array([float(score) for score in found])
        except (TypeError, ValueError) as error:
            raise DGRTypeError(
                f"{self.name} returned {str(found)[:100]!r} for query {query_id!r}, not a number for each passage."
            ) from error
        if len(scores) != len(passages):
            raise DGRValueError(
                f"{self.name} returned {len(scores)} scores for the {len(passages)} passages of query {query_id!r}. "
                "Every passage needs one, in the order given."
            )
        wrong = np.flatnonzero(~np.isfinite(scores))
        if len(wrong):
            raise DGRArithmeticError(
                f"{self.name} gives the score {scores[wrong[0]]} to query {query_id!r} and passage "
                f"{passages[wrong[0]].id!r}. Scores have to be finite."
            )
        return scores


def _keys(query: str, passages: Sequence[Passage]) -> np.ndarray:
    # A score may depend on the whole list, and so do the keys.
    contents = [repr((p.id, p.title, p.text)).encode(errors="surrogatepass") for p in passages]
    whole = content_key(query.encode(errors="surrogatepass"), b"\0".join(contents))
    return np.array([content_key(whole, content) for content in contents], KEY)
