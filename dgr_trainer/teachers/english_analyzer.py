"""Cuts text into terms as Lucene's English analyzer does, so that BM25 without Java ranks as Lucene does.

The steps are those of Anserini's default analyzer: word segmentation (Unicode UAX #29), possessive endings dropped,
lower case, stop words dropped, Porter stemming.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable, Collection, Iterable
from functools import cache
from typing import cast

from dgr_trainer.errors import DGRValueError, MissingPackageError

# Lucene's EnglishAnalyzer.ENGLISH_STOP_WORDS_SET.
STOP_WORDS = frozenset(
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they this "
    "to was will with".split()
)

# Scripts that are written without spaces: each character is a term.
_SINGLE = "\u3040-\u309f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_JOINED_LETTERS = r"(?<=[^\W\d_])[.:·'’](?=[^\W\d_])"  # U.S.A, o'clock
_JOINED_DIGITS = r"(?<=\d)[.,;'’](?=\d)"  # 3.14, 1,000
_ASCII_WORDS = re.compile(rf"\w+(?:(?:{_JOINED_LETTERS}|{_JOINED_DIGITS})\w+)*", re.ASCII)
_POSSESSIVE = re.compile(r"['’＇][sS]$")


class EnglishAnalyzer:
    """Cuts text into stemmed terms.

    Args:
        stemmer (`str`, *optional*, defaults to `"porter"`): `"porter"` stems as Lucene does; any other name is an
            algorithm of Snowball (`"english"`, `"german"`, ...), and `None` leaves words unchanged.
        stop_words (`Collection[str]`, *optional*, defaults to Lucene's English ones): Lower-cased words to leave out.

    Raises:
        ImportError: if a stemmer is given and PyStemmer is not installed.
        ValueError: if Snowball has no such stemmer.
    """

    def __init__(self, stemmer: str | None = "porter", stop_words: Collection[str] = STOP_WORDS):
        self.stemmer = stemmer
        self.stop_words = frozenset(stop_words)
        self._stem = None if stemmer is None else _stemmer(stemmer)
        self._terms: dict[str, str] = {}  # word -> term, filled as words are met

    def __call__(self, text: str) -> list[str]:
        """Cut a text into terms.

        Args:
            text (`str`): Any text.

        Returns:
            `list[str]`: Its terms in order.
        """
        words = _ASCII_WORDS.findall(text) if text.isascii() else _unicode_words().findall(text)
        words = [_POSSESSIVE.sub("", word).replace("İ", "i").lower() for word in words]
        return [self._term(word) for word in words if word and word not in self.stop_words]

    def _term(self, word: str) -> str:
        if self._stem is None:
            return word
        term = self._terms.get(word)
        if term is None:
            term = self._terms[word] = (
                _lucene_porter(word, self._stem) if self.stemmer == "porter" else self._stem(word)
            )
        return term


def _stemmer(name: str) -> Callable[[str], str]:
    try:
        import Stemmer
    except ImportError as error:
        raise MissingPackageError('Stemming needs PyStemmer: pip install "dgr-trainer[bm25]".') from error
    if name not in Stemmer.algorithms():
        raise DGRValueError(
            f"There is no stemmer {name!r}. Give one of {Stemmer.algorithms()}, or None for no stemming."
        )
    return cast(Callable[[str], str], Stemmer.Stemmer(name).stemWord)


def _lucene_porter(word: str, stem: Callable[[str], str]) -> str:
    # Lucene has the three deviations from the paper that Porter lists for his program and that Snowball's "porter"
    # lacks (https://tartarus.org/martin/PorterStemmer): words of one or two letters are unchanged, -bli becomes -ble,
    # and -logi becomes -log.
    if len(word) <= 2:
        return word
    singular = word[:-3] + "y" if word.endswith(("blies", "logies")) else word
    if singular.endswith("bly") and _measure(singular[:-3]) > 0:
        word = singular[:-1] + "e"
    elif singular.endswith("logy") and _measure(singular[:-4]) > 0:
        word = singular[:-1]
    return stem(word)


def _measure(stem: str) -> int:
    # m in Porter's [C](VC)^m[V]: how many times a vowel run is followed by a consonant.
    kinds = ""
    for letter in stem:
        kinds += "v" if letter in "aeiou" or (letter == "y" and kinds.endswith("c")) else "c"
    return len(re.findall("v+c", kinds))


@cache
def _unicode_words() -> re.Pattern[str]:
    marks = "".join(_ranges(code for code in range(0x300, 0x10000) if unicodedata.category(chr(code))[0] == "M"))
    letter = rf"(?:[^\W{_SINGLE}]|[{marks}])"
    return re.compile(rf"[{_SINGLE}]|{letter}+(?:(?:{_JOINED_LETTERS}|{_JOINED_DIGITS}){letter}+)*")


def _ranges(codes: Iterable[int]) -> Iterable[str]:
    start = last = -1
    for code in (*codes, sys.maxunicode + 2):
        if code != last + 1:
            if start >= 0:
                yield f"{chr(start)}-{chr(last)}"
            start = code
        last = code
