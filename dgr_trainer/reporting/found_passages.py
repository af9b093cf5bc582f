"""What a retriever found, as `dgr search` writes it: a run, or hits with their identifiers and the queries."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dgr_trainer.data.ids import as_id
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.compression import atomic_text
from dgr_trainer.files.lines import existing_file, file_kind
from dgr_trainer.files.records import json_records
from dgr_trainer.retrieval.hits import Hit, identifier_records
from dgr_trainer.retrieval.retriever import GenerativeRetriever
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.runs.reading import read_run

_FIELDS = {"query_id", "query", "hits"}


@dataclass(frozen=True)
class ShownIdentifier:
    """An identifier as text: its view, its text, and what it added to the score of the passage."""

    view: str
    text: str
    score: float


@dataclass(frozen=True)
class ShownHit:
    """A hit of which a reader can be told why it was found."""

    title: str
    identifiers: tuple[ShownIdentifier, ...]


@dataclass(frozen=True)
class FoundPassages:
    """What was found for some queries.

    Args:
        rankings ([`Rankings`]): The rank lists.
        queries (`dict[str, str]`): Texts of the queries by id, if the file has them.
        hits (`dict[str, dict[str, ShownHit]]`): By query id and passage id, if the file has them.
    """

    rankings: Rankings
    queries: dict[str, str] = field(default_factory=dict)
    hits: dict[str, dict[str, ShownHit]] = field(default_factory=dict)


def read_found(path: str | os.PathLike[str]) -> FoundPassages:
    """Read a run in any format, or the hits that `dgr search --json` prints.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is malformed.
    """
    path = os.fspath(path)
    if not path.startswith(("hf:", "irds:")) and file_kind(path) == "jsonl":
        records, fields = json_records(existing_file(path)).peek()
        if fields >= {"query", "hits"}:
            return _read_hits(path, records.rows, records.location)
    return FoundPassages(read_run(path))


def _read_hits(path: str, rows: Iterable[tuple[int, dict[str, Any]]], location: Any) -> FoundPassages:
    lists: dict[str, dict[str, float]] = {}
    queries: dict[str, str] = {}
    hits: dict[str, dict[str, ShownHit]] = {}
    for number, record in rows:
        where = location(number)
        if not set(record) >= _FIELDS:
            raise DGRValueError(
                f"{where}: no field {sorted(_FIELDS - set(record))}. Search for queries that have ids: "
                "dgr search RETRIEVER --queries FILE --json."
            )
        query_id = as_id(record["query_id"], "query", where)
        if query_id in lists:
            raise DGRValueError(f"{where}: query {query_id!r} is there twice.")
        try:
            lists[query_id] = {str(hit["passage_id"]): float(hit["score"]) for hit in record["hits"]}
            hits[query_id] = {str(hit["passage_id"]): _shown(hit) for hit in record["hits"]}
        except (KeyError, TypeError, ValueError) as error:
            raise DGRValueError(
                f"{where}: hits as `dgr search --json` prints them have passage_id, score and identifiers ({error!r})."
            ) from None
        queries[query_id] = str(record["query"])
    if not lists:
        raise DGRValueError(f"{path}: there are no hits.")
    return FoundPassages(Rankings(lists), queries, hits)


def _shown(hit: Mapping[str, Any]) -> ShownHit:
    identifiers = [
        ShownIdentifier(str(one["view"]), str(one["text"]), float(one["score"])) for one in hit.get("identifiers", [])
    ]
    return ShownHit(str(hit.get("title", "")), tuple(sorted(identifiers, key=lambda one: -one.score)))


def write_hits(
    path: str | os.PathLike[str],
    queries: Mapping[str, str],
    results: Sequence[Sequence[Hit]],
    retriever: GenerativeRetriever,
    *,
    k: int = 10,
    identifiers: int = 6,
) -> None:
    """Write the first hits of each query as `dgr search --json` prints them, in one step.

    Args:
        path (`str` or `os.PathLike`): The file, compressed if its name says so.
        queries (`Mapping[str, str]`): Texts by id, in the order of the results.
        results (`Sequence[Sequence[Hit]]`): The hits of each query.
        retriever ([`GenerativeRetriever`]): The one that found them; knows the texts of identifiers, and titles if it
            has its corpus.
        k (`int`, *optional*, defaults to 10): Hits of a query to write.
        identifiers (`int`, *optional*, defaults to 6): Identifiers of a hit to write, of the highest scores.
    """
    with atomic_text(path) as file:
        for (query_id, query), hits in zip(queries.items(), results, strict=True):
            records = []
            for hit in hits[:k]:
                title = "" if retriever.corpus is None else retriever.corpus.get(hit.passage_id).title
                best = sorted(hit.identifiers, key=lambda one: -one.score)[:identifiers]
                records.append(
                    {
                        "passage_id": hit.passage_id,
                        "score": hit.score,
                        "title": title,
                        "identifiers": identifier_records(best, retriever.identifier_text),
                    }
                )
            line = {"query_id": query_id, "query": query, "hits": records}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
