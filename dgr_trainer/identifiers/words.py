"""The words of a text in any script.

Words are separated by whitespace. In scripts that are written without it (Chinese, Japanese, Thai, Lao, Khmer,
Burmese, Tibetan, ...), they are the words of Unicode's text segmentation (UAX 29), which are often single characters,
so that ten words of such a text are a phrase and not a paragraph.
"""

from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

import regex

# Scripts without spaces: those that need a dictionary to be divided into words (class SA of UAX 14), and those of East
# Asia except Hangul.
_UNSPACED = regex.compile(
    r"[\p{Line_Break=SA}\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}\p{Tibetan}\p{Javanese}\p{Balinese}]"
)
_UNICODE_BOUNDARY = regex.compile(r"\b", regex.WORD | regex.VERSION1)
# Letters, digits and the signs that modify them.
_LETTER = regex.compile(r"[\w\p{Nl}\p{No}]")
# Words, and the marks that may join them (don't, brown-fox, 3.11, os.path, snake_case).
_QUERY_WORD = regex.compile(r"[\w\p{Nl}\p{No}]+(?:['’.\-][\w\p{Nl}\p{No}]+)*")


class Words(NamedTuple):
    """A text and its words.

    Attributes:
        text (`str`): The text, with single spaces.
        spans (`list[tuple[int, int]]`): Where each word starts and ends in it.
        starts (`list[int]`): Where each word starts in the token ids of the text, if these are known.
    """

    text: str
    spans: list[tuple[int, int]]
    starts: list[int] = []

    def piece(self, first: int, count: int) -> str:
        """The text of some consecutive words, fewer at the end of the text."""
        part = self.spans[first : first + count]
        return self.text[part[0][0] : part[-1][1]] if part else ""

    def joined(self, starts: list[int | None]) -> "Words":
        """The words by their starts in the token ids; one without a start belongs to the word before it."""
        if None not in starts:
            return Words(self.text, self.spans, [start for start in starts if start is not None])
        first = [number for number, start in enumerate(starts) if start is not None]
        ends = [*first[1:], len(self.spans)]
        spans = [(self.spans[left][0], self.spans[right - 1][1]) for left, right in zip(first, ends, strict=True)]
        return Words(self.text, spans, [start for start in starts if start is not None])


def is_unspaced(text: str) -> bool:
    """Whether a text holds characters of a script that is written without spaces."""
    return not text.isascii() and _UNSPACED.search(text) is not None


def split_words(text: str) -> Words:
    """Divide a text into words, which keep the punctuation that is written beside them."""
    parts = text.split()
    text = " ".join(parts)
    if not is_unspaced(text):
        ends = list(accumulate(len(word) + 1 for word in parts))
        return Words(text, [(end - 1 - len(word), end - 1) for word, end in zip(parts, ends, strict=True)])
    spans: list[tuple[int, int]] = []
    start = 0
    for word in parts:
        if is_unspaced(word):
            spans += [(start + left, start + right) for left, right in _divided(word)]
        else:
            spans.append((start, start + len(word)))
        start += len(word) + 1
    return Words(text, spans)


def query_words(text: str) -> list[tuple[int, int]]:
    """Where the words of a query start and end, without the punctuation around them."""
    spans = []
    for match in _QUERY_WORD.finditer(text):
        if is_unspaced(match[0]):
            spans += [
                (match.start() + left, match.start() + right)
                for left, right in _unicode_words(match[0])
                if _LETTER.search(match[0], left, right)
            ]
        else:
            spans.append(match.span())
    return spans


def _divided(word: str) -> list[tuple[int, int]]:
    """Unicode words of a word, each with the punctuation after it; the first also with that before it."""
    spans: list[tuple[int, int]] = []
    begins_with_letter = False
    for left, right in _unicode_words(word):
        has_letter = _LETTER.search(word, left, right) is not None
        if spans and not (has_letter and begins_with_letter):
            spans[-1] = (spans[-1][0], right)
        else:
            spans.append((left, right))
        begins_with_letter = begins_with_letter or has_letter
    return spans


def _unicode_words(word: str) -> Iterator[tuple[int, int]]:
    bounds = sorted({0, len(word), *(match.start() for match in _UNICODE_BOUNDARY.finditer(word))})
    yield from zip(bounds[:-1], bounds[1:], strict=True)
