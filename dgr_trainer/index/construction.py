"""From token sequences to the arrays of an FM-index."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from dgr_trainer.errors import DGRValueError
from dgr_trainer.index.bit_vector import (
    BLOCK_BITS,
    BLOCK_WORDS,
    compiled,
    fetch,
    finish_ranks,
    num_blocks,
    prefetch,
    rank_and_bit,
    set_bit,
)
from dgr_trainer.index.passage_ids import pack_ids
from dgr_trainer.index.passage_order import sorted_suffixes
from dgr_trainer.index.suffix_order import sorted_rotations
from dgr_trainer.index.texts import Text
from dgr_trainer.index.threads import in_threads, number_of_threads
from dgr_trainer.index.wavelet_matrix import build_matrix, huffman_codes, level_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dgr_trainer.data.corpus import Corpus
    from dgr_trainer.identifiers import Identifiers

logger = logging.getLogger(__name__)

SAMPLE_RATE = 16
MAX_VOCAB_SIZE = 1 << 24
# Rows before its turn at which a row's place in the text, or a passage, is asked for.
_AHEAD = 24


@dataclass(frozen=True)
class IndexArrays:
    """The arrays of one segment of an FM-index; all are read-only, and are mapped from files when it was loaded.

    A row stands for a place of the text. Rows are sorted by what leads up to their place, read backwards to the
    separator before the passage.
    """

    blocks: np.ndarray  # uint64: bits of the wavelet matrix over the tokens that follow each row's place
    levels: np.ndarray  # int64 (levels, 8): see wavelet_matrix
    codes: np.ndarray  # uint64 (symbols): codes of the symbols that occur
    symbols: np.ndarray  # int32 (symbols): their token ids
    symbol_of: np.ndarray  # int32 (vocab_size): the symbol of each token id, -1 if it does not occur
    symbol_rows: np.ndarray  # int64 (symbols + 1): first row of each symbol
    marks: np.ndarray  # uint64: bit vector of the rows whose place is kept
    samples: np.ndarray  # uint32 or uint64: these places
    passage_starts: np.ndarray  # int64 (num_passages + 1): where each passage starts in the text
    first_rows: np.ndarray  # uint32 or uint64 (num_passages): the row of each passage's first token
    end_passages: np.ndarray  # uint32 or uint64 (num_passages): the passage of each row of the separator
    id_bytes: np.ndarray  # uint8: the passage ids in UTF-8, one after the other
    id_offsets: np.ndarray  # int64 (num_passages + 1): where each id starts
    id_order: np.ndarray  # int64 (num_passages): the passages in the order of their ids' bytes

    def __post_init__(self) -> None:
        # Kernels are compiled for the types they are called with: read-only arrays only, built or loaded.
        for field in fields(self):
            array = np.ascontiguousarray(getattr(self, field.name))
            array.setflags(write=False)
            object.__setattr__(self, field.name, array)

    @property
    def num_rows(self) -> int:
        """Number of rows: one for each token, separators included."""
        return int(self.symbol_rows[-1])

    @property
    def num_passages(self) -> int:
        """Number of passages."""
        return len(self.first_rows)


def check_vocabulary(vocab_size: int, separator: int) -> None:
    """Refuse a vocabulary that no index can have."""
    if not 1 <= vocab_size <= MAX_VOCAB_SIZE:
        raise DGRValueError(
            f"vocab_size is {vocab_size}, but an index has 1 to {MAX_VOCAB_SIZE} token ids. Give len(tokenizer)."
        )
    if not 0 <= separator < vocab_size:
        raise DGRValueError(
            f"The separator is {separator}, which is outside the vocabulary (0 to {vocab_size - 1}). "
            "Give the tokenizer's end-of-sequence token id."
        )


def encoded_passages(corpus: Corpus, identifiers: Identifiers, batch_size: int, start: int = 0) -> Iterator[list[int]]:
    """The tokens of each passage of a corpus from `start` on, encoded in batches."""
    passages = islice(corpus, start, None)
    while batch := list(islice(passages, batch_size)):
        yield from identifiers.encode_passages(batch)


def index_text(text: Text, vocab_size: int) -> IndexArrays:
    """Index a text.

    Raises:
        TypeError: if a passage id is not a string.
        ValueError: if a passage id is not valid or occurs twice.
    """
    id_bytes, id_offsets, id_order = pack_ids(text.passage_ids)
    made = build_text_arrays(text.tokens, text.passage_starts, vocab_size)
    return IndexArrays(
        **made, passage_starts=text.passage_starts, id_bytes=id_bytes, id_offsets=id_offsets, id_order=id_order
    )


def build_text_arrays(
    tokens: np.ndarray,
    passage_starts: np.ndarray,
    vocab_size: int,
    sample_rate: int = SAMPLE_RATE,
    force64: bool = False,
    force_rotations: bool = False,
) -> dict[str, np.ndarray]:
    """Index a text of passages, each followed by the separator.

    Args:
        tokens (`np.ndarray` of uint16 or uint32, shape `(num_tokens,)`): token ids.
        passage_starts (`np.ndarray` of int64, shape `(num_passages + 1,)`): where each passage starts.
        vocab_size (`int`): number of token ids.
        sample_rate (`int`, *optional*, defaults to 16): the place of every so many tokens is kept.
        force64 (`bool`, *optional*, defaults to `False`): use 64-bit places even where 32 bits hold them.
        force_rotations (`bool`, *optional*, defaults to `False`): sort in the way that suits passages which repeat
            themselves, whether they do or not.

    Returns:
        `dict[str, np.ndarray]`: the text's arrays of [`IndexArrays`], by name.
    """
    size = len(tokens)
    token_counts = _count_tokens(tokens, vocab_size)
    occurring = np.flatnonzero(token_counts)
    order, codes = huffman_codes(token_counts[occurring])
    symbols = occurring[order].astype(np.int32)
    counts = token_counts[symbols]
    levels = level_table(codes, counts)
    symbol_of = np.full(vocab_size, -1, np.int32)
    symbol_of[symbols] = np.arange(len(symbols), dtype=np.int32)
    symbol_rows = np.concatenate([[0], np.cumsum(counts)])
    separator = int(symbol_of[tokens[-1]])
    places = np.dtype(np.uint64 if force64 or size > 1 << 32 else np.uint32)
    # Read backwards, appending a token to a pattern is one backward step of the search.
    reverse = np.empty(size, np.uint16 if len(symbols) <= 1 << 16 else np.uint32)
    _write_backwards(tokens, symbol_of, reverse)
    logger.info("Sorting the suffixes of %d tokens", size)
    suffixes = None if force_rotations else sorted_suffixes(reverse, separator, symbol_rows, places)
    if suffixes is None:
        suffixes = _rotations(reverse, counts, places, force64)
    logger.info("Building the wavelet matrix: %d symbols, %d levels", len(symbols), len(levels))
    values, made = _rows(reverse, suffixes, separator, codes, passage_starts, sample_rate, symbol_rows)
    del reverse, suffixes
    return {
        "blocks": build_matrix(values, levels),
        "levels": levels,
        "codes": codes,
        "symbols": symbols,
        "symbol_of": symbol_of,
        "symbol_rows": symbol_rows,
        **made,
    }


@compiled
def _count_tokens(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """How often each token occurs."""
    counts = np.zeros(vocab_size, np.int64)
    for token in tokens:
        counts[token] += 1
    return counts


@compiled
def _write_backwards(tokens: np.ndarray, symbol_of: np.ndarray, reverse: np.ndarray) -> None:
    """Write the symbols of a text, the last first."""
    for place in range(len(tokens)):
        reverse[len(tokens) - 1 - place] = symbol_of[tokens[place]]


def _rows(
    reverse: np.ndarray,
    suffixes: np.ndarray,
    separator: int,
    codes: np.ndarray,
    passage_starts: np.ndarray,
    sample_rate: int,
    symbol_rows: np.ndarray,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The codes of what follows each row's place, and the arrays that say where rows are in the text.

    The codes take the place of the suffixes where they are as wide.
    """
    size = len(reverse)
    starts = _bits_at(passage_starts[:-1], size)
    end_passages = _passages_at(starts, suffixes[symbol_rows[separator] : symbol_rows[separator + 1]], size)
    wide = np.dtype(np.uint32 if int(codes.max()) < 1 << 32 else np.uint64)
    values = suffixes.view(wide) if wide.itemsize == suffixes.itemsize else np.empty(size, wide)
    marks = np.zeros(num_blocks(size) * BLOCK_WORDS, np.uint64)
    first_rows = np.empty(len(passage_starts) - 1, suffixes.dtype)

    def part(start: int, stop: int) -> np.ndarray:
        return _transform(
            reverse, suffixes, separator, codes, starts, sample_rate, values, marks, first_rows, start, stop
        )

    # Parts start with a block of the bit vector, so that no two write to the same word.
    parts = 8 * number_of_threads(size)
    bounds = np.unique(np.linspace(0, size // BLOCK_BITS, parts, endpoint=False).astype(np.int64)) * BLOCK_BITS
    samples = np.concatenate(in_threads(part, np.append(bounds, size), size))
    finish_ranks(marks, 0, size)
    return values, {"marks": marks, "samples": samples, "first_rows": first_rows, "end_passages": end_passages}


def _bits_at(positions: np.ndarray, size: int) -> np.ndarray:
    """A bit vector with ones at these positions."""
    bits = np.zeros(num_blocks(size) * BLOCK_WORDS, np.uint64)
    _set_bits(bits, positions)
    finish_ranks(bits, 0, size)
    return bits


@compiled
def _set_bits(bits: np.ndarray, positions: np.ndarray) -> None:
    for position in positions:
        set_bit(bits, 0, position)


@compiled
def _passages_at(starts: np.ndarray, suffixes: np.ndarray, size: int) -> np.ndarray:
    """The passages in which suffixes of the text read backwards start.

    `starts` is a bit vector of where passages start.
    """
    passages = np.empty_like(suffixes)
    for row in range(len(suffixes)):
        if row + _AHEAD < len(suffixes):
            fetch(starts, 0, size - 1 - np.int64(suffixes[row + _AHEAD]))
        # Of the passages that start up to the place, the last.
        passages[row] = rank_and_bit(starts, 0, size - np.int64(suffixes[row]))[0] - 1
    return passages


def _rotations(reverse: np.ndarray, counts: np.ndarray, dtype: np.dtype, force64: bool) -> np.ndarray:
    """The starts of the sorted rotations of a text; equal ones in the order of the text."""
    rotations, start, period = sorted_rotations(reverse.astype(np.int32), counts, force64)
    suffixes = ((rotations.astype(np.int64) + start) % len(reverse)).astype(dtype)
    return np.sort(suffixes.reshape(-1, len(reverse) // period), axis=1).reshape(-1)


@compiled
def _transform(
    reverse: np.ndarray,
    suffixes: np.ndarray,
    separator: int,
    codes: np.ndarray,
    starts: np.ndarray,
    rate: int,
    values: np.ndarray,
    marks: np.ndarray,
    first_rows: np.ndarray,
    start: int,
    stop: int,
) -> np.ndarray:
    """Write, for the rows [start, stop), the codes of what follows them; return the places of every so many tokens.

    `starts` is a bit vector of where passages start. `values` may share the memory of `suffixes`: each row is read
    before it is written. Rows of the separator are not among the marked: where a passage ends is known.
    """
    size = len(reverse)
    samples = np.empty((stop - start) // rate, suffixes.dtype)
    taken = 0
    for row in range(start, stop):
        if row + _AHEAD < stop:
            prefetch(reverse, max(np.int64(suffixes[row + _AHEAD]) - 1, 0))
        suffix = np.int64(suffixes[row])
        values[row] = codes[reverse[suffix - 1 if suffix > 0 else size - 1]]
        place = size - 1 - suffix
        if place % rate == 0 and reverse[suffix] != separator:
            if taken == len(samples):
                more = np.empty(2 * taken + 1, suffixes.dtype)
                more[:taken] = samples
                samples = more
            set_bit(marks, 0, row)
            samples[taken] = place
            taken += 1
        if reverse[suffix + 1 if suffix + 1 < size else 0] == separator:
            first_rows[rank_and_bit(starts, 0, place)[0]] = row
    return samples[:taken].copy()
