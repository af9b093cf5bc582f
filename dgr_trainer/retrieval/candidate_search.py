"""Candidates of training queries: searched for in batches, each of which is written down when it is done."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from dgr_trainer.candidates import Candidate, Candidates, MatchedIdentifier, pack
from dgr_trainer.files.resume_log import ResumeLog
from dgr_trainer.processes import Processes, gather, map_across_processes, process_rank, share_of_process
from dgr_trainer.retrieval.hits import Hit
from dgr_trainer.retrieval.passage_identifiers import own_identifiers
from dgr_trainer.retrieval.storage import RetrieverParts
from dgr_trainer.student.weights import weights_digest


class _Asked(NamedTuple):
    """A query, and the ids of the passages that are to be among its candidates."""

    query_id: str
    text: str
    wanted: Sequence[str]


# Hits of queries, each with the ids of passages to be included.
Search = Callable[[Sequence[tuple[str, Sequence[str]]]], Iterable[list[Hit]]]


class CandidateSearch:
    """Searches for candidates; see `GenerativeRetriever.candidates` and `GenerativeRetriever.save_candidates`.

    Args:
        retriever ([`RetrieverParts`]): The parts of the retriever whose candidates they are.
        search (`Callable`): Hits of queries, in their order and in batches of `retriever.settings.batch_size`.
        queries (`Mapping[str, str]`): Texts of queries by their ids.
        relevant (`Mapping[str, Mapping[str, int]]`): Qrels.
        processes ([`Processes`], *optional*): Which share the work.

    Raises:
        KeyError: if a relevant passage is not in the index.
    """

    def __init__(
        self,
        retriever: RetrieverParts,
        search: Search,
        queries: Mapping[str, str],
        relevant: Mapping[str, Mapping[str, int]],
        processes: Processes | None,
    ) -> None:
        self.retriever, self.search, self.processes = retriever, search, processes
        include = [[id for id, grade in relevant.get(query, {}).items() if grade > 0] for query in queries]
        retriever.index.passage_positions({id for ids in include for id in ids})
        self.asked = [_Asked(query, text, ids) for (query, text), ids in zip(queries.items(), include, strict=True)]
        self.facts: dict[str, Any] = {
            "corpus_tokens": retriever.index.num_tokens,
            "tokenizer_fingerprint": retriever.identifiers.fingerprint,
        }

    def found(self) -> Candidates:
        """All candidates, in memory, in every process."""
        return Candidates.from_rows(map_across_processes(self.asked, self._rows, self.processes), **self.facts)

    def save(self, path: Path, k: int) -> None:
        """Write the candidates to a folder; the first process does, with what the others found."""
        number, of = process_rank(self.processes)
        suffix = ".unfinished" if of == 1 else f".unfinished-{number}-of-{of}"
        with ResumeLog(path.with_name(path.name + suffix), {**self._settings(k), "process": number}) as log:
            rows = self._rows_of_all(log, of)
            if number == 0:
                Candidates.save_rows(rows, path, **self.facts)
            else:
                for _ in rows:
                    pass
            gather(None, self.processes)  # What was found may be forgotten only when the first has written it.
            log.remove()

    def _rows_of_all(self, log: ResumeLog, of: int) -> Iterator[pa.RecordBatch]:
        """The rows of all queries in their order, batch by batch, all processes at a time."""
        own, size = share_of_process(self.asked, self.processes), self.retriever.settings.batch_size
        before = log.chunks()
        finished = log.count
        new = iter(self._rows(own[finished * size :]))
        most = -(-len(self.asked) // of)  # Of the share of the first process, which has the largest.
        for batch in range(-(-most // size)):
            if batch < finished:
                chunk = next(before)
            elif rows := list(islice(new, size)):
                chunk = {"rows": _to_text(rows)}
                log.add(chunk)
            else:
                chunk = None
            chunks = [_from_text(one["rows"]) if one else [] for one in gather(chunk, self.processes)]
            for rows_in_turn in zip_longest(*chunks):
                yield from (row for row in rows_in_turn if row is not None)

    def _rows(self, asked: Sequence[_Asked]) -> Iterator[pa.RecordBatch]:
        """The candidates of each query, packed."""
        found = self.search([(one.text, one.wanted) for one in asked])
        for one, hits in zip(asked, found, strict=True):
            yield pack(one.query_id, [self._candidate(hit, hit.passage_id in one.wanted) for hit in hits])

    def _candidate(self, hit: Hit, relevant: bool) -> Candidate:
        index, of = self.retriever.index, self.retriever.identifiers
        identifiers = hit.identifiers
        if relevant:
            matched = {(identifier.view, identifier.ids) for identifier in identifiers}
            tokens = index.extract(index.passage_position(hit.passage_id))
            for view, ids in own_identifiers(of, tokens, self.retriever.settings.substring_length):
                if (view, ids) not in matched and (view in ("title", "docid") or not matched):
                    identifiers += (MatchedIdentifier(view, ids, index.count(of.pattern(view, ids)), 0.0),)
        return Candidate(hit.passage_id, hit.score, identifiers)

    def _settings(self, k: int) -> dict[str, Any]:
        """What the candidates depend on."""
        retriever = self.retriever
        index = [retriever.index.num_passages, retriever.index.token_counts.tolist()]
        values = {
            "queries": _digest(self.asked),
            "k": k,
            "weights": weights_digest(retriever.model),
            "index": _digest([*index, retriever.index.corpus_fingerprint]),
            "tokenizer": retriever.identifiers.fingerprint,
            "identifiers": retriever.identifiers.settings.to_dict(),
            "search": retriever.settings.to_dict(),
            "scoring": retriever.scoring.to_dict(),
        }
        return json.loads(json.dumps(values))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _to_text(rows: Sequence[pa.RecordBatch]) -> str:
    """Rows as Arrow writes them, in letters that a file of JSON can hold: read again they are the same to the bit."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows[0].schema) as writer:
        for row in rows:
            writer.write_batch(row)
    return base64.b64encode(sink.getvalue()).decode("ascii")


def _from_text(text: str) -> list[pa.RecordBatch]:
    with pa.ipc.open_stream(base64.b64decode(text)) as reader:
        return list(reader)
