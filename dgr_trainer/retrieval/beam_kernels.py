"""Compiled kernels of a beam search: the best tokens of a row, the best children of a query, the parent of a row."""

from __future__ import annotations

import numpy as np

from dgr_trainer.compilation import compiled

# Scores that are compared together: most blocks hold no good score, and checking that takes no branch per score.
_BLOCK = 256


def match_prefixes(
    ids: np.ndarray, prefixes: np.ndarray, groups: int, usable: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find the row of the previous step that each row extends.

    Args:
        ids (`np.ndarray` of int64, shape `(groups * m, length)`): Rows.
        prefixes (`np.ndarray` of int64, shape `(groups * n, length - 1)`): Rows of the previous step.
        groups (`int`): Number of queries. Rows are sorted by query and only match rows of the same query.
        usable (`np.ndarray` of bool, shape `(groups * n,)`): Rows of the previous step that may be chosen.

    Returns:
        `tuple`: (the first usable row that matches, int64 of shape `(groups * m,)`, arbitrary where there is none;
        whether there is one, bool).
    """
    parents = np.empty(len(ids), np.int64)
    has_parent = np.empty(len(ids), np.bool_)
    _match_prefixes(np.ascontiguousarray(ids), np.ascontiguousarray(prefixes), groups, usable, parents, has_parent)
    return parents, has_parent


@compiled
def _match_prefixes(ids, prefixes, groups, usable, parents, has_parent):  # type: ignore[no-untyped-def]
    num_children, num_parents = len(ids) // groups, len(prefixes) // groups
    length = prefixes.shape[1]
    for child in range(len(ids)):
        first = child // num_children * num_parents
        parents[child], has_parent[child] = first, False
        for parent in range(first, first + num_parents):
            if not usable[parent]:
                continue
            column = length - 1
            while column >= 0 and ids[child, column] == prefixes[parent, column]:
                column -= 1
            if column < 0:
                parents[child], has_parent[child] = parent, True
                break


@compiled
def best_tokens(scores, rows, allowed, number):  # type: ignore[no-untyped-def]
    """Choose the best allowed tokens of rows of scores.

    Args:
        scores (`np.ndarray` of float32, shape `(n, vocabulary)`): The scores; none is NaN.
        rows (`np.ndarray` of int64): The rows to search.
        allowed (`np.ndarray` of bool): Tokens to choose from, at least `number` of them. It may be shorter than a row.
        number (`int`): Number of tokens of each row.

    Returns:
        `np.ndarray` of int64, shape `(len(rows), number)`: tokens, best first; of equal ones the smaller first.
    """
    best = np.empty((len(rows), number), np.int64)
    # A heap whose first entry is the worst of the best; of equal scores, the larger token is the worse.
    values, tokens = np.empty(number, np.float32), np.empty(number, np.int64)
    size = len(allowed)
    for number_in_rows in range(len(rows)):
        row = scores[rows[number_in_rows], :size]
        used = 0
        for start in range(0, size, _BLOCK):
            stop = min(start + _BLOCK, size)
            if used == number:
                worst = values[0]
                better = 0
                for token in range(start, stop):
                    better += row[token] > worst
                if better == 0:
                    continue
            for token in range(start, stop):
                if not allowed[token] or (used == number and row[token] <= values[0]):
                    continue
                if used < number:
                    used += 1
                    node = used - 1
                    while node > 0:
                        parent = (node - 1) // 2
                        if not _worse(row[token], token, values[parent], tokens[parent]):
                            break
                        values[node], tokens[node] = values[parent], tokens[parent]
                        node = parent
                else:
                    node = _sink(values, tokens, used, row[token], token)
                values[node], tokens[node] = row[token], token
        for last in range(used - 1, -1, -1):
            best[number_in_rows, last] = tokens[0]
            value, token = values[last], tokens[last]
            node = _sink(values, tokens, last, value, token)
            values[node], tokens[node] = value, token
    return best


@compiled
def best_children(groups, values, codes, num_groups, number):  # type: ignore[no-untyped-def]
    """Choose the best children of each group.

    Args:
        groups (`np.ndarray` of int64, shape `(n,)`): The group of each child.
        values (`np.ndarray` of float32, shape `(n,)`): The scores of the children.
        codes (`np.ndarray` of int64, shape `(n,)`): Distinct numbers; of equal scores, the smaller code is the better.
        num_groups (`int`): Number of groups.
        number (`int`): Number of children of each group to choose.

    Returns:
        `np.ndarray` of int64: indices of the chosen children, group by group, best first.
    """
    best, tied = np.empty((num_groups, number), np.float32), np.empty((num_groups, number), np.int64)
    used = np.zeros(num_groups, np.int64)
    order = np.argsort(codes)  # Of equal scores, the first in this order is the best.
    for rank in range(len(order)):
        group, value = groups[order[rank]], values[order[rank]]
        if used[group] < number:
            node = used[group]
            used[group] += 1
            while node > 0:
                parent = (node - 1) // 2
                if not _worse(value, rank, best[group, parent], tied[group, parent]):
                    break
                best[group, node], tied[group, node] = best[group, parent], tied[group, parent]
                node = parent
        elif value > best[group, 0]:
            node = _sink(best[group], tied[group], number, value, rank)
        else:
            continue
        best[group, node], tied[group, node] = value, rank
    chosen = np.empty(used.sum(), np.int64)
    done = 0
    for group in range(num_groups):
        for last in range(used[group] - 1, -1, -1):
            chosen[done + last] = order[tied[group, 0]]
            value, rank = best[group, last], tied[group, last]
            node = _sink(best[group], tied[group], last, value, rank)
            best[group, node], tied[group, node] = value, rank
        done += used[group]
    return chosen


@compiled
def _worse(value, token, other_value, other_token):  # type: ignore[no-untyped-def]
    return value < other_value or (value == other_value and token > other_token)


@compiled
def _sink(values, tokens, used, value, token):  # type: ignore[no-untyped-def]
    """Make room for an entry that replaces the first of a heap; returns the node where it belongs."""
    node = 0
    while True:
        child = 2 * node + 1
        if child >= used:
            return node
        if child + 1 < used and _worse(values[child + 1], tokens[child + 1], values[child], tokens[child]):
            child += 1
        if not _worse(values[child], tokens[child], value, token):
            return node
        values[node], tokens[node] = values[child], tokens[child]
        node = child
