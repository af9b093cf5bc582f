"""Queries and judgements in datasets of the Hugging Face library, with a mapping of column names, streamed or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from datasets import Dataset, DatasetDict, IterableDataset

from dgr_trainer.data.formats.answer_lists import check_answers
from dgr_trainer.data.ids import as_id
from dgr_trainer.data.rows import JudgementRow, QueryRow
from dgr_trainer.errors import DGRTypeError, DGRValueError

_BATCH = 1000
QUERY_COLUMNS = {
    "query_id": ("query_id", "id", "_id", "qid"),
    "query": ("query", "text", "question"),
    "answers": ("answers", "answer"),
}
JUDGEMENT_COLUMNS = {
    "query_id": ("query_id", "query-id", "qid"),
    "passage_id": ("passage_id", "corpus-id", "doc_id"),
    "relevance": ("relevance", "score"),
}
RUN_COLUMNS = {
    "query_id": ("query_id", "qid", "q_id"),
    "passage_ids": ("passage_ids",),
    "scores": ("scores",),
    "passage_id": ("passage_id", "docno", "doc_id", "docid", "pid"),  # A hit in each row, as in PyTerrier and ranx.
    "score": ("score",),
}
"""Usual names of the columns by field, used if no other is given."""


def column_names(dataset: object) -> list[str]:
    """The columns of a dataset; if a stream does not tell them, its first row does.

    Raises:
        TypeError: if it is no dataset, or a dict of splits.
    """
    if isinstance(dataset, (DatasetDict, dict)):
        raise DGRTypeError(f"Got a dict of datasets with the splits {sorted(map(str, dataset))}. Choose one of them.")
    if not isinstance(dataset, (Dataset, IterableDataset)):
        raise DGRTypeError(f"Got a {type(dataset).__name__}, but a datasets.Dataset is needed.")
    return list(dataset.column_names or next(iter(dataset), {}))


def rows(dataset: Dataset | IterableDataset, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbers of rows, from 0, and the value of each field from the column that `columns` names."""
    table = dataset.select_columns(sorted(set(columns.values()))).with_format(None)
    number = 0
    for batch in table.iter(batch_size=_BATCH):
        for values in zip(*(batch[column] for column in columns.values()), strict=True):
            yield number, dict(zip(columns, values, strict=True))
            number += 1


def dataset_query_rows(
    dataset: Dataset | IterableDataset, columns: Mapping[str, str] | None, name: str = "the dataset"
) -> Iterator[QueryRow]:
    """Queries of a dataset; see `queries_from_dataset`."""
    chosen = chosen_columns(dataset, columns, QUERY_COLUMNS, needed=("query",))
    for number, row in rows(dataset, chosen):
        location = f"row {number} of {name}"
        if not isinstance(row["query"], str):
            raise DGRTypeError(f"{location}: the query is {row['query']!r:.60}, not a string.")
        query_id = as_id(row["query_id"] if "query_id" in chosen else number, "query", location)
        yield QueryRow(location, query_id, row["query"], check_answers(location, row.get("answers") or []))


def dataset_judgement_rows(
    dataset: Dataset | IterableDataset, columns: Mapping[str, str] | None, name: str = "the dataset"
) -> Iterator[JudgementRow]:
    """Judgements of a dataset; see `qrels_from_dataset`."""
    chosen = chosen_columns(dataset, columns, JUDGEMENT_COLUMNS, needed=("query_id", "passage_id"))
    for number, row in rows(dataset, chosen):
        location = f"row {number} of {name}"
        relevance = row.get("relevance", 1)
        if isinstance(relevance, bool) or not isinstance(relevance, int):
            raise DGRValueError(f"{location}: the relevance is {relevance!r}, not an integer.")
        query_id, passage_id = as_id(row["query_id"], "query", location), as_id(row["passage_id"], "passage", location)
        yield JudgementRow(location, query_id, passage_id, relevance)


def chosen_columns(
    dataset: Dataset | IterableDataset,
    given: Mapping[str, str] | None,
    usual: Mapping[str, Sequence[str]],
    needed: Sequence[str],
) -> dict[str, str]:
    """Choose the columns of a dataset.

    Args:
        dataset (`datasets.Dataset` or `datasets.IterableDataset`): The dataset.
        given (`Mapping[str, str]`, *optional*): Columns by field that the user names.
        usual (`Mapping[str, Sequence[str]]`): Usual names of the columns by field.
        needed (`Sequence[str]`): Fields that are required.

    Returns:
        `dict[str, str]`: Columns by field: the given ones, otherwise those with a usual name.

    Raises:
        TypeError: if it is no dataset.
        ValueError: if a field is unknown, or a column is missing.
    """
    present = column_names(dataset)
    chosen = dict(given or {})
    unknown = sorted(set(chosen) - set(usual))
    if unknown:
        raise DGRValueError(f"columns names the fields {unknown}, but there are only {list(usual)}.")
    for field, names in usual.items():
        column = next((name for name in names if name in present), None)
        if field not in chosen and column is not None:
            chosen[field] = column
    missing = sorted(set(chosen.values()) - set(present)) or [field for field in needed if field not in chosen]
    if missing:
        example = dict.fromkeys(needed, "...")
        missing_field = next((field for field in needed if field not in chosen), needed[0])
        raise DGRValueError(
            f"The dataset has no column {missing}; its columns are {present}. Name the ones to use: "
            f"columns={example}; in place of a path: hf:PATH,{missing_field}=COLUMN."
        )
    return chosen
