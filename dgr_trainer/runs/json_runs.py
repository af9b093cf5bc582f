"""Runs in JSON, list by list or hit by hit: ours, RankLLM's, ranx', and those of DPR's and Pyserini's retrievers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NoReturn

from tqdm.auto import tqdm

from dgr_trainer.data.columns import RUN_COLUMNS
from dgr_trainer.data.formats.dpr import retriever_results
from dgr_trainer.data.grades import as_integer
from dgr_trainer.data.record_fields import file_has, record_fields
from dgr_trainer.data.sources import FileSource
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.records import Record, Records
from dgr_trainer.runs.rank_list import HitRow, ListRow

_KNOWN = (
    "A run has lists (query_id, passage_ids, scores), a hit a record (query_id, passage_id, score), 'query' and "
    "'candidates' of RankLLM, 'question' and 'ctxs' of DPR's retriever, or ranx' object of scores by query and "
    "document id."
)


# Lists and hits in records


def holds_lists(file: FileSource) -> bool:
    """Whether the first record is a list as `Rankings.to_jsonl` writes it."""
    return file.holds_records and "passage_ids" in file.fields


def list_rows(records: Records) -> Iterator[ListRow]:
    """Lists as `Rankings.to_jsonl` writes them: `query_id`, `passage_ids`, `scores`, and perhaps the name as `run`."""
    for number, record in tqdm(records.rows, desc="Reading rank lists", unit=" lists", delay=5):
        location = records.location(number)
        missing = [field for field in ("query_id", "passage_ids", "scores") if field not in record]
        if missing:
            raise DGRValueError(f"{location}: no field {missing}. The fields found are {sorted(record)}.")
        if not isinstance(record["passage_ids"], list) or not isinstance(record["scores"], list):
            raise DGRValueError(f"{location}: passage_ids and scores have to be lists.")
        yield ListRow(location, record["query_id"], record["passage_ids"], record["scores"], record.get("run"))


def holds_hits(file: FileSource) -> bool:
    """Whether the first record is a hit."""
    return file.holds_records and any(file_has(file, RUN_COLUMNS, (*_HIT, value)) for value in ("score", "rank"))


def holds_ranks(file: FileSource) -> bool:
    """Whether the first hit has a rank and no score."""
    return not file_has(file, RUN_COLUMNS, ("score",))


def hit_rows(file: FileSource) -> Iterator[HitRow]:
    """Hits, one a record: a query id, a passage id and a score, or, if there are only ranks, minus the rank."""
    records = file.records()
    value = "rank" if holds_ranks(file) else "score"
    for number, hit in record_fields(records, RUN_COLUMNS, [(field,) for field in (*_HIT, value)], "a hit"):
        location = records.location(number)
        score = negative_rank(location, hit[value]) if value == "rank" else hit[value]
        yield HitRow(location, hit["query_id"], hit["passage_id"], score)


def negative_rank(location: str, value: object) -> int:
    """Minus the rank of a hit, so that the first one is the highest. Raises a `ValueError` if it is no rank."""
    rank = as_integer(value)
    if rank is None or rank < 0:
        raise DGRValueError(f"{location}: the rank is {value!r:.60}, not an integer of 0 or more.")
    return -rank


_HIT = ("query_id", "passage_id")


# RankLLM


def is_rank_llm(file: FileSource) -> bool:
    """Whether the first record has the candidates of a query."""
    return file.kind == "jsonl" and "candidates" in file.fields


def rank_llm_lists(file: FileSource) -> Iterator[ListRow]:
    """The lists of RankLLM: a `query` with a `qid`, and `candidates`, best first, each with a `docid` and a `score`.

    If no candidate of a list has a score, their order counts: of n the first gets the score n, the last gets 1.

    Raises:
        ValueError: if a record is malformed, only some candidates have a score, or a score is higher than the one
            before it.
    """
    records = file.records()
    for number, record in records.rows:
        yield _rank_llm_list(records.location(number), record)


def _rank_llm_list(location: str, record: Record) -> ListRow:
    query, candidates = record.get("query"), record.get("candidates")
    if not isinstance(query, dict) or "qid" not in query or not isinstance(candidates, list):
        raise DGRValueError(
            f"{location}: no object of RankLLM, which has 'query' with a 'qid', and a list 'candidates'."
        )
    for candidate in candidates:
        if not isinstance(candidate, dict) or "docid" not in candidate:
            raise DGRValueError(f"{location}: a candidate without 'docid': {str(candidate)[:100]}.")
    ids = [candidate["docid"] for candidate in candidates]
    scores = [candidate.get("score") for candidate in candidates]
    if all(score is None for score in scores):
        scores = [float(score) for score in range(len(ids), 0, -1)]
    for id, score in zip(ids, scores, strict=True):
        if isinstance(score, bool) or not isinstance(score, (int, float)):
            raise DGRValueError(f"{location}: the score of candidate {id!r} is {score!r}, not a number.")
    for rank in range(1, len(ids)):
        if scores[rank] > scores[rank - 1]:
            raise DGRValueError(
                f"{location}: candidate {ids[rank]!r} has the score {scores[rank]:g}, the one before it only "
                f"{scores[rank - 1]:g}, but RankLLM lists candidates best first. Sort the candidates by score, or "
                "remove the scores if their order counts."
            )
    return ListRow(location, str(query["qid"]), ids, scores)


# Results of DPR's retriever


def dpr_lists(file: FileSource) -> Iterator[ListRow]:
    """The lists of DPR's retriever."""
    for result in retriever_results(file.records()):
        yield ListRow(result.location, result.query_id, result.passage_ids, result.scores)


# Runs that are one JSON object


def is_pyserini(file: FileSource) -> bool:
    """Whether the file is one JSON object of Pyserini's results by query id."""
    run = _run_object(file)
    return run is not None and all(isinstance(value, dict) and "contexts" in value for value in run.values())


def pyserini_lists(file: FileSource) -> Iterator[ListRow]:
    """The lists of Pyserini's conversion to DPR's form: `contexts` by query id."""
    run = _checked_object(file)
    results = [{**result, "id": query_id, "ctxs": result["contexts"]} for query_id, result in run.items()]
    locations = [f"{file.path}, query {query_id!r}" for query_id in run]
    for result in retriever_results(Records(enumerate(results), locations.__getitem__)):
        yield ListRow(result.location, result.query_id, result.passage_ids, result.scores)


def is_ranx(file: FileSource) -> bool:
    """Whether the file is one JSON object that is no record."""
    return _run_object(file) is not None


def ranx_lists(file: FileSource) -> Iterator[ListRow]:
    """The lists of ranx: scores by query id and document id."""
    for query_id, scores in _checked_object(file).items():
        yield ListRow(str(file.path), query_id, list(scores), list(scores.values()))


def _run_object(file: FileSource) -> Record | None:
    """The one JSON object of a file; `None` if there are several, or it is the only record of a JSON Lines file."""
    content = file.json_object
    return None if content is None or {"query_id", "query", "question"} & set(content) else content


def _checked_object(file: FileSource) -> dict[str, dict[str, Any]]:
    run = _run_object(file)
    if not run:
        raise DGRValueError(f"{file.path}: the run is empty.")
    for query_id, value in run.items():
        if not isinstance(value, dict):
            raise DGRValueError(
                f"{file.path}: query {query_id!r} has {value!r:.60}, not an object of scores. {_KNOWN}"
            )
    return run


# Anything else


def refuse_unknown(file: FileSource) -> NoReturn:
    """Raise `ValueError` for records that are no run."""
    if not file.fields:
        only = " It has a line that names the columns at most." if file.kind in ("csv", "tsv") else ""
        raise DGRValueError(f"{os.fspath(file.path)}: the run is empty.{only}")
    raise DGRValueError(
        f"{file.path}: this is no run of a known format. The fields found are {sorted(file.fields)}. {_KNOWN}"
    )
