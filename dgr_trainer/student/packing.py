"""Packs the identifiers of a batch into few decoder rows of equal length, with shared prefixes and little padding.

A row holds the prefix tree of identifiers of one query under one prompt (see `prefix_trees`). The decoder computes a
state for each prefix, which attends only to the prefixes that it begins with (see `likelihoods`); the state of a
prefix gives the log-probabilities of all tokens that follow it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dgr_trainer.errors import DGRValueError
from dgr_trainer.student.prefix_trees import joined_tokens, prefix_tree, shared_lengths

IGNORED = -100  # Label of a cell without a token, as in transformers.
NO_SEGMENT = -1
# The cost of a row besides its prefixes, in prefixes: keys and values of the prompt are computed for each row.
_ROW_COST = 4
_LENGTHS_TRIED = 16


class PackedIdentifiers(NamedTuple):
    """What a batch of B queries has to score: R * B decoder rows of N prefixes, and C tokens per query.

    Rows and scored prefixes are spread evenly over the first dimension and may belong to any query. So every tensor of
    a batch has one entry per query, there is hardly any padding, and shapes are known without asking the device.

    Args:
        prefix_tokens (`np.ndarray` of shape `(B, R, N)`, int64):
            Last token of each prefix; -1 for the empty prefix, which is just the start token, and for padding.
        prefix_depths (`np.ndarray` of shape `(B, R, N)`, int64): Length of each prefix, which is its decoder position.
        prefix_ends (`np.ndarray` of shape `(B, R, N)`, int64):
            The index in its row after the last prefix that begins with this one. For padding, the next index.
        row_prompts (`np.ndarray` of shape `(B, R)`, int64): Prompt of each row: query * prompts per query + number.
        scored_prefixes (`np.ndarray` of shape `(B, S)`, int64):
            Indices, in the flattened rows, of the prefixes that a token follows.
        labels (`np.ndarray` of shape `(B, C)`, int64): Tokens of the query's identifiers; -100 for padding.
        segments (`np.ndarray` of shape `(B, C)`, int64):
            Number, in its query's list, of the identifier that the token belongs to; -1 for padding.
        label_prefixes (`np.ndarray` of shape `(B, C)`, int64):
            Index, in the flattened `scored_prefixes`, of the prefix that the token follows.
    """

    prefix_tokens: np.ndarray
    prefix_depths: np.ndarray
    prefix_ends: np.ndarray
    row_prompts: np.ndarray
    scored_prefixes: np.ndarray
    labels: np.ndarray
    segments: np.ndarray
    label_prefixes: np.ndarray


class _Group(NamedTuple):
    """Identifiers of one query under one prompt, sorted."""

    query: int
    prompt: int
    numbers: list[int]
    ids: list[Sequence[int]]
    lengths: list[int]
    added: list[tuple[int, int]]  # Identifiers that add prefixes to those before, and how many they add.


def pack_identifiers(
    identifiers: Sequence[Sequence[Sequence[int]]],
    prompts: Sequence[Sequence[int]],
    num_prompts: int,
    max_row_tokens: int,
) -> PackedIdentifiers:
    """Pack the identifiers of a batch; a row holds identifiers of one query and one prompt only.

    Args:
        identifiers (`Sequence[Sequence[Sequence[int]]]`): Token ids of each identifier of each query.
        prompts (`Sequence[Sequence[int]]`): Number of the prompt (the view) of each identifier of each query.
        num_prompts (`int`): Number of prompts per query.
        max_row_tokens (`int`):
            Longest row, in prefixes. A longer identifier gets a row for itself. Rows are shorter if that needs less
            padding.

    Returns:
        [`PackedIdentifiers`]: the packed batch; one without identifiers has rows of padding, so that all processes
        run the model.

    Raises:
        ValueError: if an identifier has no tokens or `max_row_tokens` is not positive.
    """
    if max_row_tokens < 1:
        raise DGRValueError(f"max_row_tokens is {max_row_tokens}, but it must be at least 1.")
    groups = [
        group
        for query, (ids, numbers) in enumerate(zip(identifiers, prompts, strict=True))
        for group in _groups(query, ids, numbers)
    ]
    num_queries = len(identifiers)
    rows = _choose_rows(groups, num_queries, max_row_tokens)
    trees = [prefix_tree(group.ids[slice(*row)]) for group, row in rows]

    num_rows = max(1, -(-len(rows) // num_queries))
    shape = (num_queries * num_rows, max([1, *(len(tree.tokens) for tree in trees)]))
    tokens, depths = np.full(shape, -1, np.int64), np.zeros(shape, np.int64)
    ends = np.broadcast_to(np.arange(1, shape[1] + 1), shape).copy()
    row_prompts = np.zeros(shape[0], np.int64)
    # For each query, the labels, identifier numbers and prefixes of each of its rows.
    cells: list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = [[] for _ in range(num_queries)]
    scored = []
    num_scored = 0
    for r, ((group, row), tree) in enumerate(zip(rows, trees, strict=True)):
        size = len(tree.tokens)
        tokens[r, :size], depths[r, :size], ends[r, :size] = tree.tokens, tree.depths, tree.ends
        row_prompts[r] = group.query * num_prompts + group.prompt
        lengths = group.lengths[slice(*row)]
        row_labels = joined_tokens(group.ids[slice(*row)])
        row_numbers = np.repeat(group.numbers[slice(*row)], lengths)
        cells[group.query].append((row_labels, row_numbers, num_scored + tree.prefixes))
        scored.append(r * shape[1] + np.arange(size))
        num_scored += size
    scored_prefixes = np.zeros(num_queries * max(1, -(-num_scored // num_queries)), np.int64)
    scored_prefixes[:num_scored] = np.concatenate([*scored, np.zeros(0, np.int64)])
    labels, segments, sources = (
        _padded_cells(cells, part, fill) for part, fill in enumerate((IGNORED, NO_SEGMENT, 0))
    )
    return PackedIdentifiers(
        prefix_tokens=tokens.reshape(num_queries, num_rows, -1),
        prefix_depths=depths.reshape(num_queries, num_rows, -1),
        prefix_ends=ends.reshape(num_queries, num_rows, -1),
        row_prompts=row_prompts.reshape(num_queries, num_rows),
        scored_prefixes=scored_prefixes.reshape(num_queries, -1),
        labels=labels,
        segments=segments,
        label_prefixes=sources,
    )


def _groups(query: int, identifiers: Sequence[Sequence[int]], prompts: Sequence[int]) -> list[_Group]:
    if not all(len(ids) for ids in identifiers):
        raise DGRValueError("An identifier has no tokens, so there is nothing to score. Leave out empty identifiers.")
    groups = []
    for prompt in sorted(set(prompts)):
        ordered = sorted((tuple(identifiers[k]), k) for k, number in enumerate(prompts) if number == prompt)
        ids: list[Sequence[int]] = [identifier for identifier, _ in ordered]
        lengths = [len(identifier) for identifier in ids]
        added = (np.array(lengths) - 1 - shared_lengths(ids)).tolist()
        changes = [(i, number) for i, number in enumerate(added) if number and i]
        groups.append(_Group(query, prompt, [k for _, k in ordered], ids, lengths, changes))
    return groups


def _choose_rows(
    groups: Sequence[_Group], num_queries: int, max_row_tokens: int
) -> list[tuple[_Group, tuple[int, int]]]:
    """The group and the identifiers [start, stop) of it that each row holds, for the cheapest length of rows."""
    if not groups:
        return []
    least = min(max(max(group.lengths) for group in groups), max_row_tokens)
    most = min(max(group.lengths[0] + sum(number for _, number in group.added) for group in groups), max_row_tokens)
    best: list[tuple[_Group, tuple[int, int]]] = []
    least_cost = float("inf")
    for limit in sorted(set(np.geomspace(least, most, _LENGTHS_TRIED).round().astype(int).tolist()), reverse=True):
        rows, longest = [], 0
        for group in groups:
            for start, end, size in _split(group, limit):
                rows.append((group, (start, end)))
                longest = max(longest, size)
        cost = -(-len(rows) // num_queries) * num_queries * (longest + _ROW_COST)  # All queries get equally many rows.
        if cost < least_cost:
            best, least_cost = rows, cost
    return best


def _split(group: _Group, limit: int) -> list[tuple[int, int, int]]:
    """Split a group into rows of up to `limit` prefixes: first identifier, identifier after the last, and size."""
    rows = []
    start, size = 0, group.lengths[0]
    for i, added in group.added:
        if size + added > limit:
            rows.append((start, i, size))
            start, size = i, group.lengths[i]
        else:
            size += added
    return [*rows, (start, len(group.lengths), size)]


def _padded_cells(cells: Sequence[Sequence[tuple[np.ndarray, ...]]], part: int, fill: int) -> np.ndarray:
    columns = [np.concatenate([np.zeros(0, np.int64), *(row[part] for row in query_rows)]) for query_rows in cells]
    padded = np.full((len(columns), max([1, *map(len, columns)])), fill, np.int64)
    for b, column in enumerate(columns):
        padded[b, : len(column)] = column
    return padded
