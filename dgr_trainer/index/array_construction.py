"""Builds the arrays of one segment of an FM-index from a text of passages."""

from __future__ import annotations

import logging

import numpy as np

from dgr_trainer.compilation import compiled, prefetch
from dgr_trainer.index.bit_vector import (
    BLOCK_BITS,
    BLOCK_WORDS,
    fetch,
    finish_ranks,
    num_blocks,
    rank_and_bit,
    set_bit,
)
from dgr_trainer.index.index_arrays import SAMPLE_RATE, IndexArrays
from dgr_trainer.index.kernel_threads import number_of_threads, run_in_threads
from dgr_trainer.index.rotation_sort import sorted_rotations
from dgr_trainer.index.suffix_sort import sorted_suffixes
from dgr_trainer.index.token_texts import TokenText
from dgr_trainer.index.wavelet_matrix import build_matrix, huffman_codes, level_table

logger = logging.getLogger(__name__)

# How many rows ahead of the current one the text, or a passage's start, is prefetched.
_ROWS_AHEAD = 24


def build_arrays(text: TokenText, vocab_size: int) -> IndexArrays:
    """Build the arrays of a text's segment.

    Raises:
        ValueError: if a passage id occurs twice.
    """
    ids = text.passage_ids
    id_order = ids.order()
    text_arrays = build_text_arrays(text.tokens, text.passage_starts, vocab_size)
    return IndexArrays(
        **text_arrays,
        passage_starts=text.passage_starts,
        id_bytes=ids.id_bytes,
        id_offsets=ids.id_offsets,
        id_order=id_order,
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
        sample_rate (`int`, *optional*, defaults to 16): n, to store the position of every n-th token.
        force64 (`bool`, *optional*, defaults to `False`): use 64-bit positions even if 32 bits are enough.
        force_rotations (`bool`, *optional*, defaults to `False`): always sort rotations, which is otherwise done
            only if passages repeat themselves a lot.

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
    position_dtype = np.dtype(np.uint64 if force64 or size > 1 << 32 else np.uint32)
    # On the reversed text, appending a token to a pattern is one step of backward search.
    reverse = np.empty(size, np.uint16 if len(symbols) <= 1 << 16 else np.uint32)
    _write_backwards(tokens, symbol_of, reverse)
    logger.info("Sorting the suffixes of %d tokens", size)
    suffixes = None if force_rotations else sorted_suffixes(reverse, separator, symbol_rows, position_dtype)
    if suffixes is None:
        suffixes = _rotations(reverse, counts, position_dtype, force64)
    logger.info("Building the wavelet matrix: %d symbols, %d levels", len(symbols), len(levels))
    row_codes, arrays = _fill_rows(reverse, suffixes, separator, codes, passage_starts, sample_rate, symbol_rows)
    del reverse, suffixes
    return {
        "blocks": build_matrix(row_codes, levels),
        "levels": levels,
        "codes": codes,
        "symbols": symbols,
        "symbol_of": symbol_of,
        "symbol_rows": symbol_rows,
        **arrays,
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
    """Write the symbols of a text in reverse order."""
    for position in range(len(tokens)):
        reverse[len(tokens) - 1 - position] = symbol_of[tokens[position]]


def _fill_rows(
    reverse: np.ndarray,
    suffixes: np.ndarray,
    separator: int,
    codes: np.ndarray,
    passage_starts: np.ndarray,
    sample_rate: int,
    symbol_rows: np.ndarray,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The code of the token that follows each row's position, and the arrays that map rows to text positions.

    The codes overwrite the suffixes if both have the same width.
    """
    size = len(reverse)
    starts = _bits_at(passage_starts[:-1], size)
    end_passages = _passages_at(starts, suffixes[symbol_rows[separator] : symbol_rows[separator + 1]], size)
    code_dtype = np.dtype(np.uint32 if int(codes.max()) < 1 << 32 else np.uint64)
    row_codes = suffixes.view(code_dtype) if code_dtype.itemsize == suffixes.itemsize else np.empty(size, code_dtype)
    marks = np.zeros(num_blocks(size) * BLOCK_WORDS, np.uint64)
    first_rows = np.empty(len(passage_starts) - 1, suffixes.dtype)

    def part(start: int, stop: int) -> np.ndarray:
        samples: np.ndarray = _transform(
            reverse, suffixes, separator, codes, starts, sample_rate, row_codes, marks, first_rows, start, stop
        )
        return samples

    # Each part starts at a block of the bit vector, so that no two parts write to the same word.
    parts = 8 * number_of_threads(size)
    bounds = np.unique(np.linspace(0, size // BLOCK_BITS, parts, endpoint=False).astype(np.int64)) * BLOCK_BITS
    samples = np.concatenate(run_in_threads(part, np.append(bounds, size), size))
    finish_ranks(marks, 0, size)
    return row_codes, {"marks": marks, "samples": samples, "first_rows": first_rows, "end_passages": end_passages}


def _bits_at(positions: np.ndarray, size: int) -> np.ndarray:
    """A bit vector with ones at the given positions."""
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
    """The passages in which suffixes of the reversed text start; `starts` is a bit vector of passage starts."""
    passages = np.empty_like(suffixes)
    for row in range(len(suffixes)):
        if row + _ROWS_AHEAD < len(suffixes):
            fetch(starts, 0, size - 1 - np.int64(suffixes[row + _ROWS_AHEAD]))
        # The last passage that starts at or before the position.
        passages[row] = rank_and_bit(starts, 0, size - np.int64(suffixes[row]))[0] - 1
    return passages


def _rotations(reverse: np.ndarray, counts: np.ndarray, dtype: np.dtype, force64: bool) -> np.ndarray:
    """The starts of the sorted rotations of a text; equal rotations are in text order."""
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
    row_codes: np.ndarray,
    marks: np.ndarray,
    first_rows: np.ndarray,
    start: int,
    stop: int,
) -> np.ndarray:
    """Write the codes of the tokens that follow the rows [start, stop); return the positions of every n-th token.

    `starts` is a bit vector of passage starts. `row_codes` may share the memory of `suffixes`: each row is read before
    it is written. Rows of the separator are not marked, since the end of a passage is known.
    """
    size = len(reverse)
    samples = np.empty((stop - start) // rate, suffixes.dtype)
    num_samples = 0
    for row in range(start, stop):
        if row + _ROWS_AHEAD < stop:
            prefetch(reverse, max(np.int64(suffixes[row + _ROWS_AHEAD]) - 1, 0))
        suffix = np.int64(suffixes[row])
        row_codes[row] = codes[reverse[suffix - 1 if suffix > 0 else size - 1]]
        position = size - 1 - suffix
        if position % rate == 0 and reverse[suffix] != separator:
            if num_samples == len(samples):
                larger = np.empty(2 * num_samples + 1, suffixes.dtype)
                larger[:num_samples] = samples
                samples = larger
            set_bit(marks, 0, row)
            samples[num_samples] = position
            num_samples += 1
        if reverse[suffix + 1 if suffix + 1 < size else 0] == separator:
            first_rows[rank_and_bit(starts, 0, position)[0]] = row
    return samples[:num_samples].copy()
