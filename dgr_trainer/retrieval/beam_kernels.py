"""Compiled kernels of a beam search: the best tokens of a row, the best children of a query, whose child one is."""

from __future__ import annotations

import numpy as np

from dgr_trainer.index.compilation import compiled

# Scores that are looked at together: most blocks hold none that is good enough, which takes no branch a score to see.
_BLOCK = 256


def match_prefixes(
    ids: np.ndarray, prefixes: np.ndarray, groups: int, usable: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find which row each longer row grew from.

    Args:
        ids (`np.ndarray` of int64, shape `(groups * m, length)`): Rows.
        prefixes (`np.ndarray` of int64, shape `(groups * n, length - 1)`): Rows of the step before.
        groups (`int`): Queries; rows of one query stand together and match among themselves.
        usable (`np.ndarray` of bool, shape `(groups * n,)`): Rows of the step before that may be chosen.

    Returns:
        `tuple`: (the first usable row that matches, int64 of shape `(groups * m,)`, any row where there is none;
        whether there is one, bool).
    """
    rows = np.empty(len(ids), np.int64)
    found = np.empty(len(ids), np.bool_)
    _match_prefixes(np.ascontiguousarray(ids), np.ascontiguousarray(prefixes), groups, usable, rows, found)
    return rows, found


@compiled
def _match_prefixes(ids, prefixes, groups, usable, rows, found):  # type: ignore[no-untyped-def]
    num_children, num_parents = len(ids) // groups, len(prefixes) // groups
    length = prefixes.shape[1]
    for child in range(len(ids)):
        first = child // num_children * num_parents
        rows[child], found[child] = first, False
        for parent in range(first, first + num_parents):
            if not usable[parent]:
                continue
            place = length - 1
            while place >= 0 and ids[child, place] == prefixes[parent, place]:
                place -= 1
            if place < 0:
                rows[child], found[child] = parent, True
                break


@compiled
def best_tokens(scores, rows, allowed, number):  # type: ignore[no-untyped-def]
    """The best allowed tokens of rows of scores.

    Args:
        scores (`np.ndarray` of float32, shape `(n, vocabulary)`): The scores; none is NaN.
        rows (`np.ndarray` of int64): The rows to look at.
        allowed (`np.ndarray` of bool): Tokens to choose from, at least `number` of them. It may be shorter than a row.
        number (`int`): Tokens of each row.

    Returns:
        `np.ndarray` of int64, shape `(len(rows), number)`: best first; of equal ones the smaller first.
    """
    best = np.empty((len(rows), number), np.int64)
    # A heap whose first entry is the worst of the best; -token settles ties.
    values, tokens = np.empty(number, np.float32), np.empty(number, np.int64)
    size = len(allowed)
    for place in range(len(rows)):
        row = scores[rows[place], :size]
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
            best[place, last] = tokens[0]
            value, token = values[last], tokens[last]
            node = _sink(values, tokens, last, value, token)
            values[node], tokens[node] = value, token
    return best


@compiled
def best_children(groups, values, codes, num_groups, number):  # type: ignore[no-untyped-def]
    """The best children of each group.

    Args:
        groups (`np.ndarray` of int64, shape `(n,)`): The group of each child.
        values (`np.ndarray` of float32, shape `(n,)`): Their scores.
        codes (`np.ndarray` of int64, shape `(n,)`): What tells them apart; of equal scores the smaller is the better.
        num_groups (`int`): Groups.
        number (`int`): Children of each group to choose.

    Returns:
        `np.ndarray` of int64: places of the chosen children; group by group, best first.
    """
    best, tied = np.empty((num_groups, number), np.float32), np.empty((num_groups, number), np.int64)
    used = np.zeros(num_groups, np.int64)
    order = np.argsort(codes)  # So that equal scores are settled by the place in this order.
    for place in range(len(order)):
        group, value = groups[order[place]], values[order[place]]
        if used[group] < number:
            node = used[group]
            used[group] += 1
            while node > 0:
                parent = (node - 1) // 2
                if not _worse(value, place, best[group, parent], tied[group, parent]):
                    break
                best[group, node], tied[group, node] = best[group, parent], tied[group, parent]
                node = parent
        elif value > best[group, 0]:
            node = _sink(best[group], tied[group], number, value, place)
        else:
            continue
        best[group, node], tied[group, node] = value, place
    chosen = np.empty(used.sum(), np.int64)
    done = 0
    for group in range(num_groups):
        for last in range(used[group] - 1, -1, -1):
            chosen[done + last] = order[tied[group, 0]]
            value, place = best[group, last], tied[group, last]
            node = _sink(best[group], tied[group], last, value, place)
            best[group, node], tied[group, node] = value, place
        done += used[group]
    return chosen


@compiled
def _worse(value, token, other_value, other_token):  # type: ignore[no-untyped-def]
    return value < other_value or (value == other_value and token > other_token)


@compiled
def _sink(values, tokens, used, value, token):  # type: ignore[no-untyped-def]
    """Where an entry belongs that replaces the first of a heap, after the better part of the heap moved up."""
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
