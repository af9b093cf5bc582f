"""The texts of promising passages: where the hypotheses of a search occur in them, and what comes next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dgr_trainer.compilation import compiled

# Comes after the last passage of a query: no token.
_NOTHING = -1


class PromisingPassages(NamedTuple):
    """The passages that a search looks ahead to, for one query.

    Attributes:
        bonuses (`np.ndarray` of float32, shape `(n,)`): Bonus of a hypothesis that occurs in each.
        indptr (`np.ndarray` of int64, shape `(n + 1,)`): Where the text of each starts.
        tokens (`np.ndarray` of int64): The texts, one after the other.
    """

    bonuses: np.ndarray
    indptr: np.ndarray
    tokens: np.ndarray


class Occurrences(NamedTuple):
    """Where hypotheses occur.

    Attributes:
        indptr (`np.ndarray` of int64, shape `(rows + 1,)`): Where the occurrences of each row start.
        following (`np.ndarray` of int64): Positions of the tokens that follow them.
    """

    indptr: np.ndarray
    following: np.ndarray


class NextTokens(NamedTuple):
    """The distinct tokens that follow hypotheses.

    Attributes:
        rows (`np.ndarray` of int64, shape `(n,)`): The rows, ascending.
        tokens (`np.ndarray` of int64, shape `(n,)`): The tokens.
        bonuses (`np.ndarray` of float32, shape `(n,)`): The highest bonus of a passage with row and token.
    """

    rows: np.ndarray
    tokens: np.ndarray
    bonuses: np.ndarray


class Outlook:
    """The texts of the promising passages of each query of a batch.

    Args:
        passages (`Sequence[PromisingPassages]`): The passages of each query.
        separator (`int`): The token in front of a passage, and after the last one.
        vocab_size (`int`): Number of tokens.
    """

    def __init__(self, passages: Sequence[PromisingPassages], separator: int, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        starts, texts, bonuses = [0], [], []
        for of_passages, indptr, tokens in passages:
            lengths = np.diff(indptr)
            text = np.full(int(indptr[-1]) + len(lengths) + 2, separator, dtype=np.int64)
            text[np.arange(len(tokens)) + np.repeat(np.arange(len(lengths)), lengths) + 1] = tokens
            text[-1] = _NOTHING
            bonus = np.zeros(len(text), dtype=np.float32)
            # The separator after a passage is a part of it: docids end with it.
            bonus[1:-1] = np.repeat(np.asarray(of_passages, dtype=np.float32), lengths + 1)
            starts.append(starts[-1] + len(text))
            texts.append(text)
            bonuses.append(bonus)
        self._starts = starts
        self._text = np.concatenate(texts) if texts else np.zeros(0, dtype=np.int64)
        self._bonuses = np.concatenate(bonuses) if bonuses else np.zeros(0, dtype=np.float32)

    def roots(self, prefix: Sequence[int]) -> Occurrences:
        """Where the prefix of a view occurs: the empty hypothesis of each query."""
        indptr, found = [0], []
        for start, end in zip(self._starts, self._starts[1:], strict=False):
            following = np.arange(start + len(prefix), end)
            for place, token in enumerate(prefix):
                following = following[self._text[following - len(prefix) + place] == token]
            found.append(following)
            indptr.append(indptr[-1] + len(following))
        return Occurrences(np.array(indptr, dtype=np.int64), np.concatenate(found).astype(np.int64))

    def next_tokens(self, occurrences: Occurrences) -> NextTokens:
        """The distinct tokens that follow each row."""
        return NextTokens(*_next_tokens(*occurrences, self._text, self._bonuses, self.vocab_size))

    def extend(self, occurrences: Occurrences, rows: np.ndarray, tokens: np.ndarray) -> Occurrences:
        """Where rows occur once they are extended by one token each (int64, shape `(n,)`)."""
        return Occurrences(*_extended(*occurrences, self._text, rows, tokens))


def with_next_tokens(
    rows: np.ndarray, tokens: np.ndarray, following: NextTokens, num_rows: int, vocab_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offer the tokens that follow rows in promising passages beside other children.

    Args:
        rows (`np.ndarray` of int64, shape `(n,)`): The rows of the children, in any order.
        tokens (`np.ndarray` of int64, shape `(n,)`): Their tokens, each pair once.
        following ([`NextTokens`]): The legal tokens that follow.
        num_rows (`int`): Number of rows.
        vocab_size (`int`): Number of tokens.

    Returns:
        `tuple`: rows, tokens and bonuses (float32) of all children, each once; the bonus is 0 where a child follows in
        no promising passage.
    """
    found: tuple[np.ndarray, np.ndarray, np.ndarray] = _joined(rows, tokens, *following, num_rows, vocab_size)
    return found


@compiled
def _next_tokens(indptr, positions, text, bonuses, vocab_size):  # type: ignore[no-untyped-def]
    place = np.full(vocab_size, -1, np.int64)  # Where a token of the same row is.
    rows, tokens = np.empty(len(positions), np.int64), np.empty(len(positions), np.int64)
    best = np.empty(len(positions), np.float32)
    used = 0
    for row in range(len(indptr) - 1):
        begin = used
        for number in range(indptr[row], indptr[row + 1]):
            token, bonus = text[positions[number]], bonuses[positions[number]]
            if token < 0:
                continue
            if place[token] < begin:
                place[token] = used
                rows[used], tokens[used], best[used] = row, token, bonus
                used += 1
            elif bonus > best[place[token]]:
                best[place[token]] = bonus
    return rows[:used], tokens[:used], best[:used]


@compiled
def _extended(indptr, positions, text, rows, tokens):  # type: ignore[no-untyped-def]
    extended = np.zeros(len(rows) + 1, np.int64)
    size = 0
    for child in range(len(rows)):
        size += indptr[rows[child] + 1] - indptr[rows[child]]
    following = np.empty(size, np.int64)
    used = 0
    for child in range(len(rows)):
        for number in range(indptr[rows[child]], indptr[rows[child] + 1]):
            if text[positions[number]] == tokens[child]:
                following[used] = positions[number] + 1
                used += 1
        extended[child + 1] = used
    return extended, following[:used].copy()


@compiled
def _joined(rows, tokens, more_rows, more_tokens, more_bonuses, num_rows, vocab_size):  # type: ignore[no-untyped-def]
    ends = np.zeros(num_rows + 1, np.int64)
    for row in rows:
        ends[row + 1] += 1
    ends = np.cumsum(ends)
    by_row, used = np.empty(len(rows), np.int64), ends[:-1].copy()
    for child in range(len(rows)):
        by_row[used[rows[child]]] = child
        used[rows[child]] += 1
    size = len(rows) + len(more_rows)
    all_rows, all_tokens, bonuses = np.empty(size, np.int64), np.empty(size, np.int64), np.zeros(size, np.float32)
    place = np.full(vocab_size, -1, np.int64)  # Where a token of the same row is.
    done = first = 0
    for row in range(num_rows):
        begin = done
        for number in range(ends[row], ends[row + 1]):
            token = tokens[by_row[number]]
            place[token] = done
            all_rows[done], all_tokens[done] = row, token
            done += 1
        while first < len(more_rows) and more_rows[first] == row:
            token = more_tokens[first]
            if place[token] < begin:
                all_rows[done], all_tokens[done], bonuses[done] = row, token, more_bonuses[first]
                done += 1
            else:
                bonuses[place[token]] = more_bonuses[first]
            first += 1
    return all_rows[:done], all_tokens[:done], bonuses[:done]
