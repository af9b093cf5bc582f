"""Candidates of training queries: searched for in batches, each of which is written to disk when it is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dgr_trainer.candidates import META, ROW_SCHEMA, Candidates, MatchedIdentifier, row_of
from dgr_trainer.files.atomic import check_replaceable, with_own_name
from dgr_trainer.files.resume_log import ArrowStream
from dgr_trainer.index import FMIndex
from dgr_trainer.processes import Processes, ResultsOn, is_main_process, map_across_processes
from dgr_trainer.processes.jobs import in_every_process
from dgr_trainer.processes.shared_log import SharedLog
from dgr_trainer.retrieval.credited_identifiers import columns_of
from dgr_trainer.retrieval.passage_choice import PassageChoice
from dgr_trainer.retrieval.passage_identifiers import passage_identifiers
from dgr_trainer.retrieval.search_engine import FoundPassage, SearchEngine, SearchRequest
from dgr_trainer.student.weights import weights_digest

# The id of a query and what to search for.
_Task = tuple[str, SearchRequest]


class CandidateSearch:
    """Searches for candidates; see `GenerativeRetriever.candidates` and `GenerativeRetriever.save_candidates`.

    Args:
        engine ([`SearchEngine`]): Searches with the retriever whose candidates they are.
        queries (`Mapping[str, str]`): Texts of queries by their ids.
        relevant (`Mapping[str, Mapping[str, int]]`): Qrels.
        k (`int`): Passages per query.
        processes ([`Processes`], *optional*): The processes that share the work.
        ignore_identical_ids (`bool`, defaults to `False`): Whether to leave out the passage with the id of the query.
        leave_out_own_text (`bool`, defaults to `True`): Whether to leave out pseudo-queries that are the query.
        passages ([`PassageChoice`], *optional*): The passages to search among.

    Raises:
        KeyError: if a relevant passage is not in the index, or not among the passages to search.
    """

    def __init__(
        self,
        engine: SearchEngine,
        queries: Mapping[str, str],
        relevant: Mapping[str, Mapping[str, int]],
        k: int,
        processes: Processes | None,
        ignore_identical_ids: bool = False,
        leave_out_own_text: bool = True,
        passages: PassageChoice | None = None,
    ) -> None:
        self.leave_out_own_text, self.passages = leave_out_own_text, passages
        self.ignore_identical_ids = ignore_identical_ids
        self.engine, self.k, self.processes = engine, k, processes
        self.index, self.identifiers = engine.index, engine.identifiers
        self.batch_size = engine.settings.batch_size
        relevant_ids = [
            [
                id
                for id, grade in relevant.get(query, {}).items()
                if grade > 0 and not (ignore_identical_ids and id == query)
            ]
            for query in queries
        ]
        included = list(dict.fromkeys(id for ids in relevant_ids for id in ids))
        positions = self.index.passage_positions(included)
        if passages is not None:
            passages.check_included(positions, included)
        tasks: list[_Task] = [
            (query_id, SearchRequest(text, ids, passages, leave_out_own_text))
            for (query_id, text), ids in zip(queries.items(), relevant_ids, strict=True)
        ]
        # Queries of similar length share a batch; the longest come first, so that a lack of memory shows at once.
        order = sorted(range(len(tasks)), key=lambda number: (-len(tasks[number][1].query), number))
        self.tasks = [tasks[number] for number in order]
        self.places: list[int] = np.argsort(order).tolist()
        """Where the query of each row stands among the tasks."""
        self.properties: dict[str, Any] = {
            # A query's own texts, of a few tokens, are counted here.
            "corpus_tokens": (self.index if passages is None else passages.index(self.index)).num_tokens,
            "tokenizer_fingerprint": self.identifiers.fingerprint,
        }

    def candidates(self, results_on: ResultsOn) -> Candidates:
        """The candidates, in memory; none in a process that gets no results."""
        found = list(
            map_across_processes(
                self.tasks, self._search, self.processes, block=self.batch_size, results_on=results_on
            )
        )
        rows = [found[place] for place in self.places] if found else []
        return Candidates.from_rows(rows, **self.properties)

    def save(self, path: Path) -> None:
        """Write the candidates to a folder: each process a file of finished batches, the first one the folder."""
        path = with_own_name(path)
        main = is_main_process(self.processes)
        in_every_process(lambda: check_replaceable(path, marker=META) if main else None, self.processes)
        numbers = {query_id: position // self.batch_size for position, (query_id, _) in enumerate(self.tasks)}
        with SharedLog(
            path.with_name(f"{path.name}.unfinished"),
            f"{path}",
            self._settings(),
            -(-len(self.tasks) // self.batch_size),
            lambda batch: numbers[batch.column("query_id")[0].as_py()],
            ArrowStream(ROW_SCHEMA),
            self.processes,
        ) as log:
            missing = [
                self.tasks[position]
                for batch in log.share()
                for position in range(batch * self.batch_size, min((batch + 1) * self.batch_size, len(self.tasks)))
            ]
            found = self._search(missing)
            while rows := list(islice(found, self.batch_size)):
                log.add(pa.Table.from_batches(rows).combine_chunks().to_batches()[0])
            saved = (batch.slice(row, 1) for batch in log.chunks() for row in range(batch.num_rows))
            if main:
                Candidates.save_rows(saved, path, order=self.places, **self.properties)
            else:
                for _ in saved:
                    pass
            log.remove()

    def _search(self, tasks: Sequence[_Task]) -> Iterator[pa.RecordBatch]:
        """Yield the candidates of each query, packed into a row."""
        # One more, where the query's own passage may be left out.
        depth = self.k + self.ignore_identical_ids
        results = self.engine.results([request for _, request in tasks], depth, self.processes)
        for (query_id, request), result in zip(tasks, results, strict=True):
            query_hits, index = result.hits, result.index
            if self.ignore_identical_ids:
                others = [hit for hit in query_hits if hit.passage_id != query_id]
                query_hits = others[: self.k] + [
                    hit for hit in others[self.k :] if hit.passage_id in request.included_ids
                ]
            relevant = set(request.included_ids)
            lists: list[Sequence[MatchedIdentifier]] = []
            numbers = []
            for hit in query_hits:
                more = self._more_identifiers(hit, index) if hit.passage_id in relevant else ()
                lists += [hit.identifiers, more] if more else [hit.identifiers]
                numbers.append(len(hit.identifiers) + len(more))
            yield row_of(
                query_id,
                [hit.passage_id for hit in query_hits],
                [float(hit.score) for hit in query_hits],
                numbers,
                columns_of(lists),
            )

    def _more_identifiers(self, hit: FoundPassage, index: FMIndex) -> tuple[MatchedIdentifier, ...]:
        """Identifiers to train on that a relevant passage gets beside those that it was found by."""
        known = {(identifier.view, identifier.ids) for identifier in hit.identifiers}
        position = index.passage_position(hit.passage_id)
        substring_length = self.engine.settings.substring_length
        return tuple(
            identifier
            for identifier in passage_identifiers(index, self.identifiers, position, substring_length)
            if (identifier.view, identifier.ids) not in known and (identifier.view in ("title", "docid") or not known)
        )

    def _settings(self) -> dict[str, Any]:
        """Everything that the candidates depend on."""
        index, engine = self.index, self.engine
        values = {
            "queries": _digest([[query_id, request.query, request.included_ids] for query_id, request in self.tasks]),
            "k": int(self.k),
            "weights": weights_digest(engine.parts.model),
            "index": _digest([index.num_passages, index.token_counts.tolist(), index.corpus_fingerprint]),
            "tokenizer": self.identifiers.fingerprint,
            "identifiers": self.identifiers.settings.to_dict(),
            "search": engine.settings.to_dict(),
            "scoring": engine.scoring.to_dict(),
            # None is what older versions did, which did not write these.
            "ignore_identical_ids": self.ignore_identical_ids or None,
            "own_texts": "left out" if self.leave_out_own_text else None,
            "passages": None if self.passages is None else self.passages.digest,
            # The fingerprint of a corpus covers its ids; an index that was changed has none.
            "passage_ids": None if index.corpus_fingerprint else index.passage_ids.digest(),
        }
        as_json: dict[str, Any] = json.loads(json.dumps(values))
        return as_json


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
