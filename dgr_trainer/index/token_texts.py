"""Concatenates the token sequences of passages into texts of limited size, one text per segment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from dgr_trainer.data.ids import check_id_collection
from dgr_trainer.errors import DGRTypeError, DGRValueError
from dgr_trainer.files.progress import kept_moving
from dgr_trainer.index.passage_ids import PackedIds, join_ids, pack_ids

_CHUNK = 4096


class TokenText(NamedTuple):
    """The tokens of consecutive passages in one array.

    Attributes:
        tokens (`np.ndarray` of uint16 or uint32, shape `(num_tokens,)`): the passages, each followed by the separator.
        passage_starts (`np.ndarray` of int64, shape `(num_passages + 1,)`): where each passage starts.
        passage_ids ([`PackedIds`]): the passages' ids.
    """

    tokens: np.ndarray
    passage_starts: np.ndarray
    passage_ids: PackedIds


class TokenPiece(NamedTuple):
    """Consecutive passages of a text.

    Attributes:
        tokens (`np.ndarray` of uint16 or uint32, shape `(num_tokens,)`): the passages, each followed by the separator.
        sizes (`np.ndarray` of int64, shape `(num_passages,)`): how many tokens each has, with the separator.
        passage_ids ([`PackedIds`]): the passages' ids.
    """

    tokens: np.ndarray
    sizes: np.ndarray
    passage_ids: PackedIds


def read_texts(
    sequences: Iterable[Sequence[int] | np.ndarray],
    passage_ids: Iterable[str],
    vocab_size: int,
    separator: int,
    max_tokens: int | None,
    total: int | None,
    progress: bool,
) -> Iterator[TokenText]:
    """Concatenate token sequences, each followed by the separator.

    Args:
        sequences (`Iterable[Sequence[int]]`): the token ids of each passage.
        passage_ids (`Iterable[str]`): the id of each passage, in the same order.
        vocab_size (`int`): number of token ids.
        separator (`int`): the token id to put after each passage.
        max_tokens (`int`, *optional*): most tokens of a text. A passage is never split: one that is longer is a text
            by itself.
        total (`int`, *optional*): number of sequences, for the progress bar.
        progress (`bool`): whether to show a progress bar.

    Yields:
        `TokenText`: the texts in order, none empty.

    Raises:
        TypeError: if a sequence holds anything but integers, or an id is not a string.
        ValueError: if there is no sequence, a token is outside the vocabulary, a sequence holds the separator, an id
            is not valid, or the numbers of ids and sequences differ.
    """
    check_id_collection(passage_ids, "passage_ids")
    pieces = _pieces(sequences, passage_ids, vocab_size, separator)
    return join_pieces(pieces, max_tokens, total, progress)


def _pieces(
    sequences: Iterable[Sequence[int] | np.ndarray], passage_ids: Iterable[str], vocab_size: int, separator: int
) -> Iterator[TokenPiece]:
    iterator, ids = iter(sequences), iter(passage_ids)
    num_read = 0
    while chunk := list(islice(iterator, _CHUNK)):
        chunk_ids = list(islice(ids, len(chunk)))
        piece = token_piece(chunk, chunk_ids, num_read, vocab_size, separator)
        if len(chunk_ids) < len(chunk):
            _raise_unequal(num_read + len(chunk) + sum(1 for _ in iterator), num_read + len(chunk_ids))
        num_read += len(chunk)
        yield piece
    extra = sum(1 for _ in ids)
    if extra:
        _raise_unequal(num_read, num_read + extra)


def token_piece(
    sequences: Sequence[Sequence[int] | np.ndarray], ids: Sequence[str], first: int, vocab_size: int, separator: int
) -> TokenPiece:
    """Concatenate a few token sequences, each followed by the separator.

    Args:
        sequences (`Sequence[Sequence[int]]`): the token ids of each passage; at least one.
        ids (`Sequence[str]`): the id of each passage.
        first (`int`): number of the first passage, for errors.
        vocab_size (`int`): number of token ids.
        separator (`int`): the token id to put after each passage.

    Raises:
        TypeError, ValueError: as in `read_texts`.
    """
    lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
    tokens = _flat(sequences) if lengths.any() else np.empty(0, np.int64)
    _check_tokens(tokens, lengths, first, ids, vocab_size, separator)
    ends = np.cumsum(lengths + 1) - 1
    text = np.empty(len(tokens) + len(sequences), np.uint16 if vocab_size <= 1 << 16 else np.uint32)
    is_token = np.ones(len(text), bool)
    is_token[ends] = False
    text[is_token] = tokens
    text[ends] = separator
    return TokenPiece(text, lengths + 1, pack_ids(ids))


def join_pieces(
    pieces: Iterable[TokenPiece], max_tokens: int | None, total: int | None, progress: bool
) -> Iterator[TokenText]:
    """Join pieces to texts of limited size.

    Args:
        pieces (`Iterable[TokenPiece]`): consecutive passages; read as far as the texts need them.
        max_tokens (`int`, *optional*): most tokens of a text, as in `read_texts`.
        total (`int`, *optional*): number of passages, for the progress bar.
        progress (`bool`): whether to show a progress bar.

    Yields:
        `TokenText`: the texts in order, none empty.

    Raises:
        ValueError: if there is no passage.
    """
    pending: list[TokenPiece] = []  # Passages of the next text.
    num_pending = 0

    with tqdm(total=total, desc="Reading passages", unit=" passages", disable=not progress) as bar:
        for piece in pieces:
            ends = np.cumsum(piece.sizes)
            bar.update(len(ends))
            # Split the piece before each passage that would make the text too long.
            first, start = 0, 0
            for number, end in enumerate(ends.tolist() if max_tokens is not None else ()):
                if num_pending + end - start > max_tokens and (num_pending or number > first):
                    before = int(ends[number - 1]) if number else 0
                    pending.append(_part(piece, first, number, start, before))
                    num_pending += before - start
                    with kept_moving(bar, f"indexing {num_pending:,} tokens"):
                        yield _joined_text(pending)
                    num_pending = 0
                    first, start = number, before
            pending.append(_part(piece, first, len(ends), start, len(piece.tokens)))
            num_pending += len(piece.tokens) - start
        if not pending:
            raise DGRValueError("The corpus is empty: there is no passage to index. Give at least one token sequence.")
        with kept_moving(bar, f"indexing {num_pending:,} tokens"):
            yield _joined_text(pending)


def _part(piece: TokenPiece, first: int, last: int, start: int, end: int) -> TokenPiece:
    """The passages of a piece from one to another, whose tokens are from `start` to `end`."""
    return TokenPiece(piece.tokens[start:end], piece.sizes[first:last], piece.passage_ids.part(first, last))


def _flat(sequences: Sequence[Sequence[int] | np.ndarray]) -> np.ndarray:
    """The tokens of all sequences in one array."""
    if all(isinstance(sequence, np.ndarray) for sequence in sequences):
        return np.concatenate([sequence for sequence in sequences if len(sequence)])
    return np.array(list(chain.from_iterable(sequences)))


def _joined_text(pieces: list[TokenPiece]) -> TokenText:
    """The text of all pieces; they are removed from the list, so that no piece outlives its text."""
    starts = np.concatenate([[0], np.cumsum(np.concatenate([piece.sizes for piece in pieces]))])
    ids = join_ids([piece.passage_ids for piece in pieces])
    tokens = np.empty(int(starts[-1]), pieces[0].tokens.dtype)
    end = len(tokens)
    while pieces:
        piece = pieces.pop()
        tokens[end - len(piece.tokens) : end] = piece.tokens
        end -= len(piece.tokens)
    return TokenText(tokens, starts, ids)


def _raise_unequal(sequences: int, ids: int) -> None:
    raise DGRValueError(
        f"There are {sequences} sequences but {ids} passage ids. Give one id for each sequence, in the same order."
    )


def _check_tokens(
    tokens: np.ndarray, lengths: np.ndarray, first: int, ids: Sequence[str], vocab_size: int, separator: int
) -> None:
    if tokens.dtype.kind not in "iu":
        raise DGRTypeError(
            f"A sequence among passages {first} to {first + len(lengths) - 1} holds values of type {tokens.dtype}, "
            "but an index is built from token ids. Give sequences of integers, one sequence per passage."
        )

    def passage_of(position: int) -> str:
        number = int(np.searchsorted(np.cumsum(lengths), position, side="right"))
        return f"{first + number} (id {ids[number]!r})" if number < len(ids) else str(first + number)

    outside = np.flatnonzero((tokens < 0) | (tokens >= vocab_size))
    if len(outside):
        raise DGRValueError(
            f"The sequence of passage {passage_of(outside[0])} holds token id {tokens[outside[0]]}, which is outside "
            f"the vocabulary (0 to {vocab_size - 1}). Give len(tokenizer) of the tokenizer that made it."
        )
    separators = np.flatnonzero(tokens == separator)
    if len(separators):
        raise DGRValueError(
            f"The sequence of passage {passage_of(separators[0])} holds the separator (token id {separator}), which "
            "the index puts after each passage itself. Tokenise passages without special tokens, and remove the "
            "separator's text from them."
        )
