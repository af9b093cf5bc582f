"""Leaves a query's own text out of the index: the pseudo-queries that have the same tokens as the query.

Training queries usually are pseudo-queries of their relevant passages, and so is what a search for them would find
first, by a text that no other query has.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex


def own_texts(index: FMIndex, identifiers: Identifiers, queries: Sequence[str]) -> list[dict[int, np.ndarray]]:
    """The passages that have a query as a pseudo-query, without it.

    Args:
        index ([`FMIndex`]): Index of the corpus.
        identifiers ([`Identifiers`]): Tokenises queries as pseudo-queries were.
        queries (`Sequence[str]`): The queries.

    Returns:
        `list[dict[int, np.ndarray]]`: for each query, the positions of these passages and their other tokens.
    """
    texts: list[dict[int, np.ndarray]] = [{} for _ in queries]
    if "pseudo_query" not in identifiers.views:
        return texts
    encoded = identifiers.encode_substrings(queries)
    asked = [number for number, ids in enumerate(encoded) if ids]
    patterns = [
        identifiers.pattern("pseudo_query", identifiers.target("pseudo_query", encoded[number])) for number in asked
    ]
    ranges = index.find_batch(patterns) if patterns else index.empty(0)
    which, positions, _ = index.locate_batch(ranges, [len(pattern) for pattern in patterns])
    for number, position in zip(np.array(asked, np.int64)[which].tolist(), positions.tolist(), strict=True):
        if position not in texts[number]:
            tokens = without_pseudo_query(index.extract(position).tolist(), encoded[number], identifiers)
            texts[number][position] = np.array(tokens, np.int64)
    return texts


def without_pseudo_query(passage: list[int], query: Sequence[int], identifiers: Identifiers) -> list[int]:
    """The tokens of a passage without its pseudo-queries that have the given tokens, and without their markers."""
    start, end = identifiers.prefix("pseudo_query"), identifiers.end("pseudo_query")
    position = 0
    if "title" in identifiers.views:
        title_end = identifiers.end("title")
        position = _place(passage, title_end, 0) + len(title_end)
    position = _place(passage, start, position)
    kept = passage[:position]
    while tuple(passage[position : position + len(start)]) == start:
        close = _place(passage, end, position + len(start))
        if passage[position + len(start) : close] != list(query):
            kept += passage[position : close + len(end)]
        position = close + len(end)
    return kept + passage[position:]


def _place(tokens: Sequence[int], marker: tuple[int, ...], start: int) -> int:
    """Where a marker occurs first from `start` on; the end of the tokens if it does not."""
    for position in range(start, len(tokens) - len(marker) + 1):
        if tuple(tokens[position : position + len(marker)]) == marker:
            return position
    return len(tokens)
