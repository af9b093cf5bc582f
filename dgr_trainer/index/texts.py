"""Token sequences of passages, read in parts of limited size and laid out as texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from dgr_trainer.errors import DGRTypeError, DGRValueError

_CHUNK = 4096


class Text(NamedTuple):
    """Passages one after another.

    Attributes:
        tokens (`np.ndarray` of uint16 or uint32, shape `(num_tokens,)`): the passages, each followed by the separator.
        passage_starts (`np.ndarray` of int64, shape `(num_passages + 1,)`): where each passage starts.
        passage_ids (`list[str]`): the passages' ids.
    """

    tokens: np.ndarray
    passage_starts: np.ndarray
    passage_ids: list[str]


def read_texts(
    sequences: Iterable[Sequence[int] | np.ndarray],
    passage_ids: Iterable[str],
    vocab_size: int,
    separator: int,
    most_tokens: int | None,
    total: int | None,
    progress: bool,
) -> Iterator[Text]:
    """Concatenate token sequences, each followed by the separator.

    Args:
        most_tokens (`int`, *optional*): tokens after which a new text is begun (between passages; a passage is never
            divided).

    Yields:
        `Text`: the texts in order, none empty.

    Raises:
        TypeError: if a sequence holds anything but integers.
        ValueError: if there is no sequence, a token is outside the vocabulary, a sequence holds the separator, or
            there are not as many ids as sequences.
    """
    dtype = np.uint16 if vocab_size <= 1 << 16 else np.uint32
    iterator, ids = iter(sequences), iter(passage_ids)
    done, waiting = 0, [(np.empty(0, dtype), np.empty(0, np.int64))]
    names: list[str] = []
    with tqdm(total=total, desc="Reading passages", unit=" passages", disable=not progress) as bar:
        while chunk := list(islice(iterator, _CHUNK)):
            lengths = np.fromiter(map(len, chunk), np.int64, len(chunk))
            tokens = _flat(chunk) if lengths.any() else np.empty(0, np.int64)
            _check_tokens(tokens, lengths, done, vocab_size, separator)
            ends = np.cumsum(lengths + 1) - 1
            text = np.empty(len(tokens) + len(chunk), dtype)
            is_token = np.ones(len(text), bool)
            is_token[ends] = False
            text[is_token] = tokens
            text[ends] = separator
            of_chunk = list(islice(ids, len(chunk)))
            if len(of_chunk) < len(chunk):
                _raise_uneven(done + len(chunk) + sum(1 for _ in iterator), done + len(of_chunk))
            done += len(chunk)
            bar.update(len(chunk))
            sizes, first, start = lengths + 1, 0, 0
            held = sum(len(part) for part, _ in waiting)
            # Cut the chunk wherever another passage would make the text too long.
            for number, end in enumerate((ends + 1).tolist()):
                if most_tokens is not None and held + end - start > most_tokens and (held or number > first):
                    before = int(ends[number - 1]) + 1 if number else 0
                    waiting.append((text[start:before], sizes[first:number]))
                    yield _joined(waiting, names + of_chunk[first:number])
                    waiting, names, held = [], [], 0
                    first, start = number, before
            waiting.append((text[start:], sizes[first:]))
            names += of_chunk[first:]
    extra = sum(1 for _ in ids)
    if extra:
        _raise_uneven(done, done + extra)
    if not done:
        raise DGRValueError("The corpus is empty: there is no passage to index. Give at least one token sequence.")
    yield _joined(waiting, names)


def _flat(sequences: Sequence[Sequence[int] | np.ndarray]) -> np.ndarray:
    """The tokens of sequences, one after another."""
    if all(isinstance(sequence, np.ndarray) for sequence in sequences):
        return np.concatenate([sequence for sequence in sequences if len(sequence)])
    return np.array(list(chain.from_iterable(sequences)))


def _joined(parts: list[tuple[np.ndarray, np.ndarray]], names: list[str]) -> Text:
    starts = np.concatenate([[0], np.cumsum(np.concatenate([sizes for _, sizes in parts]))])
    return Text(np.concatenate([tokens for tokens, _ in parts]), starts, names)


def _raise_uneven(sequences: int, ids: int) -> None:
    raise DGRValueError(
        f"There are {sequences} sequences but {ids} passage ids. Give one id for each sequence, in the same order."
    )


def _check_tokens(tokens: np.ndarray, lengths: np.ndarray, done: int, vocab_size: int, separator: int) -> None:
    if tokens.dtype.kind not in "iu":
        raise DGRTypeError(
            f"A sequence among passages {done} to {done + len(lengths) - 1} holds values of type {tokens.dtype}, but "
            "an index is made of token ids. Give sequences of integers, one sequence a passage."
        )

    def passage_of(position: int) -> int:
        return done + int(np.searchsorted(np.cumsum(lengths), position, side="right"))

    outside = np.flatnonzero((tokens < 0) | (tokens >= vocab_size))
    if len(outside):
        raise DGRValueError(
            f"The sequence of passage {passage_of(outside[0])} holds token id {tokens[outside[0]]}, which is outside "
            f"the vocabulary (0 to {vocab_size - 1}). Give the size of the tokenizer that made it: len(tokenizer)."
        )
    separators = np.flatnonzero(tokens == separator)
    if len(separators):
        raise DGRValueError(
            f"The sequence of passage {passage_of(separators[0])} holds the separator (token id {separator}), which "
            "only the index may put after each passage. Tokenise passages without special tokens, and remove the "
            "separator's text from them."
        )
