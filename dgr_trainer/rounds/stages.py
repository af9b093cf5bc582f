"""What a stage that is trained in rounds has to offer: a lesson for each round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from datasets import Dataset

from dgr_trainer.candidates import Candidates
from dgr_trainer.data.queries import queries_mapping
from dgr_trainer.processes import Processes


class Lesson(NamedTuple):
    """What a round trains on.

    Attributes:
        dataset (`datasets.Dataset`): The queries, or pairs.
        collator (`Callable`): Makes batches of them.
        agreement (`float`, *optional*): See [`Round`].
    """

    dataset: Dataset
    collator: Callable[..., Any]
    agreement: float | None


class Stage(Protocol):
    """What is trained in rounds: makes lessons of candidates.

    Attributes:
        name (`str`): `"distillation"` or `"generation"`.
        step (`str`): What making a lesson is called in [`Round`].
        scores (`bool`): Whether a teacher scores the candidates.
    """

    name: str
    step: str
    scores: bool

    def call(self) -> dict[str, Any]:
        """What the lessons depend on besides the candidates, in JSON types."""
        ...

    def lesson(
        self, folder: Path, candidates: Candidates, number: int, processes: Processes | None, progress: bool
    ) -> Lesson:
        """The lesson of a round, whose files are in a folder. Every process calls this."""
        ...


def seed_of(seed: int, number: int) -> int:
    """The seed of a round; that of the first one is the seed that was given."""
    return (seed + number - 1) % 2**32


def as_dataset(queries: Dataset | Mapping[str, str]) -> Dataset:
    """Training queries as the trainer takes them."""
    if isinstance(queries, Dataset):
        return queries
    texts = queries_mapping(queries)
    return Dataset.from_dict({"query_id": list(texts), "query": list(texts.values())})
