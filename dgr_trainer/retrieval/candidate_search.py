"""Candidates of training queries: searched for in batches, each of which is written to disk when it is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa

from dgr_trainer.candidates import ROW_SCHEMA, Candidate, Candidates, pack
from dgr_trainer.files.resume_log import ArrowStream, ResumeLog
from dgr_trainer.processes import Processes, gather, map_across_processes, process_rank, share_of_process
from dgr_trainer.retrieval.hits import Hit
from dgr_trainer.retrieval.passage_identifiers import passage_identifiers
from dgr_trainer.retrieval.search_engine import SearchEngine, SearchRequest
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

    Raises:
        KeyError: if a relevant passage is not in the index.
    """

    def __init__(
        self,
        engine: SearchEngine,
        queries: Mapping[str, str],
        relevant: Mapping[str, Mapping[str, int]],
        k: int,
        processes: Processes | None,
        ignore_identical_ids: bool = False,
    ) -> None:
        self.ignore_identical_ids = ignore_identical_ids
        self.engine, self.k, self.processes = engine, k, processes
        self.index, self.identifiers = engine.index, engine.identifiers
        relevant_ids = [
            [
                id
                for id, grade in relevant.get(query, {}).items()
                if grade > 0 and not (ignore_identical_ids and id == query)
            ]
            for query in queries
        ]
        self.index.passage_positions({id for ids in relevant_ids for id in ids})
        self.tasks: list[_Task] = [
            (query_id, SearchRequest(text, ids))
            for (query_id, text), ids in zip(queries.items(), relevant_ids, strict=True)
        ]
        self.properties: dict[str, Any] = {
            "corpus_tokens": self.index.num_tokens,
            "tokenizer_fingerprint": self.identifiers.fingerprint,
        }

    def candidates(self) -> Candidates:
        """All candidates, in memory, in every process."""
        rows = map_across_processes(self.tasks, self._search, self.processes)
        return Candidates.from_rows(rows, **self.properties)

    def save(self, path: Path) -> None:
        """Write the candidates to a folder. The first process writes; the others send it what they find."""
        number, size = process_rank(self.processes)
        suffix = ".unfinished" if size == 1 else f".unfinished-{number}-of-{size}"
        settings = {**self._settings(), "process": number}
        with ResumeLog(path.with_name(path.name + suffix), settings, ArrowStream(ROW_SCHEMA)) as log:
            rows = self._gather_rows(log, size)
            if number == 0:
                Candidates.save_rows(rows, path, **self.properties)
            else:
                for _ in rows:
                    pass
            gather(None, self.processes)  # No log may be removed before the first process has written everything.
            log.remove()

    def _gather_rows(self, log: ResumeLog, num_processes: int) -> Iterator[pa.RecordBatch]:
        """Rows of all queries in their order, one batch of each process at a time."""
        share, batch_size = share_of_process(self.tasks, self.processes), self.engine.settings.batch_size
        finished = log.chunks()
        num_finished = log.count
        found = iter(self._search(share[num_finished * batch_size :]))
        largest_share = -(-len(self.tasks) // num_processes)  # That of the first process.
        for batch in range(-(-largest_share // batch_size)):
            if batch < num_finished:
                chunk = next(finished)
            elif rows := list(islice(found, batch_size)):
                chunk = _chunk(rows)
                log.add(chunk)
            else:
                chunk = None
            chunks = [_rows(chunk) for chunk in gather(chunk, self.processes) if chunk is not None]
            for rows_in_turn in zip_longest(*chunks):
                yield from (row for row in rows_in_turn if row is not None)

    def _search(self, tasks: Sequence[_Task]) -> Iterator[pa.RecordBatch]:
        """Yield the candidates of each query, packed into a row."""
        # One more, where the query's own passage may be left out.
        depth = self.k + self.ignore_identical_ids
        hits = self.engine.search([request for _, request in tasks], depth, self.processes)
        for (query_id, request), query_hits in zip(tasks, hits, strict=True):
            if self.ignore_identical_ids:
                others = [hit for hit in query_hits if hit.passage_id != query_id]
                query_hits = others[: self.k] + [
                    hit for hit in others[self.k :] if hit.passage_id in request.included_ids
                ]
            yield pack(query_id, [self._candidate(hit, hit.passage_id in request.included_ids) for hit in query_hits])

    def _candidate(self, hit: Hit, relevant: bool) -> Candidate:
        """A hit as a candidate; a relevant one gets identifiers to train on."""
        matched = hit.identifiers
        if relevant:
            known = {(identifier.view, identifier.ids) for identifier in matched}
            position = self.index.passage_position(hit.passage_id)
            substring_length = self.engine.settings.substring_length
            matched += tuple(
                identifier
                for identifier in passage_identifiers(self.index, self.identifiers, position, substring_length)
                if (identifier.view, identifier.ids) not in known
                and (identifier.view in ("title", "docid") or not known)
            )
        return Candidate(hit.passage_id, hit.score, matched)

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
        }
        if self.ignore_identical_ids:
            values["ignore_identical_ids"] = True
        as_json: dict[str, Any] = json.loads(json.dumps(values))
        return as_json


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _chunk(rows: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    (chunk,) = pa.Table.from_batches(rows).combine_chunks().to_batches()
    return chunk


def _rows(chunk: pa.RecordBatch) -> list[pa.RecordBatch]:
    return [chunk.slice(row, 1) for row in range(chunk.num_rows)]
