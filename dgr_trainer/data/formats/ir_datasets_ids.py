"""Data sets of the package ir_datasets, given by id in place of a path: `irds:beir/scifact/test`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dgr_trainer.data.ids import as_id
from dgr_trainer.data.passages import NumberedPassages, passage_row
from dgr_trainer.data.rows import JudgementRow, QueryRow, judgement_row
from dgr_trainer.data.sources import IR_DATASETS_PREFIX
from dgr_trainer.data.texts import as_text
from dgr_trainer.errors import DGRValueError, MissingPackageError


def passages(id: str) -> NumberedPassages:
    """The documents of a data set as passages: their `title`, if they have one, and their text."""
    dataset = _load(id, "docs")

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, document in enumerate(dataset.docs_iter()):
            title = getattr(document, "title", None)
            text = getattr(document, "text", None)
            location = f"document {number} of {id}"
            values = {"title": title, "text": document.default_text() if text is None else text}
            yield number, passage_row(location, id=document.doc_id, **values, pseudo_queries=None, docid=None)

    return NumberedPassages(rows(), lambda number: f"document {number}", f"{IR_DATASETS_PREFIX}{id}")


def query_rows(id: str) -> Iterator[QueryRow]:
    """The queries of a data set, without answers."""
    for number, query in enumerate(_load(id, "queries").queries_iter()):
        location = f"query {number} of {id}"
        text = getattr(query, "text", None)
        text = query.default_text() if text is None else text
        query_id = as_id(query.query_id, "query", location)
        yield QueryRow(location, query_id, as_text(text, f"query {query_id!r}", location), [])


def judgement_rows(id: str) -> Iterator[JudgementRow]:
    """The judgements of a data set."""
    for number, judgement in enumerate(_load(id, "qrels").qrels_iter()):
        yield judgement_row(f"judgement {number} of {id}", judgement.query_id, judgement.doc_id, judgement.relevance)


def _load(id: str, part: str) -> Any:
    try:
        import ir_datasets
    except ImportError as error:
        raise MissingPackageError(
            f'{IR_DATASETS_PREFIX}{id} is read by ir_datasets: pip install "dgr-trainer[ir-datasets]".'
        ) from error
    try:
        dataset = ir_datasets.load(id)
    except KeyError:
        raise DGRValueError(
            f"ir_datasets knows no data set {id!r}. Its documentation lists the ids, such as beir/scifact/test."
        ) from None
    if not getattr(dataset, f"has_{part}")():
        has = [name for name in ("docs", "queries", "qrels") if getattr(dataset, f"has_{name}")()]
        raise DGRValueError(f"{IR_DATASETS_PREFIX}{id} has no {part}, only {' and '.join(has) or 'nothing'}.")
    return dataset
