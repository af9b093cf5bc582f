"""The rows of an evaluation, numbered, so that each counts once however many processes and batches see it.

Samplers repeat rows until every process has equally many. So evaluation datasets are wrapped in ones that number their
rows, collators in ones that put the numbers into the batch, and terms of the loss are kept by row until the end.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import datasets
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

ROW = "evaluation_row"
"""The column, and the key of the batch, of the row's number."""

_NO_NUMBER, _PADDING = -1, -2


class NumberedRows(Dataset[Any]):
    """A dataset whose rows are numbered.

    Args:
        dataset (`Any`): A dataset with a length, whose rows are mappings.
        source (`Any`, *optional*): The dataset with all of its columns. By default `dataset`.
    """

    def __init__(self, dataset: Any, source: Any = None) -> None:
        self.dataset = dataset
        self.source = dataset if source is None else source

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> Any:
        return _with_number(self.dataset[row], row)

    def __getitems__(self, rows: list[int]) -> list[Any]:
        fetch = getattr(self.dataset, "__getitems__", None)
        values = [self.dataset[row] for row in rows] if fetch is None else fetch(rows)
        return [_with_number(value, row) for row, value in zip(rows, values, strict=True)]


class NumberedStream(IterableDataset[Any]):
    """A stream whose rows are numbered, also where several workers read parts of it.

    Args:
        dataset (`Iterable[Mapping[str, Any]]`): The stream; every process has to read it in the same order.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        first, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for number, row in enumerate(self.dataset):
            yield _with_number(row, number * workers + first)


def numbered(dataset: Any, prune: Callable[..., Any]) -> Any:
    """A dataset with numbered rows.

    Args:
        dataset (`Any`): A stream, or a dataset with a length; `None` stays `None`.
        prune (`Callable`): Removes the columns that no batch needs from a `datasets.Dataset`.
    """
    if dataset is None:
        return None
    if isinstance(dataset, IterableDataset):
        return NumberedStream(dataset)
    if isinstance(dataset, datasets.Dataset):
        return NumberedRows(prune(dataset, description="evaluation"), source=dataset)
    return NumberedRows(dataset)


def _with_number(value: Any, row: int) -> Any:
    """A row with its number; one that is no mapping, which only a collator of one's own can read, has none."""
    return {**value, ROW: row} if isinstance(value, Mapping) else value


class NumberingCollator:
    """Puts the numbers of the rows into the batches of another collator, `(B,)` int64.

    Args:
        collator (`Callable`): The collator, which does not see the numbers.
    """

    def __init__(self, collator: Callable[..., Any]) -> None:
        self.collator = collator

    def __call__(self, features: Sequence[Any]) -> Any:
        """Make a batch."""
        if not all(isinstance(feature, Mapping) and ROW in feature for feature in features):
            return self.collator(features)
        batch = self.collator([{name: value for name, value in row.items() if name != ROW} for row in features])
        return {**batch, ROW: torch.tensor([feature[ROW] for feature in features])}


class RowTerms:
    """Terms of the loss of each row of an evaluation.

    Adding does not synchronise. Reading gathers the rows of all processes, leaves out repeated ones, and averages.

    Args:
        names (`Sequence[str]`): Every name that may be added, the same in all processes.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self.clear()

    def clear(self) -> None:
        """Forget all rows."""
        self._rows: list[Tensor] = []
        self._sums: list[Tensor] = []
        self._counts: list[Tensor] = []
        self._size, self._joined = 0, False

    def add_batch(self, size: int, rows: Tensor | None, device: torch.device) -> None:
        """Begin a batch.

        Args:
            size (`int`): Its number of rows.
            rows (`torch.Tensor` of shape `(size,)`, *optional*): Their numbers. Rows without a number all count.
            device (`torch.device`): Where its terms are computed.
        """
        self._size = size
        if rows is not None and len(rows) != size:  # A collator of one's own made other rows of them.
            rows = None
        if rows is None and self._rows and self._joined:
            return
        # Rows without a number are joined to one, so that memory does not grow with them.
        self._joined = rows is None
        self._rows.append(torch.full((1,), _NO_NUMBER, device=device) if rows is None else rows)
        self._sums.append(torch.zeros(len(self._rows[-1]), len(self._names), device=device))
        self._counts.append(torch.zeros_like(self._sums[-1]))

    def add(self, name: str, values: Tensor) -> None:
        """Add a term of the rows of the batch.

        Args:
            name (`str`): Its name.
            values (`torch.Tensor` of shape `(size,)`, `(size, N)`, or `()` for one value of the whole batch):
                NaN values are left out of the mean.
        """
        values = values.detach().float()
        values = values.expand(self._size, 1) if values.dim() == 0 else values.reshape(self._size, -1)
        sums, counts = values.nansum(-1), (~values.isnan()).sum(-1).float()
        column = self._names.index(name)
        self._sums[-1][:, column] += sums.sum() if self._joined else sums
        self._counts[-1][:, column] += counts.sum() if self._joined else counts

    def averages(self, accelerator: Accelerator) -> dict[str, float]:
        """The averages over the rows of all processes, each once; then the rows are forgotten.

        Every process must call this. Names without values, or with nothing but NaN, are left out.
        """
        device, width = accelerator.device, len(self._names)
        empty = torch.zeros(0, width, device=device)
        rows = torch.cat([*(part.to(device) for part in self._rows), torch.zeros(0, dtype=torch.int64, device=device)])
        values = torch.cat([torch.cat([*self._sums, empty]), torch.cat([*self._counts, empty])], dim=-1)
        self.clear()
        if accelerator.num_processes > 1:
            padded = accelerator.pad_across_processes(rows, pad_index=_PADDING)
            rows = cast(Tensor, accelerator.gather(padded))
            values = cast(Tensor, accelerator.gather(accelerator.pad_across_processes(values)))
        # In double precision and the order of rows, so that the processes make no difference.
        rows, values = rows.cpu(), values.cpu().double()
        order = torch.argsort(rows, stable=True)
        rows, values = rows[order], values[order]
        repeated = torch.zeros(len(rows), dtype=torch.bool)
        repeated[1:] = (rows[1:] == rows[:-1]) & (rows[1:] >= 0)
        kept = ~repeated & (rows != _PADDING)
        sums, counts = values[kept].sum(0).view(2, width).tolist()
        return {name: total / count for name, total, count in zip(self._names, sums, counts, strict=True) if count}
