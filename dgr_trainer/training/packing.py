"""Packing: many identifiers of one prompt in one decoder row, so that its encoding is made once and nothing is padded.

A row holds identifiers one after another, each a segment of its own. In each segment the decoder reads the start token
and then the identifier's tokens but the last, at positions that begin at 0 again, and sees only its own segment (see
`scoring`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

IGNORED = -100  # Label of a cell without a token, as everywhere in transformers.
NO_SEGMENT = -1


class PackedRows(NamedTuple):
    """
    Decoder rows of a batch. Every query has the same number of rows, some of them empty.

    Args:
        labels (`np.ndarray` of shape `(B, R, T)`, int64): Tokens to predict; -100 where there is none.
        segments (`np.ndarray` of shape `(B, R, T)`, int64):
            Number of the identifier in its query's list that the token belongs to; -1 where there is none.
        positions (`np.ndarray` of shape `(B, R, T)`, int64): Position of the token inside its identifier, from 0.
        row_prompts (`np.ndarray` of shape `(B, R)`, int64): Number of the prompt that a row answers; 0 for empty rows.
    """

    labels: np.ndarray
    segments: np.ndarray
    positions: np.ndarray
    row_prompts: np.ndarray


def pack_identifiers(
    identifiers: Sequence[Sequence[Sequence[int]]], prompts: Sequence[Sequence[int]], max_row_tokens: int
) -> PackedRows:
    """
    Pack the identifiers of each query of a batch into as few rows as fit, none with identifiers of two prompts.

    Args:
        identifiers (`Sequence[Sequence[Sequence[int]]]`): Token ids of each identifier of each query.
        prompts (`Sequence[Sequence[int]]`): Number of the prompt (the view) of each identifier of each query.
        max_row_tokens (`int`):
            Longest row. An identifier that is longer gets a row for itself. Self-attention grows with the square of
            the row, the share of padding with its length.

    Raises:
        `ValueError`: if an identifier has no tokens or `max_row_tokens` is not positive.
    """
    if max_row_tokens < 1:
        raise ValueError(f"max_row_tokens={max_row_tokens} must be at least 1.")
    rows = [_rows_of(*query, max_row_tokens) for query in zip(identifiers, prompts, strict=True)]
    num_rows = max([1, *map(len, rows)])
    width = max([1, *(sum(len(ids[k]) for k in row) for ids, of in zip(identifiers, rows, strict=True) for row in of)])
    shape = (len(rows), num_rows, width)
    packed = PackedRows(
        np.full(shape, IGNORED, np.int64),
        np.full(shape, NO_SEGMENT, np.int64),
        np.zeros(shape, np.int64),
        np.zeros(shape[:2], np.int64),
    )
    for b, (ids, numbers, of) in enumerate(zip(identifiers, prompts, rows, strict=True)):
        for r, row in enumerate(of):
            lengths = np.array([len(ids[k]) for k in row])
            ends = np.cumsum(lengths)
            size = ends[-1]
            packed.labels[b, r, :size] = np.concatenate([np.asarray(ids[k], np.int64) for k in row])
            packed.segments[b, r, :size] = np.repeat(row, lengths)
            packed.positions[b, r, :size] = np.arange(size) - np.repeat(ends - lengths, lengths)
            packed.row_prompts[b, r] = numbers[row[0]]
    return packed


def _rows_of(ids: Sequence[Sequence[int]], prompts: Sequence[int], max_row_tokens: int) -> list[list[int]]:
    """Numbers of the identifiers in each row of a query: first fit, longest first."""
    if not all(len(one) for one in ids):
        raise ValueError("An identifier has no tokens, so there is nothing to score. Leave empty identifiers out.")
    rows: list[list[int]] = []
    for prompt in sorted(set(prompts)):
        own: list[list[int]] = []
        room: list[int] = []
        members = sorted((k for k, number in enumerate(prompts) if number == prompt), key=lambda k: -len(ids[k]))
        for k in members:
            length = len(ids[k])
            fitting = next((r for r, free in enumerate(room) if free >= length), None)
            if fitting is None:
                own.append([])
                room.append(max_row_tokens)
                fitting = len(own) - 1
            own[fitting].append(k)
            room[fitting] -= length
        rows += own
    return rows
