"""From token sequences to the arrays of an FM-index."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, fields
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from dgr_trainer.index.bit_vector import BLOCK_WORDS, compiled, finish_ranks, num_blocks, set_bit
from dgr_trainer.index.passage_ids import pack_ids
from dgr_trainer.index.suffix_order import sorted_rotations
from dgr_trainer.index.wavelet_matrix import build_matrix, huffman_codes, level_table

if TYPE_CHECKING:
    from dgr_trainer.corpus import Corpus
    from dgr_trainer.identifiers import Identifiers

logger = logging.getLogger(__name__)

SAMPLE_RATE = 16
MAX_VOCAB_SIZE = 1 << 24
_CHUNK = 4096


@dataclass(frozen=True)
class IndexArrays:
    """The arrays an FM-index consists of; all are read-only, and are mapped from files when it was loaded."""

    blocks: np.ndarray  # uint64: bits of the wavelet matrix over the Burrows-Wheeler transform
    levels: np.ndarray  # int64 (levels, 8): see wavelet_matrix
    codes: np.ndarray  # uint64 (symbols): codes of the symbols that occur
    symbols: np.ndarray  # int32 (symbols): their token ids
    symbol_of: np.ndarray  # int32 (vocab_size): the symbol of each token id, -1 if it does not occur
    symbol_rows: np.ndarray  # int64 (symbols + 1): first row of each symbol
    marks: np.ndarray  # uint64: bit vector of the rows whose text position is kept
    samples: np.ndarray  # uint32 or uint64: these positions
    text: np.ndarray  # uint16 or uint32 (num_tokens): the corpus, each passage followed by the separator
    passage_starts: np.ndarray  # int64 (num_passages + 1): where each passage starts in the text
    id_bytes: np.ndarray  # uint8: the passage ids in UTF-8, one after the other
    id_offsets: np.ndarray  # int64 (num_passages + 1): where each id starts
    id_order: np.ndarray  # int64 (num_passages): the passages in the order of their ids' bytes

    def __post_init__(self) -> None:
        # Kernels are compiled for the types they are called with: read-only arrays only, built or loaded.
        for field in fields(self):
            array = np.ascontiguousarray(getattr(self, field.name))
            array.setflags(write=False)
            object.__setattr__(self, field.name, array)


def build_index(
    sequences: Iterable[Sequence[int]],
    passage_ids: Iterable[str],
    vocab_size: int,
    separator: int,
    progress: bool,
    total: int | None = None,
) -> tuple[IndexArrays, dict[str, Any]]:
    """Index token sequences: see `FMIndex.build`.

    Returns:
        `tuple[IndexArrays, dict[str, Any]]`: the arrays, and the numbers that describe them.
    """
    if not 1 <= vocab_size <= MAX_VOCAB_SIZE:
        raise ValueError(
            f"vocab_size is {vocab_size}, but an index has 1 to {MAX_VOCAB_SIZE} token ids. Give len(tokenizer)."
        )
    if not 0 <= separator < vocab_size:
        raise ValueError(
            f"The separator is {separator}, which is outside the vocabulary (0 to {vocab_size - 1}). "
            "Give the tokenizer's end-of-sequence token id."
        )
    for sized in (sequences, passage_ids):
        if total is None and isinstance(sized, Sized):
            total = len(sized)
    id_bytes, id_offsets, id_order = pack_ids(passage_ids)
    text, passage_starts = collect_text(sequences, vocab_size, separator, total, progress)
    if len(passage_starts) != len(id_offsets):
        raise ValueError(
            f"There are {len(passage_starts) - 1} sequences but {len(id_offsets) - 1} passage ids. "
            "Give one id for each sequence, in the same order."
        )
    made = build_text_arrays(text, vocab_size)
    settings = {
        "num_tokens": len(text),
        "num_passages": len(id_order),
        "vocab_size": vocab_size,
        "separator": separator,
        "sample_rate": SAMPLE_RATE,
    }
    arrays = IndexArrays(
        **made, passage_starts=passage_starts, id_bytes=id_bytes, id_offsets=id_offsets, id_order=id_order
    )
    return arrays, settings


def encoded_passages(corpus: Corpus, identifiers: Identifiers, batch_size: int) -> Iterator[list[int]]:
    """The tokens of each passage of a corpus, encoded in batches."""
    passages = iter(corpus)
    while batch := list(islice(passages, batch_size)):
        yield from identifiers.encode_passages(batch)


def collect_text(
    sequences: Iterable[Sequence[int]], vocab_size: int, separator: int, total: int | None, progress: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate token sequences, each followed by the separator.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: the text (uint16 or uint32), and where each passage starts in it (int64, one
        more than there are passages).

    Raises:
        TypeError: if a sequence holds anything but integers.
        ValueError: if there is no sequence, a token is outside the vocabulary, or a sequence holds the separator.
    """
    dtype = np.uint16 if vocab_size <= 1 << 16 else np.uint32
    parts: list[np.ndarray] = []
    sizes: list[np.ndarray] = []
    done = 0
    iterator = iter(sequences)
    with tqdm(total=total, desc="Reading passages", unit=" passages", disable=not progress) as bar:
        while chunk := list(islice(iterator, _CHUNK)):
            lengths = np.fromiter(map(len, chunk), np.int64, len(chunk))
            tokens = np.array(list(chain.from_iterable(chunk))) if lengths.any() else np.empty(0, np.int64)
            _check_tokens(tokens, lengths, done, vocab_size, separator)
            ends = np.cumsum(lengths + 1) - 1
            text = np.empty(len(tokens) + len(chunk), dtype)
            is_token = np.ones(len(text), bool)
            is_token[ends] = False
            text[is_token] = tokens
            text[ends] = separator
            parts.append(text)
            sizes.append(lengths + 1)
            done += len(chunk)
            bar.update(len(chunk))
    if not parts:
        raise ValueError("The corpus is empty: there is no passage to index. Give at least one token sequence.")
    starts = np.concatenate([[0], np.cumsum(np.concatenate(sizes))])
    return np.concatenate(parts), starts


def _check_tokens(tokens: np.ndarray, lengths: np.ndarray, done: int, vocab_size: int, separator: int) -> None:
    if tokens.dtype.kind not in "iu":
        raise TypeError(
            f"A sequence among passages {done} to {done + len(lengths) - 1} holds values of type {tokens.dtype}, but "
            "an index is made of token ids. Give sequences of integers, one sequence a passage."
        )

    def passage_of(position: int) -> int:
        return done + int(np.searchsorted(np.cumsum(lengths), position, side="right"))

    outside = np.flatnonzero((tokens < 0) | (tokens >= vocab_size))
    if len(outside):
        raise ValueError(
            f"The sequence of passage {passage_of(outside[0])} holds token id {tokens[outside[0]]}, which is outside "
            f"the vocabulary (0 to {vocab_size - 1}). Give the size of the tokenizer that made it: len(tokenizer)."
        )
    separators = np.flatnonzero(tokens == separator)
    if len(separators):
        raise ValueError(
            f"The sequence of passage {passage_of(separators[0])} holds the separator (token id {separator}), which "
            "only the index may put after each passage. Tokenise passages without special tokens, and remove the "
            "separator's text from them."
        )


def build_text_arrays(
    text: np.ndarray, vocab_size: int, sample_rate: int = SAMPLE_RATE, force64: bool = False
) -> dict[str, np.ndarray]:
    """Index a text that is a ring: after its last token comes its first.

    Args:
        text (`np.ndarray` of uint16 or uint32, shape `(num_tokens,)`): token ids.
        vocab_size (`int`): number of token ids.
        sample_rate (`int`, *optional*, defaults to 16): the position of every so many tokens is kept.
        force64 (`bool`, *optional*, defaults to `False`): use 64-bit positions even where 32 bits hold them.

    Returns:
        `dict[str, np.ndarray]`: the text's arrays of [`IndexArrays`], by name.
    """
    token_counts = np.bincount(text, minlength=vocab_size)
    tokens = np.flatnonzero(token_counts)
    order, codes = huffman_codes(token_counts[tokens])
    symbols = tokens[order].astype(np.int32)
    counts = token_counts[symbols]
    levels = level_table(codes, counts)
    symbol_of = np.full(vocab_size, -1, np.int32)
    symbol_of[symbols] = np.arange(len(symbols), dtype=np.int32)
    # Read backwards, appending a token to a pattern is one backward step of the search.
    ring = symbol_of[text[::-1]]
    logger.info("Sorting the suffixes of %d tokens", len(text))
    rotations, start, period = sorted_rotations(ring, counts, force64)
    logger.info("Building the wavelet matrix: %d symbols, %d levels", len(symbols), len(levels))
    values = np.empty(len(text), np.uint32 if len(levels) <= 32 else np.uint64)
    marks = np.zeros(num_blocks(len(text)) * BLOCK_WORDS, np.uint64)
    full, rest = divmod(period, sample_rate)
    samples = np.empty((full + (rest > 0)) * (len(text) // period), np.uint32 if len(text) <= 1 << 32 else np.uint64)
    _transform(ring, rotations, start, period, codes, sample_rate, values, marks, samples)
    del ring, rotations
    finish_ranks(marks, 0, len(text))
    return {
        "blocks": build_matrix(values, levels),
        "levels": levels,
        "codes": codes,
        "symbols": symbols,
        "symbol_of": symbol_of,
        "symbol_rows": np.concatenate([[0], np.cumsum(counts)]),
        "marks": marks,
        "samples": samples,
        "text": text,
    }


@compiled
def _transform(
    ring: np.ndarray,
    rotations: np.ndarray,
    start: int,
    period: int,
    codes: np.ndarray,
    rate: int,
    values: np.ndarray,
    marks: np.ndarray,
    samples: np.ndarray,
) -> None:
    """Write the codes of the Burrows-Wheeler transform, and the text positions of every so many tokens.

    A text that repeats itself has groups of equal rotations. A step from one group leads to the same place in another,
    so the first row of each group is taken to be of the first copy, and so on.
    """
    size = len(ring)
    copies = size // period
    taken = 0
    for row in range(size):
        rotation = np.int64(rotations[row]) + start
        if rotation >= size:
            rotation -= size
        values[row] = codes[ring[rotation - 1 if rotation > 0 else size - 1]]
        inside = (size - 1 - rotation) % period
        if inside % rate == 0:
            set_bit(marks, 0, row)
            samples[taken] = inside + (row % copies) * period
            taken += 1
