"""Rank lists as other systems write them: TREC runs, JSON of RankLLM and ranx, results of `rerankers`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from dgr_trainer.lines import existing_file, file_kind, json_lines, place
from dgr_trainer.rankings import Rankings

PathLike = str | os.PathLike[str]


def read_run(path: PathLike, name: str | None = None) -> Rankings:
    """Read a run, whatever wrote it.

    - `.jsonl`: lines of [`Rankings.to_jsonl`], or of RankLLM (`query` with `qid`, and `candidates` with `docid`).
    - `.parquet`, `.arrow`: a table with the columns of [`Rankings.from_dataset`].
    - `.json`: a list of RankLLM's objects, or ranx' object of scores by query and document id.
    - anything else: a TREC run, as Anserini, PyTerrier, ranx, RankLLM, pyserini and trec_eval have it.

    RankLLM orders candidates without giving all of them a score of their own: where scores do not decrease along a
    list, the place in it counts, as in [`Rankings.from_order`].

    Args:
        path (`str` or `os.PathLike`): the run.
        name (`str`, *optional*): name of the rankings; by default what the file says, or its name without the ending.

    Returns:
        `Rankings`: the rank lists.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is malformed; names file and line, or query.
    """
    path = existing_file(path)
    kind = file_kind(path)
    if kind in ("parquet", "arrow"):
        table = Dataset.from_parquet(str(path)) if kind == "parquet" else Dataset.from_file(str(path))
        return Rankings.from_dataset(table, name)
    if kind != "jsonl":
        if path.suffix == ".lz4":
            raise ValueError(f"{path} is a run that ranx has compressed. Save it as TREC: run.save('run.trec').")
        return Rankings.from_trec(path, name)
    if path.suffix == ".json":
        return _read_json(path, name)
    first = next((record for _, record in json_lines(path)), {})
    if "candidates" not in first:
        return Rankings.from_jsonl(path, name)
    return _of_rankllm(((place(path, number), record) for number, record in json_lines(path)), name or path.stem)


def from_rerankers(results: Mapping[str, Any], name: str | None = None) -> Rankings:
    """Rankings of what `rerankers` returned for each query.

    Args:
        results (`Mapping[str, RankedResults]`): by query id, what `ranker.rank(query, docs, doc_ids=...)` returned.
        name (`str`, *optional*): name of the rankings.

    Returns:
        `Rankings`: by the scores of `rerankers`, or by its ranks where the ranker gives no scores.

    Raises:
        TypeError: if a value is no such result.
        ValueError: if a document occurs twice in a result, which it does where no `doc_ids` were given for queries
            with equal ones, or a score is not finite.
    """
    lists: dict[str, list[tuple[Any, float]]] = {}
    for query_id, of in results.items():
        if not hasattr(of, "results"):
            raise TypeError(
                f"Query {query_id!r}: a {type(of).__name__}, not the RankedResults of rerankers. Give what "
                "ranker.rank(query, docs, doc_ids=...) returned, by query id."
            )
        scored = all(one.score is not None for one in of.results)
        ranked = sorted(of.results, key=lambda one: one.rank) if not scored else of.results
        lists[query_id] = [
            (one.document.doc_id, float(one.score if scored else len(ranked) - place))
            for place, one in enumerate(ranked)
        ]
    return Rankings(lists, name)


def _read_json(path: Path, name: str | None) -> Rankings:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        first = next((record for _, record in json_lines(path)), {})  # Raises if the lines are no JSON either.
        if "query_id" in first:
            return Rankings.from_jsonl(path, name)
        raise ValueError(f"{path}: not JSON ({error}).") from None
    if isinstance(content, dict) and "query_id" in content:
        return Rankings.from_jsonl(path, name)  # A file of one line.
    if isinstance(content, list):
        return _of_rankllm(
            ((f"{path}, object {number}", record) for number, record in enumerate(content, 1)), name or path.stem
        )
    if not isinstance(content, dict) or not all(isinstance(scores, dict) for scores in content.values()):
        raise ValueError(
            f"{path} holds neither ranx' object of scores by query and document id nor RankLLM's list of objects "
            "with 'query' and 'candidates'."
        )
    if not content:
        raise ValueError(f"{path}: the run is empty.")
    try:
        return Rankings(content, name or path.stem)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path}: {error}") from None


def _of_rankllm(records: Iterable[tuple[str, Any]], name: str) -> Rankings:
    lists: dict[str, list[tuple[Any, Any]]] = {}
    for where, record in records:
        query_id, ids, scores = _rankllm_row(where, record)
        if str(query_id) in lists:
            raise ValueError(f"{where}: query {query_id!r} has a second list. Every query has one.")
        falling = all(later < earlier for earlier, later in zip(scores, scores[1:], strict=False))
        lists[str(query_id)] = list(zip(ids, scores if falling else range(len(ids), 0, -1), strict=True))
    if not lists:
        raise ValueError(f"The run {name} is empty.")
    return Rankings(lists, name)


def _rankllm_row(where: str, record: Any) -> tuple[Any, list[Any], list[float]]:
    query = record.get("query") if isinstance(record, dict) else None
    candidates = record.get("candidates") if isinstance(record, dict) else None
    if not isinstance(query, dict) or "qid" not in query or not isinstance(candidates, list):
        raise ValueError(f"{where}: no object of RankLLM, which has 'query' with a 'qid', and a list 'candidates'.")
    return query["qid"], *_columns(where, candidates)


def _columns(where: str, candidates: list[Any]) -> tuple[list[Any], list[float]]:
    ids, scores = [], []
    for candidate in candidates:
        if not isinstance(candidate, dict) or "docid" not in candidate:
            raise ValueError(f"{where}: a candidate without 'docid': {str(candidate)[:100]}.")
        score = candidate.get("score", 0.0)
        if isinstance(score, bool) or not isinstance(score, (int, float)):
            raise ValueError(f"{where}: the score of candidate {candidate['docid']!r} is {score!r}, not a number.")
        ids.append(candidate["docid"])
        scores.append(float(score))
    return ids, scores
