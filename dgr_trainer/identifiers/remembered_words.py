"""Texts encoded word by word, from memory, where a tokenizer treats words apart: the same ids with less work."""

from __future__ import annotations

import random
import re
import threading
import unicodedata
from collections.abc import Callable, Sequence
from itertools import chain, pairwise, product
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from dgr_trainer.identifiers.words import is_unspaced

_MOST_WORDS = 2_000_000  # Each takes about 80 bytes.
_ASCII = [chr(code) for code in range(0x21, 0x7F)]
# A letter, digit or sign of each kind that the patterns of tokenizers tell apart.
_OTHERS = list("éÉßǅʰªªº²½Ⅷ٣१‿–—‘’“”«»…•§°¤€£±×÷√←™©®αЖאعहไ")


class _Memory(threading.local):
    """The ids of words; each thread has its own.

    Attributes:
        table ([`WordTable`]): The words.
        sizes (`np.ndarray` of int32): How many ids each has; -1 where the tokenizer has to see the text around it.
        starts (`np.ndarray` of int64): Where its ids begin.
        ids (`np.ndarray` of int32): The ids, one word after the other.
    """

    def __init__(self) -> None:
        # Compiles kernels, which is not worth while for a few texts.
        from dgr_trainer.identifiers.word_table import WordTable

        self.table = WordTable()
        self.starts, self.sizes, self.ids = np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.int32)

    def learn(self, ids: Sequence[Sequence[int] | None]) -> None:
        """Remember the ids of the next words."""
        sizes = np.fromiter((-1 if of_word is None else len(of_word) for of_word in ids), np.int32, len(ids))
        flat = np.fromiter(chain.from_iterable(filter(None, ids)), np.int32)
        ends = len(self.ids) + np.cumsum(sizes.clip(0), dtype=np.int64)
        self.starts = np.concatenate([self.starts, ends - sizes.clip(0)])
        self.sizes = np.concatenate([self.sizes, sizes])
        self.ids = np.concatenate([self.ids, flat])

    def forget(self, most: int) -> None:
        """If there are more words than that, keep the half of them that was used last."""
        kept = self.table.forget(most)
        if kept is None:
            return
        self.ids = self.ids_of(kept)
        self.sizes = self.sizes[kept]
        self.starts = np.cumsum(self.sizes.clip(0), dtype=np.int64) - self.sizes.clip(0)

    def ids_of(self, numbers: np.ndarray) -> np.ndarray:
        """The ids of words, one word after the other."""
        sizes = self.sizes[numbers].clip(0)
        ends = np.cumsum(sizes, dtype=np.int64)
        positions = np.repeat(self.starts[numbers] - (ends - sizes), sizes)
        positions += np.arange(len(positions))
        ids: np.ndarray = self.ids[positions]
        return ids


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
        self._memory = _Memory()
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
        return {name: value for name, value in vars(self).items() if name != "_memory"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _memory=_Memory())  # Copies and other processes begin with an empty memory.

    def encode(self, texts: Sequence[str]) -> list[list[int] | None]:
        """Ids of texts whose words are separated by single spaces; `None` for those that take the tokenizer.

        Args:
            texts (`Sequence[str]`): The texts.
        """
        if not self.exact or not texts:
            return [None] * len(texts)
        memory = self._memory
        numbers, starts = memory.table.number(texts)
        new = memory.table.words(len(memory.sizes))
        if new:
            memory.learn(self._encoded(new))
        sizes = memory.sizes[numbers]
        others = np.concatenate([[0], np.cumsum(sizes < 0)])[starts]
        ends = np.concatenate([[0], np.cumsum(sizes.clip(0), dtype=np.int64)])[starts]
        ids = memory.ids_of(numbers).tolist()
        memory.forget(_MOST_WORDS)
        return [
            None if other else ids[start:end]
            for other, (start, end) in zip(np.diff(others).tolist(), pairwise(ends.tolist()), strict=True)
        ]

    def _encoded(self, words: list[str]) -> list[list[int] | None]:
        """Ids of words, `None` for those that may change with the words around them."""
        plain = [self._is_plain(word) for word in words]
        encoded = iter(self._raw([self._space + word for word, is_one in zip(words, plain, strict=True) if is_one]))
        ids = [next(encoded) if is_one else None for is_one in plain]
        return [None if of_word is None or self._special(of_word) else of_word for of_word in ids]

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
