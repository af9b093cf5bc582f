"""The datasets that a trainer is given: by name, checked, with tokenised prompts, or as queries to search for."""

from collections.abc import Iterator, Mapping, Sized
from typing import Any

import datasets
from torch.utils.data import IterableDataset

from dgr_trainer.data.ids import as_id
from dgr_trainer.data.texts import as_query
from dgr_trainer.training.arguments import DistillationTrainingArguments
from dgr_trainer.training.checks import check_columns
from dgr_trainer.training.collator import DistillationCollator
from dgr_trainer.training.prompts import with_prompts


def check_dataset(name: str, given: Any, collator: Any) -> None:
    """Refuse a dataset, or one of several, whose columns do not match the collator or of which a query is no text.

    Args:
        name (`str`): How errors name it.
        given (`Any`): The dataset, or datasets by name. Streams are checked as they are read.
        collator (`Any`): The collator.

    Raises:
        TypeError: if a query or its id has the wrong type; names the row and the id.
        ValueError: if the columns do not match the collator, a query is blank, or an id is invalid.
    """
    for full_name, dataset in named_datasets(name, given):
        check_columns(full_name, dataset, collator)
        for row, (query_id, query) in enumerate(_queries(dataset)):
            location = f"row {row} of {full_name}"
            as_query(query, as_id(query_id, "query", location), location)


def named_datasets(name: str, given: Any) -> Iterator[tuple[str, Any]]:
    """A dataset with its name, or each of a dictionary."""
    if isinstance(given, dict):
        yield from ((f"{name}[{key!r}]", dataset) for key, dataset in given.items())
    else:
        yield name, given


def with_tokenised_queries(given: Any, collator: DistillationCollator, args: DistillationTrainingArguments) -> Any:
    """A dataset, or each of a dictionary, with the prompts of its queries (see `with_prompts`), where it has any."""
    if isinstance(given, dict):
        return {name: with_tokenised_queries(dataset, collator, args) for name, dataset in given.items()}
    if not _has_queries(given):
        return given
    progress = not args.disable_tqdm and args.process_index == 0
    return with_prompts(given, collator.identifiers, progress=progress, report=args.process_index == 0)


def queries_to_rank(dataset: Any) -> Any:
    """The queries of a dataset, in a form in which a retriever takes them; none if it holds pairs."""
    if isinstance(dataset, datasets.Dataset):
        return dataset if _has_queries(dataset) else None
    rows = _rows(dataset) if _has_positions(dataset) else dataset
    return {row["query_id"]: row["query"] for row in rows if isinstance(row, Mapping) and "query_id" in row}


def _has_queries(dataset: Any) -> bool:
    return isinstance(dataset, datasets.Dataset) and {"query_id", "query"} <= set(dataset.column_names)


def _queries(dataset: Any) -> Iterator[tuple[Any, Any]]:
    if _has_queries(dataset):
        for batch in dataset.select_columns(["query_id", "query"]).with_format(None).iter(batch_size=10_000):
            yield from zip(batch["query_id"], batch["query"], strict=True)
    elif _has_positions(dataset):
        for row in _rows(dataset):
            if not isinstance(row, Mapping) or "query_id" not in row:
                return
            yield row["query_id"], row.get("query")


def _has_positions(dataset: Any) -> bool:
    """Whether rows are asked for by their numbers, as of a map-style dataset that is not one of `datasets`."""
    return (
        isinstance(dataset, Sized)
        and hasattr(dataset, "__getitem__")
        and not isinstance(dataset, (IterableDataset, datasets.Dataset))
    )


def _rows(dataset: Any) -> Iterator[Any]:
    """The rows of a map-style dataset, which need not raise an IndexError behind the last one, as iterating would."""
    return (dataset[number] for number in range(len(dataset)))


def query_ids_of(dataset: Any) -> list[str] | None:
    """The ids of the queries of a dataset; `None` if it holds none."""
    if not isinstance(dataset, datasets.Dataset) or "query_id" not in dataset.column_names:
        return None
    return [as_id(query_id, "query", "Dataset") for query_id in dataset["query_id"]]
