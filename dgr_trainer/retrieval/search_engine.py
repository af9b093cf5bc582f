"""The steps of a search: identifiers of the queries, their weights, the passages that contain them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from dgr_trainer.candidates import MatchedIdentifier
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.progress import kept_moving
from dgr_trainer.index import FMIndex
from dgr_trainer.index.edited_index import EditedIndex, Edits
from dgr_trainer.processes import Processes, is_main_process
from dgr_trainer.retrieval.beam_search import search_views
from dgr_trainer.retrieval.hits import Hit
from dgr_trainer.retrieval.identifier_lengths import generated_lengths
from dgr_trainer.retrieval.lookahead import promising_passages
from dgr_trainer.retrieval.outlook import Outlook
from dgr_trainer.retrieval.own_texts import own_texts
from dgr_trainer.retrieval.passage_choice import PassageChoice
from dgr_trainer.retrieval.passage_identifiers import passage_identifiers
from dgr_trainer.retrieval.passage_scoring import PassageScorer, ScoredPassage, best_or_included, likeliest_passages
from dgr_trainer.retrieval.query_identifiers import QueryIdentifiers, mark_words_of_query, query_ngrams, weighed
from dgr_trainer.retrieval.settings import check_lookahead
from dgr_trainer.retrieval.storage import RetrieverParts
from dgr_trainer.student.generation_mode import generation_mode
from dgr_trainer.student.likelihoods import score_identifiers


class SearchRequest(NamedTuple):
    """A query, the passages that are among its hits in any case, and what the search leaves out.

    Attributes:
        query (`str`): The query.
        included_ids (`Sequence[str]`): Ids of these passages.
        passages ([`PassageChoice`], *optional*): The passages to search among; by default all.
        leave_out_own_text (`bool`): Whether pseudo-queries with the tokens of the query are left out of the index.
    """

    query: str
    included_ids: Sequence[str] = ()
    passages: PassageChoice | None = None
    leave_out_own_text: bool = False


class FoundPassage(NamedTuple):
    """A [`Hit`] whose identifiers are not objects yet.

    Attributes:
        passage_id (`str`): Id of the passage.
        score (`float`): Its score.
        identifiers (`Sequence[MatchedIdentifier]`): Its identifiers, in the order of credit.
    """

    passage_id: str
    score: float
    identifiers: Sequence[MatchedIdentifier]


@dataclass(frozen=True)
class SearchResult:
    """What was found for a query.

    Args:
        hits (`list[FoundPassage]`): The passages, best first.
        index ([`FMIndex`]): The index without what the search left out.
    """

    hits: list[FoundPassage]
    index: FMIndex


class SearchEngine:
    """Searches with the parts of a [`GenerativeRetriever`], in batches of `SearchSettings.batch_size` queries.

    Args:
        parts ([`RetrieverParts`]): Model, identifiers, index and settings.

    Raises:
        ValueError: if the settings ask for look-ahead that the others make impossible.
    """

    def __init__(self, parts: RetrieverParts) -> None:
        check_lookahead(parts.settings, parts.scoring, parts.identifiers.views)
        self.parts = parts
        self.index, self.identifiers = parts.index, parts.identifiers
        self.settings, self.scoring = parts.settings, parts.scoring

    def search(
        self, requests: Sequence[SearchRequest], k: int, processes: Processes | None = None
    ) -> Iterator[list[Hit]]:
        """Yield the hits of each query, best first; see `results`."""
        for result in self.results(requests, k, processes):
            yield [Hit(hit.passage_id, hit.score, tuple(hit.identifiers)) for hit in result.hits]

    def results(
        self, requests: Sequence[SearchRequest], k: int, processes: Processes | None = None
    ) -> Iterator[SearchResult]:
        """Yield what is found for each query.

        Args:
            requests (`Sequence[SearchRequest]`): The queries.
            k (`int`): Number of hits per query; included passages that rank below are added.
            processes ([`Processes`], *optional*): The main one of them shows a progress bar.

        Raises:
            ValueError: if k is below 1.
            KeyError: if an included passage is not in the index, or not among the passages to search.
        """
        if not isinstance(k, (int, np.integer)) or k < 1:
            raise DGRValueError(f"k={k!r}: ask for at least 1 passage.")
        included = [self.index.passage_positions(dict.fromkeys(request.included_ids)) for request in requests]
        for request, positions in zip(requests, included, strict=True):
            if request.passages is not None:
                request.passages.check_included(positions, request.included_ids)
        size = self.settings.batch_size
        hidden = len(requests) <= size or not is_main_process(processes)
        with (
            tqdm(total=len(requests), desc="Searching", unit=" queries", disable=hidden) as progress,
            kept_moving(progress),
        ):
            for start in range(0, len(requests), size):
                for result in self._search_batch(
                    requests[start : start + size], included[start : start + size], int(k), progress
                ):
                    yield result
                    progress.update()

    def _search_batch(
        self, requests: Sequence[SearchRequest], included: Sequence[np.ndarray], k: int, progress: Any
    ) -> Iterator[SearchResult]:
        """Results of a batch of queries; `included` are positions of passages, for each query."""
        results: dict[int, SearchResult] = {}
        for choice, numbers in grouped_by_passages(requests):
            index, positions = self.index, [included[number] for number in numbers]
            if choice is not None:
                index, positions = choice.index(self.index), [choice.positions_among(some) for some in positions]
            of_group = self._search_in(index, [requests[number] for number in numbers], positions, k, progress)
            results |= dict(zip(numbers, of_group, strict=True))
        for number in range(len(requests)):
            yield results[number]

    def _search_in(
        self, index: FMIndex, requests: Sequence[SearchRequest], included: Sequence[np.ndarray], k: int, progress: Any
    ) -> list[SearchResult]:
        """Results of queries that search among the passages of an index."""

        def on_token(tokens: int) -> None:
            progress.set_postfix_str(f"generating identifiers, token {tokens}", refresh=False)

        queries = [request.query for request in requests]
        index = self._without_own_texts(index, requests)
        query_identifiers = self.query_identifiers(queries, included, on_token, index)
        indexes = [index.for_readers([number]) for number in range(len(queries))]
        ranked = []
        for number, (identifiers, positions) in enumerate(zip(query_identifiers, included, strict=True)):
            progress.set_postfix_str(f"scoring passages, query {number + 1} of {len(queries)}", refresh=False)
            ranked.append(self.rank_passages(identifiers, k, positions, indexes[number]))
        all_positions = np.array([passage.position for passages in ranked for passage in passages], np.int64)
        passage_ids = iter(index.passage_ids.take(all_positions))
        return [
            SearchResult(_hits(passages, passage_ids, k, positions), own)
            for passages, positions, own in zip(ranked, included, indexes, strict=True)
        ]

    def _without_own_texts(self, index: FMIndex, requests: Sequence[SearchRequest]) -> FMIndex:
        """The index as each of the queries sees it, if some pseudo-query is left out for one of them."""
        asked = [number for number, request in enumerate(requests) if request.leave_out_own_text]
        texts: list[dict[int, np.ndarray]] = [{} for _ in requests]
        found = own_texts(index, self.identifiers, [requests[number].query for number in asked])
        for number, text in zip(asked, found, strict=True):
            texts[number] = text
        return EditedIndex(Edits(index, texts), range(len(requests))) if any(texts) else index

    def query_identifiers(
        self,
        queries: Sequence[str],
        included: Sequence[np.ndarray],
        on_token: Callable[[int], None] | None = None,
        index: FMIndex | None = None,
    ) -> list[QueryIdentifiers]:
        """Generate and weigh the identifiers of each query of a batch.

        Args:
            queries (`Sequence[str]`): The queries; one without words has no identifiers.
            included (`Sequence[np.ndarray]`): For each query, positions of passages that have to be scored.
            on_token (`Callable[[int], None]`, *optional*): Called with the number of tokens generated so far.
            index ([`FMIndex`], *optional*): The index to search, whose readers are the queries.
        """
        index = self.index if index is None else index
        no_identifiers = QueryIdentifiers([], np.zeros(self.index.vocab_size))
        results = [no_identifiers] * len(queries)
        with_words = [number for number, query in enumerate(queries) if query.strip()]
        if not with_words:
            return results
        texts = [queries[number] for number in with_words]
        indexes = [index.for_readers([number]) for number in with_words]
        lengths = generated_lengths(self.parts.model, self.identifiers, self.settings)
        additional = [
            self._additional_identifiers(query, included[number], of_query)
            for query, number, of_query in zip(texts, with_words, indexes, strict=True)
        ]
        with generation_mode(self.parts.model) as model:
            look_ahead = None
            if self.settings.lookahead:
                additional = self._score(model, texts, additional)
                look_ahead = partial(self._outlook, additional, indexes)
            searches = search_views(
                model,
                index.for_readers(with_words),
                self.identifiers,
                texts,
                lengths,
                num_beams=self.settings.beam_size,
                on_token=on_token,
                constraint_device=self.settings.constraint_device,
                look_ahead=look_ahead,
            )
            generated = [
                [identifier for search in searches.values() for identifier in search.identifiers[number]]
                for number in range(len(texts))
            ]
            if self.scoring.kind == "log_odds":
                generated = [
                    mark_words_of_query(found, words) for found, words in zip(generated, additional, strict=True)
                ]
            additional = [_without(known, more) for known, more in zip(generated, additional, strict=True)]
            if not self.settings.lookahead:
                additional = self._score(model, texts, additional)
        for number, identifiers in enumerate(generated):
            first_scores = searches["substring"].first_scores[number] if "substring" in searches else None
            results[with_words[number]] = self.weigh(identifiers + additional[number], first_scores, indexes[number])
        return results

    def _outlook(
        self,
        early: Sequence[list[MatchedIdentifier]],
        indexes: Sequence[FMIndex],
        first_scores: Mapping[str, torch.Tensor],
    ) -> Outlook:
        """What a search of queries looks ahead to, given the scores of their words and of the first tokens."""
        passages = []
        for number, (identifiers, index) in enumerate(zip(early, indexes, strict=True)):
            weighted = weighed(index, identifiers, first_scores["substring"][number], self.settings, self.scoring)
            passages.append(promising_passages(index, self.identifiers, weighted, self.settings, self.scoring))
        return Outlook(passages, self.index.separator, self.index.vocab_size)

    def weigh(
        self, found: list[MatchedIdentifier], first_scores: torch.Tensor | None, index: FMIndex
    ) -> QueryIdentifiers:
        """Weigh the identifiers of a query.

        Args:
            found (`list[MatchedIdentifier]`): Identifiers with their log-likelihoods.
            first_scores (`torch.Tensor` of shape `(vocabulary,)`, *optional*):
                Log-probabilities of the first token of a substring, if there are substrings.
            index ([`FMIndex`]): What the query is searched in.
        """
        return weighed(index, found, first_scores, self.settings, self.scoring)

    def rank_passages(
        self, query_identifiers: QueryIdentifiers, k: int, included: np.ndarray, index: FMIndex
    ) -> list[ScoredPassage]:
        """Score passages by the identifiers of a query.

        Args:
            query_identifiers ([`QueryIdentifiers`]): The weighted identifiers.
            k (`int`): Number of passages.
            included (`np.ndarray` of int64): Positions of passages to return in any case.
            index ([`FMIndex`]): The index to search.

        Returns:
            `list[ScoredPassage]`: the k best, all that equal the last of them, and the included ones, in no order.
        """
        settings = self.settings
        if self.scoring.kind == "log_likelihood":
            ranked = likeliest_passages(
                index, self.identifiers, query_identifiers.weighted, settings.max_occurrences, included
            )
            scores = np.array([passage.score for passage in ranked])
            is_included = np.isin([passage.position for passage in ranked], included)
            return [ranked[number] for number in best_or_included(scores, k, is_included)]
        scorer = PassageScorer(
            index,
            self.identifiers,
            query_identifiers.weighted,
            query_identifiers.unigram_weights,
            self.scoring.repetition,
        )
        positions = scorer.find_passages(settings.max_occurrences, settings.max_passages)
        positions = np.concatenate([positions, np.setdiff1d(included, positions)]).astype(np.int64)
        scores = scorer.score(positions)
        return scorer.explain(positions[best_or_included(scores, k, np.isin(positions, included))])

    def _additional_identifiers(self, query: str, included: np.ndarray, index: FMIndex) -> list[MatchedIdentifier]:
        """Identifiers of a query that do not come from the beam search, without scores; all of the same view."""
        if self.scoring.kind == "log_likelihood":
            # The only view is the title or the docid, of which a passage has one.
            return [
                identifier
                for position in included.tolist()
                for identifier in passage_identifiers(index, self.identifiers, position, 0)
            ]
        if "substring" in self.identifiers.views and self.settings.query_ngrams:
            return query_ngrams(query, index, self.identifiers, self.settings.query_ngram_words)
        return []

    def _score(
        self, model: PreTrainedModel, queries: Sequence[str], unscored: list[list[MatchedIdentifier]]
    ) -> list[list[MatchedIdentifier]]:
        """Score the additional identifiers of each query by their log-likelihoods."""
        if not any(unscored):
            return unscored
        view = self.identifiers.views[0] if self.scoring.kind == "log_likelihood" else "substring"
        prompts = self.identifiers.encode_prompts(queries, view)
        ids = [[identifier.ids for identifier in identifiers] for identifiers in unscored]
        return [
            [replace(identifier, score=score) for identifier, score in zip(identifiers, scores, strict=True)]
            for identifiers, scores in zip(unscored, score_identifiers(model, prompts, ids), strict=True)
        ]


def grouped_by_passages(requests: Sequence[SearchRequest]) -> list[tuple[PassageChoice | None, list[int]]]:
    """The numbers of the requests that search among the same passages, in the order of their first ones."""
    groups: dict[PassageChoice | None, list[int]] = {}
    for number, request in enumerate(requests):
        groups.setdefault(request.passages, []).append(number)
    return list(groups.items())


def _without(known: Sequence[MatchedIdentifier], identifiers: Sequence[MatchedIdentifier]) -> list[MatchedIdentifier]:
    """The identifiers that are not among the known ones, whatever their scores."""
    known_ids = {(identifier.view, identifier.ids) for identifier in known}
    return [identifier for identifier in identifiers if (identifier.view, identifier.ids) not in known_ids]


def _hits(
    passages: Sequence[ScoredPassage], passage_ids: Iterator[str], k: int, included: np.ndarray
) -> list[FoundPassage]:
    """The k best passages, and the included ones below them; `passage_ids` gives the id of each passage in turn."""
    hits = [
        (FoundPassage(next(passage_ids), passage.score, passage.identifiers), passage.position in included)
        for passage in passages
    ]
    hits.sort(key=lambda pair: (pair[0].score, pair[0].passage_id), reverse=True)
    return [hit for rank, (hit, is_included) in enumerate(hits) if rank < k or is_included]
