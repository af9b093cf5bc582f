"""Queries and judgements in datasets of the Hugging Face library, with a mapping of column names, streamed or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dgr_trainer.data.columns import JUDGEMENT_COLUMNS, QUERY_COLUMNS, Usual, usual_columns
from dgr_trainer.data.formats.answer_lists import check_answers
from dgr_trainer.data.hub import loading_errors, reasons
from dgr_trainer.data.ids import as_id
from dgr_trainer.data.rows import JudgementRow, QueryRow, judgement_row
from dgr_trainer.data.texts import as_text
from dgr_trainer.errors import DGRTypeError, DGRValueError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

_BATCH = 1000


def column_names(dataset: object) -> list[str]:
    """The columns of a dataset; if a stream does not tell them, its first row does.

    Raises:
        TypeError: if it is no dataset, or a dict of splits.
    """
    from datasets import Dataset, DatasetDict, IterableDataset

    if isinstance(dataset, (DatasetDict, dict)):
        raise DGRTypeError(f"Got a dict of datasets with the splits {sorted(map(str, dataset))}. Choose one of them.")
    if not isinstance(dataset, (Dataset, IterableDataset)):
        raise DGRTypeError(f"Got a {type(dataset).__name__}, but a datasets.Dataset is needed.")
    return list(dataset.column_names or next(iter(dataset), {}))


def rows(dataset: Dataset | IterableDataset, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbers of rows, from 0, and the value of each field from the column that `columns` names."""
    table = dataset.select_columns(sorted(set(columns.values()))).with_format(None)
    number = 0
    batches = table.iter(batch_size=_BATCH)
    while True:
        try:
            batch = next(batches, None)
        except loading_errors() as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # An error of the disk.
            raise DGRValueError(f"The dataset cannot be read after row {number - 1}. {reasons(error)}") from None
        if batch is None:
            return
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
        query_id = as_id(row["query_id"] if "query_id" in chosen else number, "query", location)
        query = as_text(row["query"], f"query {query_id!r}", location)
        yield QueryRow(location, query_id, query, check_answers(location, row.get("answers") or []))


def dataset_judgement_rows(
    dataset: Dataset | IterableDataset, columns: Mapping[str, str] | None, name: str = "the dataset"
) -> Iterator[JudgementRow]:
    """Judgements of a dataset; see `qrels_from_dataset`."""
    chosen = chosen_columns(dataset, columns, JUDGEMENT_COLUMNS, needed=("query_id", "passage_id"))
    for number, row in rows(dataset, chosen):
        location = f"row {number} of {name}"
        yield judgement_row(location, row["query_id"], row["passage_id"], row.get("relevance", 1))


def chosen_columns(
    dataset: Dataset | IterableDataset,
    given: Mapping[str, str] | None,
    usual: Usual,
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
    chosen = usual_columns(present, usual, chosen)
    missing = sorted(set(chosen.values()) - set(present)) or [field for field in needed if field not in chosen]
    if missing:
        example = dict.fromkeys(needed, "...")
        missing_field = next((field for field in needed if field not in chosen), needed[0])
        raise DGRValueError(
            f"The dataset has no column {missing}; its columns are {present}. Name the ones to use: "
            f"columns={example}; in place of a path: hf:PATH,{missing_field}=COLUMN."
        )
    return chosen
