"""Data sets of the package ir_datasets, by id: `irds:beir/scifact/test` wherever a path of a data set is taken."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from dgr_trainer.data.ids import as_id
from dgr_trainer.data.passages import PassageRows, passage_row
from dgr_trainer.errors import DGRValueError, MissingPackageError

PREFIX = "irds:"


def ir_datasets_id(path: str | os.PathLike[str]) -> str | None:
    """The id in a path that begins with `irds:`; `None` for any other path."""
    text = os.fspath(path)
    return text.removeprefix(PREFIX) if text.startswith(PREFIX) else None


def passage_rows(id: str) -> PassageRows:
    """The documents of a data set as passages: their `title`, if they have one, and their text."""
    dataset = _load(id, "docs")

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, document in enumerate(dataset.docs_iter()):
            title = getattr(document, "title", None)
            text = getattr(document, "text", None)
            where = f"document {number} of {id}"
            values = {"title": title, "text": document.default_text() if text is None else text}
            yield number, passage_row(where, id=document.doc_id, **values, pseudo_queries=None, docid=None)

    return PassageRows(rows(), lambda number: f"document {number}", f"{PREFIX}{id}")


def query_rows(id: str) -> Iterator[tuple[str, str, str, list[str]]]:
    """The queries of a data set: place for errors, query id, query, no answers."""
    for number, query in enumerate(_load(id, "queries").queries_iter()):
        where = f"query {number} of {id}"
        text = getattr(query, "text", None)
        yield where, as_id(query.query_id, "query", where), query.default_text() if text is None else text, []


def judgement_rows(id: str) -> Iterator[tuple[str, str, str, int]]:
    """The judgements of a data set: place for errors, query id, passage id, relevance."""
    for number, judgement in enumerate(_load(id, "qrels").qrels_iter()):
        where = f"judgement {number} of {id}"
        query_id = as_id(judgement.query_id, "query", where)
        yield where, query_id, as_id(judgement.doc_id, "passage", where), int(judgement.relevance)


def _load(id: str, part: str) -> Any:
    try:
        import ir_datasets
    except ImportError as error:
        raise MissingPackageError(
            f'{PREFIX}{id} is read by ir_datasets: pip install "dgr-trainer[ir-datasets]".'
        ) from error
    try:
        dataset = ir_datasets.load(id)
    except KeyError:
        raise DGRValueError(
            f"ir_datasets knows no data set {id!r}. Its documentation lists the ids, such as beir/scifact/test."
        ) from None
    if not getattr(dataset, f"has_{part}")():
        has = [name for name in ("docs", "queries", "qrels") if getattr(dataset, f"has_{name}")()]
        raise DGRValueError(f"{PREFIX}{id} has no {part}, only {' and '.join(has) or 'nothing'}.")
    return dataset
