"""Parts of queries by a hash of their ids, for stages that should not see the same queries."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dgr_trainer.data.ids import as_id
from dgr_trainer.data.queries import queries_mapping
from dgr_trainer.errors import DGRValueError

if TYPE_CHECKING:
    from datasets import Dataset


def split_queries(
    queries: Dataset | Mapping[str, str], parts: int = 2, *, seed: int = 0
) -> list[Dataset] | list[dict[str, str]]:
    """Divide queries into parts of about equal size.

    Which part a query is in depends on its id, the number of parts and the seed alone: not on the other queries, their
    order or their text. So a part is the same in every run and program, and queries that are added move no other one.

    A student that was trained to generate the passages of some queries ranks these queries better than others. Train
    the generation stage on one part and find candidates for the other, or do so both ways (cross-fitting).

    Args:
        queries (`datasets.Dataset` with columns `query_id` and `query`, or `Mapping[str, str]`): The queries.
        parts (`int`, defaults to 2): Number of parts.
        seed (`int`, defaults to 0): Another seed gives other parts.

    Returns:
        `list[Dataset]` or `list[dict[str, str]]`: the parts, datasets of a dataset, each in the order of the queries.

    Raises:
        ValueError: if there are fewer than 2 parts, or a part has no query.

    Example:

    ```python
    >>> from dgr_trainer import split_queries
    >>> [list(part) for part in split_queries({"q1": "a river", "q2": "a town", "q3": "a mountain", "q4": "a lake"})]
    [['q1', 'q4'], ['q2', 'q3']]

    ```
    """
    if parts < 2:
        raise DGRValueError(f"parts={parts}: queries are divided into 2 parts or more.")
    texts = queries_mapping(queries)
    in_part = {query_id: _part(query_id, parts, seed) for query_id in texts}
    empty = sorted(set(range(parts)) - set(in_part.values()))
    if empty:
        raise DGRValueError(
            f"{len(texts)} queries are too few for {parts} parts: part {empty[0] + 1} has none. Make fewer parts, or "
            "try another seed."
        )
    from datasets import Dataset

    if isinstance(queries, Dataset):
        numbers = [in_part[as_id(query_id, "query", "Queries")] for query_id in queries["query_id"]]
        return [queries.select([row for row, number in enumerate(numbers) if number == part]) for part in range(parts)]
    return [{query_id: text for query_id, text in texts.items() if in_part[query_id] == part} for part in range(parts)]


def _part(query_id: str, parts: int, seed: int) -> int:
    digest = hashlib.blake2b(f"{seed} {query_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % parts
