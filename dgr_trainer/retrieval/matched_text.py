"""Where the identifiers of a hit stand in the text of its passage, to mark them there.

An identifier is a sequence of tokens; decoded, it is only nearly a piece of the text: tokenizers change case, accents
and spaces, a sequence may begin or end inside a word or a character, and it may hold a marker between two parts of a
passage. Text and identifiers are therefore compared in a form without these differences.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import regex

from dgr_trainer.identifiers import IdentifierSettings
from dgr_trainer.identifiers.words import is_unspaced

Span = tuple[int, int]
"""Where a piece of a text starts and ends, in characters."""

_CLUSTER = regex.compile(r"\X")
_SHORTEST_PART_OF_A_WORD = 3


def part_markers(settings: IdentifierSettings) -> tuple[str, ...]:
    """The markers between the parts of a passage, for [`matched_spans`]."""
    markers = (settings.title_end, settings.query_start, settings.query_end, settings.docid_start)
    return tuple(dict.fromkeys(marker for marker in markers if marker))


def matched_spans(text: str, identifiers: Sequence[str], *, markers: Sequence[str] = ()) -> list[list[Span]]:
    """Find decoded identifiers in a text.

    Case, the form of Unicode characters and whitespace do not count, and spaces beside punctuation need not be there;
    accents count only where an identifier is found with them. Whole words are preferred: an identifier is found inside
    words only if it nowhere stands as whole words, first at the start of words, then anywhere. One of fewer than 3
    characters is found inside words only in scripts that are written without spaces.

    Args:
        text (`str`): A title, a body or a pseudo-query.
        identifiers (`Sequence[str]`): Texts of identifiers, from [`GenerativeRetriever.identifier_text`].
        markers (`Sequence[str]`, *optional*, defaults to `()`): Markers between parts of a passage; the pieces of an
            identifier between them are found on their own.

    Returns:
        `list[list[tuple[int, int]]]`: for each identifier, where it starts and ends in the text, in characters;
        ascending, without overlaps. Empty where it does not occur.

    Example:

    ```python
    >>> matched_spans("The Nile flows north.", ["nile", "flows  north", "Amazon"])
    [[(4, 8)], [(9, 20)], []]

    ```
    """
    exact = _Comparable.of(text, accents=True)
    plain: _Comparable | None = None
    found = []
    for identifier in identifiers:
        spans = set()
        for piece in _pieces(identifier, markers):
            matches = exact.find(piece)
            if not matches:
                plain = plain or exact.without_accents(text)
                matches = plain.find(piece)
            spans.update(matches)
        found.append(_without_overlaps(spans))
    return found


def marked_pieces(text: str, spans: Sequence[Sequence[Span]]) -> list[tuple[str, tuple[int, ...]]]:
    """Divide a text where identifiers start and end.

    Args:
        text (`str`): The text.
        spans (`Sequence[Sequence[tuple[int, int]]]`): Where each identifier stands in it, from [`matched_spans`].

    Returns:
        `list[tuple[str, tuple[int, ...]]]`: pieces, which add up to the text, each with the numbers of the identifiers
        that it belongs to.

    Example:

    ```python
    >>> marked_pieces("The Nile", [[(4, 8)], [(0, 8)]])
    [('The ', (1,)), ('Nile', (0, 1))]

    ```
    """
    starting: dict[int, list[int]] = {}
    ending: dict[int, list[int]] = {}
    for number, places in enumerate(spans):
        for start, end in places:
            starting.setdefault(start, []).append(number)
            ending.setdefault(end, []).append(number)
    pieces = []
    current: set[int] = set()
    for start, end in pairwise(sorted({0, len(text), *starting, *ending})):
        current.difference_update(ending.get(start, ()))
        current.update(starting.get(start, ()))
        pieces.append((text[start:end], tuple(sorted(current))))
    return pieces


class _Comparable(NamedTuple):
    """A text as it is compared: folded characters, and the place of each in the original text."""

    text: str
    starts: list[int]
    ends: list[int]
    accents: bool

    @classmethod
    def of(cls, text: str, *, accents: bool) -> _Comparable:
        characters: list[str] = []
        starts: list[int] = []
        ends: list[int] = []
        space: Span | None = None
        for start, end in _clusters(text):
            cluster = text[start:end]
            if cluster.isspace():
                space = space or (start, end)
                continue
            folded = _folded(cluster, accents)
            if space and characters and folded and _is_letter(characters[-1]) and _is_letter(folded[0]):
                characters.append(" ")
                starts.append(space[0])
                ends.append(space[1])
            space = None if folded else space
            for character in folded:
                characters.append(character)
                starts.append(start)
                ends.append(end)
        return cls("".join(characters), starts, ends, accents)

    def without_accents(self, text: str) -> _Comparable:
        """The same text, compared without accents."""
        return self._replace(accents=False) if text.isascii() else _Comparable.of(text, accents=False)

    def find(self, piece: str) -> list[Span]:
        wanted = _comparable_piece(piece, self.accents)
        if not wanted:
            return []
        whole, beginning, inside = [], [], []
        position = self.text.find(wanted)
        while position >= 0:
            end = position + len(wanted)
            place = (self.starts[position], self.ends[end - 1])
            if self._divides_a_word(position):
                inside.append(place)
            elif self._divides_a_word(end):
                beginning.append(place)
            else:
                whole.append(place)
            position = self.text.find(wanted, position + 1)
        if whole:
            return whole
        return (beginning or inside) if len(wanted) >= _SHORTEST_PART_OF_A_WORD else []

    def _divides_a_word(self, position: int) -> bool:
        if not 0 < position < len(self.text):
            return False
        left, right = self.text[position - 1], self.text[position]
        return _is_letter(left) and _is_letter(right) and not (is_unspaced(left) or is_unspaced(right))


@lru_cache(maxsize=1024)
def _comparable_piece(piece: str, accents: bool) -> str:
    """A piece of an identifier as it is compared; the same one is looked for in every part of several passages."""
    return _Comparable.of(piece, accents=accents).text


def _pieces(identifier: str, markers: Sequence[str]) -> list[str]:
    """The pieces of an identifier between markers, without the remains of characters that its tokens divide."""
    pieces = [identifier]
    for marker in filter(None, (marker.strip() for marker in markers)):
        pieces = [piece for whole in pieces for piece in whole.split(marker)]
    # WordPiece writes ## where a sequence begins inside a word.
    return [piece.strip("\N{REPLACEMENT CHARACTER} \t\r\n").removeprefix("##") for piece in pieces]


def _clusters(text: str) -> Iterator[Span]:
    """Where each character with its accents starts and ends."""
    if text.isascii():
        return ((position, position + 1) for position in range(len(text)))
    return (match.span() for match in _CLUSTER.finditer(text))


def _folded(cluster: str, accents: bool) -> str:
    if cluster.isascii():
        return cluster.lower()
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", cluster).casefold())
    if not accents:
        folded = "".join(
            one for one in unicodedata.normalize("NFKD", folded) if not unicodedata.category(one).startswith("M")
        )
    return "".join(folded.split())


def _is_letter(character: str) -> bool:
    return character.isalnum()


def _without_overlaps(spans: set[Span]) -> list[Span]:
    kept: list[Span] = []
    for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        if not kept or start >= kept[-1][1]:
            kept.append((start, end))
    return kept
