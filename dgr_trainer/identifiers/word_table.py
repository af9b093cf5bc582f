"""A table that numbers the words of texts, by a compiled kernel that reads their bytes."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa

from dgr_trainer.compilation import compiled

_SPACE = 0x20


class WordTable:
    """Numbers words from 0 on, in the order in which they occur first; a word keeps its number until it is forgotten.

    A hash table with open addressing in NumPy arrays: about 60 bytes a word, half of what a `dict` of strings takes,
    and no Python object for a word that is known.
    """

    def __init__(self) -> None:
        self._size = 0
        self._now = 0
        self._slots = np.full(1 << 10, -1, np.int32)
        self._hashes, self._used = np.empty(0, np.uint64), np.empty(0, np.int32)
        # The bytes of the words, one word after the other, and where each starts.
        self._bytes, self._starts = np.empty(0, np.uint8), np.zeros(1, np.int64)

    def __len__(self) -> int:
        return self._size

    def number(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Number the words of texts, new words too.

        Args:
            texts (`Sequence[str]`): Texts with spaces between their words.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: the number of each word (int32), and where the words of each text start
            among them (int64, shape `(len(texts) + 1,)`).
        """
        _, offsets, data = pa.array(texts, pa.large_string()).buffers()
        bounds = np.frombuffer(offsets, np.int64, len(texts) + 1)
        if not bounds[-1]:
            return np.empty(0, np.int32), np.zeros(len(texts) + 1, np.int64)
        text = np.frombuffer(data, np.uint8)[: bounds[-1]]
        most = int(np.count_nonzero(text == _SPACE)) + len(texts)
        self._make_room(most, len(text))
        self._now += 1
        numbers, starts = np.empty(most, np.int32), np.empty(len(texts) + 1, np.int64)
        self._size = _number_words(
            text, bounds, numbers, starts, self._size, self._now, self._slots, self._hashes, self._used, self._bytes,
            self._starts,
        )  # fmt: skip
        return numbers[: starts[-1]], starts

    def words(self, first: int) -> list[str]:
        """The words from a number on."""
        starts = self._starts[first : self._size + 1]
        text = self._bytes[starts[0] : starts[-1]].tobytes()
        return [text[start:end].decode() for start, end in pairwise((starts - starts[0]).tolist())]

    def forget(self, most: int) -> np.ndarray | None:
        """If there are more words than that, keep the half of them that was used last.

        Returns:
            `np.ndarray`: the old numbers of the words that are kept, ascending: the first one has number 0 now.
        """
        if self._size <= most:
            return None
        kept = np.sort(np.argsort(-self._used[: self._size], kind="stable")[: most // 2])
        sizes = np.diff(self._starts[: self._size + 1])[kept]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        self._bytes = self._bytes[np.arange(starts[-1]) + np.repeat(self._starts[kept] - starts[:-1], sizes)]
        self._starts = starts
        self._hashes, self._used, self._size = self._hashes[kept], self._used[kept], len(kept)
        self._fill(len(self._slots))
        return kept

    def _make_room(self, words: int, num_bytes: int) -> None:
        """Make room for so many more words of so many bytes."""
        most = self._size + words
        self._hashes, self._used = _grown(self._hashes, most), _grown(self._used, most)
        self._bytes = _grown(self._bytes, int(self._starts[self._size]) + num_bytes)
        self._starts = _grown(self._starts, most + 1)
        if 2 * most > len(self._slots):
            self._fill(1 << (2 * most).bit_length())

    def _fill(self, slots: int) -> None:
        self._slots = np.full(slots, -1, np.int32)
        _fill_slots(self._slots, self._hashes[: self._size])


def _grown(array: np.ndarray, size: int) -> np.ndarray:
    if size <= len(array):
        return array
    grown = np.empty(max(size, 2 * len(array)), array.dtype)
    grown[: len(array)] = array
    return grown


@compiled
def _number_words(
    text: np.ndarray,
    bounds: np.ndarray,
    numbers: np.ndarray,
    starts: np.ndarray,
    size: int,
    now: int,
    slots: np.ndarray,
    hashes: np.ndarray,
    used: np.ndarray,
    word_bytes: np.ndarray,
    word_starts: np.ndarray,
) -> int:
    """Write the numbers of the words of texts, put new ones into the table; return how many words there are now."""
    mask = len(slots) - 1
    count = 0
    for number_of_text in range(len(bounds) - 1):
        starts[number_of_text] = count
        position, end = bounds[number_of_text], bounds[number_of_text + 1]
        while position < end:
            start = position
            value = np.uint64(14695981039346656037)  # The hash of Fowler, Noll and Vo, FNV-1a.
            while position < end and text[position] != _SPACE:
                value = (value ^ np.uint64(text[position])) * np.uint64(1099511628211)
                position += 1
            length = position - start
            position += 1
            if length == 0:
                continue
            slot = _first_slot(value, mask)
            number = slots[slot]
            while number >= 0 and not (
                hashes[number] == value and _is_word(number, text, start, length, word_bytes, word_starts)
            ):
                slot = (slot + 1) & mask
                number = slots[slot]
            if number < 0:
                number = size
                slots[slot], hashes[number] = number, value
                first = word_starts[number]
                word_bytes[first : first + length] = text[start : start + length]
                word_starts[number + 1] = first + length
                size += 1
            used[number] = now
            numbers[count] = number
            count += 1
    starts[len(bounds) - 1] = count
    return size


@compiled
def _is_word(
    number: int, text: np.ndarray, start: int, length: int, word_bytes: np.ndarray, word_starts: np.ndarray
) -> bool:
    """Whether a part of a text is the word of a number."""
    first = word_starts[number]
    if word_starts[number + 1] - first != length:
        return False
    for position in range(length):
        if word_bytes[first + position] != text[start + position]:
            return False
    return True


@compiled
def _fill_slots(slots: np.ndarray, hashes: np.ndarray) -> None:
    """Put words into empty slots, by their hashes."""
    mask = len(slots) - 1
    for number in range(len(hashes)):
        slot = _first_slot(hashes[number], mask)
        while slots[slot] >= 0:
            slot = (slot + 1) & mask
        slots[slot] = number


@compiled
def _first_slot(value: np.uint64, mask: int) -> np.int64:
    """The slot at which the search for a word of that hash starts."""
    return np.int64((value ^ (value >> np.uint64(32))) & np.uint64(mask))
