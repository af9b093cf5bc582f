"""Texts encoded word by word, from memory, where a tokenizer treats words apart: the same ids with less work."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Sequence
from itertools import chain, pairwise, product
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer

from dgr_trainer.identifiers.words import is_unspaced

_MOST_WORDS = 600_000  # Each takes about 200 bytes; twice as many may be remembered.
_NOT_KNOWN: list[int] = [-1]
_ASCII = [chr(code) for code in range(0x21, 0x7F)]
# A letter, digit or sign of each kind that the patterns of tokenizers tell apart.
_OTHERS = list("éÉßǅʰªªº²½Ⅷ٣१‿–—‘’“”«»…•§°¤€£±×÷√←™©®αЖאعहไ")


class RememberedWords:
    """Ids of texts from those of their words, if the tokenizer encodes the words of a text independently.

    Most tokenizers do: they divide a text at its spaces first. Whether this one does is found by a probe: texts in
    which every kind of character stands before and after every other one, across a space. Words that normalisation
    changes, that hold an added token or are in a script without spaces are left to the tokenizer, with the whole text
    around them.

    Args:
        raw (`Callable[[list[str]], list[list[int]]]`): Encodes texts.
        backend ([`~tokenizers.Tokenizer`]): The compiled tokenizer behind it.
        space (`str`): What is put before a text so that its first word gets the ids that it has inside a text.
        special (`Callable[[Sequence[int]], int]`): Counts the ids that no text may have.
    """

    def __init__(
        self,
        raw: Callable[[list[str]], list[list[int]]],
        backend: Tokenizer,
        space: str,
        special: Callable[[Sequence[int]], int],
    ) -> None:
        self._raw, self._space, self._special = raw, space, special
        # Words that were used since the last exchange of the two, and those used before: the frequent ones stay.
        self._recent: dict[str, list[int] | None] = {}
        self._older: dict[str, list[int] | None] = {}
        added = backend.get_added_tokens_decoder().values()
        contents = sorted({token.content for token in added if token.content}, key=len, reverse=True)
        # In any case: some are looked for after the text is put in lower case.
        self._added = re.compile("|".join(map(re.escape, contents)), re.IGNORECASE) if contents else None
        self.exact = (
            backend.pre_tokenizer is not None
            and not any(character.isspace() for content in contents for character in content)
            and self._words_are_independent()
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_recent": {}, "_older": {}}  # Copies and other processes begin with an empty memory.

    def encode(self, texts: Sequence[str]) -> list[list[int] | None]:
        """Ids of texts whose words are separated by single spaces; `None` for those that take the tokenizer.

        Args:
            texts (`Sequence[str]`): The texts.
        """
        if not self.exact or not texts:
            return [None] * len(texts)
        words_of = pc.split_pattern(pa.array(texts, pa.large_string()), " ")
        coded = words_of.values.dictionary_encode()
        ids = self._ids_of(coded.dictionary.to_pylist())
        lengths = np.array([-1 if of_word is None else len(of_word) for of_word in ids])
        starts = np.cumsum(lengths.clip(0)) - lengths.clip(0)
        tokens = np.fromiter(chain.from_iterable(filter(None, ids)), np.int64)

        number = coded.indices.to_numpy()
        sizes = lengths[number]
        is_other = np.add.reduceat(sizes < 0, words_of.offsets.to_numpy()[:-1]) > 0
        sizes = sizes.clip(0)
        ends = np.concatenate([[0], np.cumsum(sizes)])
        # Each word's tokens, wherever it stands.
        flat = tokens[np.arange(ends[-1]) + np.repeat(starts[number] - ends[:-1], sizes)].tolist()
        bounds = ends[words_of.offsets.to_numpy()].tolist()
        return [
            None if other else flat[start:end]
            for other, (start, end) in zip(is_other.tolist(), pairwise(bounds), strict=True)
        ]

    def _ids_of(self, words: list[str]) -> list[list[int] | None]:
        recent, older = self._recent, self._older  # Another thread may put others in their place.
        ids = [recent.get(word, _NOT_KNOWN) for word in words]
        missing = [number for number, of_word in enumerate(ids) if of_word is _NOT_KNOWN]
        if missing:
            again = {words[number]: older.get(words[number], _NOT_KNOWN) for number in missing}
            again.update(self._encoded([word for word, of_word in again.items() if of_word is _NOT_KNOWN]))
            for number in missing:
                ids[number] = again[words[number]]
            recent.update(again)
            if len(recent) > _MOST_WORDS:
                self._recent, self._older = {}, recent
        return ids

    def _encoded(self, words: list[str]) -> dict[str, list[int] | None]:
        """Ids of words, `None` for those that may change with the words around them."""
        plain = [word for word in words if word and self._is_plain(word)]
        ids: dict[str, list[int] | None] = {word: None if word else [] for word in words}
        for word, of_word in zip(plain, self._raw([self._space + word for word in plain]), strict=True):
            ids[word] = None if self._special(of_word) else of_word
        return ids

    def _is_plain(self, word: str) -> bool:
        if self._added is not None and self._added.search(word):
            return False
        if word.isascii():
            return word.isprintable()
        return (
            unicodedata.is_normalized("NFKC", word)
            and not is_unspaced(word)
            and all(unicodedata.category(character)[0] in "LNPS" for character in word)
        )

    def _words_are_independent(self) -> bool:
        """Whether texts of all kinds of characters have the ids of their words, one after the other."""
        alphabet = [character for character in [*_ASCII, *_OTHERS] if self._is_plain(character)]
        neighbours = chain.from_iterable(product(alphabet, alphabet))
        draw = random.Random(0)
        mixed = ["".join(draw.choices(alphabet, k=draw.randint(1, 4))) for _ in range(10_000)]
        lengthened = [f"a{first} {last}a" for first, last in product(alphabet[: len(_ASCII)], repeat=2)]
        for text in (" ".join(neighbours), " ".join(mixed), " ".join(lengthened)):
            words = text.split(" ")
            if not all(map(self._is_plain, words)):
                words = [word for word in words if self._is_plain(word)]
                text = " ".join(words)
            distinct = sorted(set(words))
            ids = dict(zip(distinct, self._raw([self._space + word for word in distinct]), strict=True))
            if self._raw([self._space + text])[0] != [token for word in words for token in ids[word]]:
                return False
        return True
