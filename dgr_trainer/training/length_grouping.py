"""Sampling that groups queries, or pairs, of similar length, so that batches have little padding."""

from collections.abc import Callable, Iterator, Mapping, Sized
from typing import Any

import datasets
import torch
from transformers.trainer_pt_utils import LengthGroupedSampler

from dgr_trainer.errors import DGRValueError
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.training.prompts import COLUMN as PROMPTS

_CHUNK = 1000


class GroupedByLength(LengthGroupedSampler):
    """The sampler of transformers, with an order that depends on the seed and the epoch alone.

    So all processes, and a run that is resumed in the middle of an epoch, have the same one.

    Args:
        batch_size (`int`): Rows in a batch.
        lengths (`list[int]`): Length of each row.
        seed (`int`): Seed of the order.
        epoch (`Callable[[], int]`): Returns the epoch that begins.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int, epoch: Callable[[], int]) -> None:
        super().__init__(batch_size, lengths=lengths)
        self._seed = seed
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self._seed + self._epoch())
        yield from super().__iter__()  # type: ignore[no-untyped-call]


def row_lengths(dataset: Any, identifiers: Identifiers | None, length_column: str) -> list[int] | None:
    """Lengths of the rows of a dataset: of the column that has them, or of the prompts, or of the inputs of pairs.

    Args:
        dataset (`Any`): Queries or pairs, a `datasets.Dataset` or another one with a length.
        identifiers ([`Identifiers`], *optional*): The student's tokenizer and prompts, for queries.
        length_column (`str`): Column of lengths, used if the dataset has it.

    Returns:
        `list[int]`: The length of each row; `None` if it cannot be told.

    Raises:
        ValueError: if the column holds something that is no length.
    """
    if not isinstance(dataset, Sized) or not len(dataset):
        return None
    columns = set(dataset.column_names if isinstance(dataset, datasets.Dataset) else _columns(dataset[0]))  # type: ignore[index]
    if length_column in columns:
        return [_length(value, row, length_column) for row, value in enumerate(_values(dataset, length_column))]
    if PROMPTS in columns:
        return [max(map(len, prompts)) for prompts in _values(dataset, PROMPTS)]
    if "query" in columns and identifiers is not None:
        return _prompt_lengths([*_values(dataset, "query")], identifiers)
    if "input_ids" in columns:
        return [len(ids) for ids in _values(dataset, "input_ids")]
    return None


def _columns(row: Any) -> set[str]:
    return set(row) if isinstance(row, Mapping) else set()


def _values(dataset: Any, column: str) -> Iterator[Any]:
    if not isinstance(dataset, datasets.Dataset):
        yield from (dataset[row][column] for row in range(len(dataset)))
        return
    for batch in dataset.select_columns([column]).with_format(None).iter(batch_size=_CHUNK):
        yield from batch[column]


def _length(value: Any, row: int, column: str) -> int:
    number = getattr(value, "item", lambda: value)()
    if isinstance(number, bool) or not isinstance(number, int):
        raise DGRValueError(
            f"Row {row} of the training dataset has {value!r} in the column {column!r}, which is no length. Give "
            "integers, or another name as length_column_name; without the column the lengths are those of the prompts."
        )
    return number


def _prompt_lengths(queries: list[str], identifiers: Identifiers) -> list[int]:
    lengths: list[int] = []
    for start in range(0, len(queries), _CHUNK):
        by_view = [identifiers.encode_prompts(queries[start : start + _CHUNK], view) for view in identifiers.views]
        lengths += [max(map(len, prompts)) for prompts in zip(*by_view, strict=True)]
    return lengths
