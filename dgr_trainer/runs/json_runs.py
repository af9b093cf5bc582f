"""Runs as records of other systems: a hit a record, RankLLM, ranx, the results of DPR's and Pyserini's retrievers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dgr_trainer.data.formats.dpr import RESULT_FIELDS, retriever_results
from dgr_trainer.data.formats.huggingface import RUN_COLUMNS
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.records import Record, Records
from dgr_trainer.runs.rank_list import Hits
from dgr_trainer.runs.rankings import Rankings

_TAKEN = (
    "A run has lists (query_id, passage_ids, scores), a hit a record (query_id, passage_id, score), 'query' and "
    "'candidates' of RankLLM, 'question' and 'ctxs' of DPR's retriever, or ranx' object of scores by query and "
    "document id."
)


def of_records(path: Path, records: Records, fields: frozenset[str], name: str) -> Rankings:
    """Read the run of another system.

    Args:
        path (`pathlib.Path`): the file, for errors.
        records ([`Records`]): of the file.
        fields (`frozenset[str]`): of the first record.
        name (`str`): name of the rankings.

    Raises:
        TypeError, ValueError: if a record is malformed, or not of a system that is known.
    """
    if not fields:
        raise DGRValueError(f"{path}: the run is empty.")
    rows = ((records.location(number), record) for number, record in records.rows)
    if "candidates" in fields:
        return Rankings(dict(_once(_rankllm_list(where, record) for where, record in rows)), name)
    if RESULT_FIELDS <= fields:
        found = ((one.where, one.query_id, one.hits) for one in retriever_results(records))
        return Rankings(dict(_once(found)), name)
    chosen = {
        field: next((column for column in RUN_COLUMNS[field] if column in fields), "")
        for field in ("query_id", "passage_id", "score")
    }
    if all(chosen.values()):
        return Rankings(_hit_lists(rows, chosen), name)
    raise DGRValueError(f"{path}: this is no run that is known. The fields found are {sorted(fields)}. {_TAKEN}")


def of_object(path: Path, content: Mapping[str, Any], name: str) -> Rankings:
    """Read the run of another system that is one JSON object: ranx' scores, or Pyserini's results by query id.

    Raises:
        TypeError, ValueError: if it is neither, or malformed.
    """
    if not content:
        raise DGRValueError(f"{path}: the run is empty.")
    for query_id, of in content.items():
        if not isinstance(of, dict):
            raise DGRValueError(f"{path}: query {query_id!r} has {of!r:.60}, not an object of scores. {_TAKEN}")
    try:
        if all("contexts" in of for of in content.values()):
            records = ((query_id, {**of, "id": query_id, "ctxs": of["contexts"]}) for query_id, of in content.items())
            named = Records(enumerate(record for _, record in records), lambda number: f"object {number}")
            return Rankings({one.query_id: one.hits for one in retriever_results(named)}, name)
        return Rankings(content, name)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path}: {error}") from None


def _once(lists: Iterable[tuple[str, str, Any]]) -> Iterator[tuple[str, Any]]:
    seen: set[str] = set()
    for where, query_id, hits in lists:
        if query_id in seen:
            raise DGRValueError(f"{where}: query {query_id!r} has a second list. Every query has one.")
        seen.add(query_id)
        try:
            Rankings({query_id: hits})
        except (TypeError, ValueError) as error:
            raise type(error)(f"{where}: {error}") from None
        yield query_id, hits


def _hit_lists(rows: Iterable[tuple[str, Record]], columns: Mapping[str, str]) -> dict[str, Any]:
    hits = Hits()
    for where, record in rows:
        missing = [column for column in columns.values() if column not in record]
        if missing:
            raise DGRValueError(f"{where}: no field {missing}. The fields found are {sorted(record)}.")
        hits.add_checked(where, *(record[column] for column in columns.values()))
    return {query_id: list(zip(ids, scores.tolist(), strict=True)) for query_id, ids, scores in hits.lists()}


def _rankllm_list(where: str, record: Any) -> tuple[str, str, list[tuple[Any, float]]]:
    query = record.get("query")
    candidates = record.get("candidates")
    if not isinstance(query, dict) or "qid" not in query or not isinstance(candidates, list):
        raise DGRValueError(f"{where}: no object of RankLLM, which has 'query' with a 'qid', and a list 'candidates'.")
    ids, scores = [], []
    for candidate in candidates:
        if not isinstance(candidate, dict) or "docid" not in candidate:
            raise DGRValueError(f"{where}: a candidate without 'docid': {str(candidate)[:100]}.")
        score = candidate.get("score", 0.0)
        if isinstance(score, bool) or not isinstance(score, (int, float)):
            raise DGRValueError(f"{where}: the score of candidate {candidate['docid']!r} is {score!r}, not a number.")
        ids.append(candidate["docid"])
        scores.append(float(score))
    falling = all(later < earlier for earlier, later in zip(scores, scores[1:], strict=False))
    return where, str(query["qid"]), list(zip(ids, scores if falling else range(len(ids), 0, -1), strict=True))
