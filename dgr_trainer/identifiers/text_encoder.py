"""Text to token ids: the rules of tokenizers on leading spaces, special tokens and scripts without spaces."""

import copy
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, cast

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from dgr_trainer.errors import DGRValueError
from dgr_trainer.identifiers.remembered_words import RememberedWords
from dgr_trainer.identifiers.special_tokens import SpecialTokens
from dgr_trainer.identifiers.words import Words, is_unspaced, split_words

_REMEMBERED_WORDS = 200_000
_MANY_TEXTS = 200  # For fewer, it does not pay to find out whether words are encoded independently.
# Texts after which another one gets the ids that it has inside a text without spaces; the first that works is used.
_BEFORE_UNSPACED = ("。", "、", "(", ".", ":", "-", "a", "e", "1")


class TextEncoder:
    """Encodes texts so that a word has the same ids wherever it stands, and no text becomes a special token.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): A tokenizer of any family.

    Attributes:
        special ([`SpecialTokens`]): Its special tokens.
        space (`str`): What is put before a text so that its first word gets the ids that it has inside a text.
        num_closing (`int`): Number of special tokens that the tokenizer puts at the end of a text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        # A fast tokenizer keeps truncation and padding as a state: with those of another thread, ids would be cut.
        self.tokenizer = copy.deepcopy(tokenizer)
        self.special = SpecialTokens(tokenizer)
        self._backend = _backend_of(self.tokenizer)
        self._word_ids: dict[str, list[int]] = {}
        self._words: RememberedWords | None = None
        self.space = self._leading_space()
        (plain,), (closed,) = self.raw(["code"]), self.raw(["code"], special_tokens=True)
        ends = [end for end in range(len(plain), len(closed) + 1) if closed[end - len(plain) : end] == plain]
        self.num_closing = len(closed) - ends[0] if ends else 0

    def _leading_space(self) -> str:
        for space in ("", " "):
            once, twice = self.raw([f"{space}code", f"{space}code code"])
            if twice == once + once:
                return space
        return ""

    def raw(self, texts: list[str], special_tokens: bool = False) -> list[list[int]]:
        """Ids as the tokenizer gives them, with or without the special tokens around them."""
        if not texts:
            return []
        if self._backend is not None:
            encodings = self._backend.encode_batch_fast(texts, add_special_tokens=special_tokens)
            return [encoding.ids for encoding in encodings]
        encoded = self.tokenizer(
            texts, add_special_tokens=special_tokens, truncation=False, padding=False, verbose=False
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def encode(
        self, texts: Sequence[str], name: Callable[[int], str] | None = None, *, spaced: bool = True
    ) -> list[list[int]]:
        """Ids of texts, none of them a special token but the unknown one.

        Args:
            texts (`Sequence[str]`): The texts.
            name (`Callable[[int], str]`, *optional*): What an error calls the text of a number.
            spaced (`bool`, defaults to `True`):
                Whether the words stand inside a text: with single spaces, the first one, too, behind a space.

        Raises:
            ValueError: if a text becomes a special token.
        """
        space = self.space if spaced else ""
        texts = [" ".join(text.split()) for text in texts] if spaced else texts
        found: list[list[int] | None] = self._from_words(texts) if spaced else [None] * len(texts)
        others = [number for number, ids in enumerate(found) if ids is None]
        as_text = self.special.as_text
        tokenised = self.raw([space + as_text(texts[number]) if texts[number] else "" for number in others])
        for number, ids in zip(others, tokenised, strict=True):
            if self.special.count(ids):
                (ids,) = self.raw([space + as_text(texts[number], normalised=True)])
            if self.special.count(ids):
                raise self.special_token_error(f"The text {texts[number]!r}" if name is None else name(number), ids)
            found[number] = ids
        return cast(list[list[int]], found)

    def _from_words(self, texts: Sequence[str]) -> list[list[int] | None]:
        """Ids of the texts whose words are remembered; `None` for the others, and for all in a small batch."""
        if self._words is None:
            if self._backend is None or len(texts) < _MANY_TEXTS:
                return [None] * len(texts)
            self._words = RememberedWords(self.raw, self._backend, self.space, self.special.count)
        return self._words.encode(texts)

    def special_token_error(
        self, what: str, ids: Sequence[int], special: SpecialTokens | None = None
    ) -> DGRValueError:
        """The error for a text whose ids hold a special token, by default one of the encoder's."""
        token = next(token for token in ids if (special or self.special).count([token]))
        return DGRValueError(
            f"{what} holds text that the tokenizer turns into its special token {self.tokenizer.decode([token])!r}, "
            "which would begin, end or hide a part of it. Remove that text."
        )

    def encode_unspaced(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids that texts have inside a longer text, without a space before them.

        Args:
            texts (`Sequence[str]`): Words in a script without spaces.

        Returns:
            `list[list[int]]`: ids of each text; none if they cannot be told from those of the text before it.
        """
        found: list[list[int]] = [[] for _ in texts]
        missing = list(range(len(texts)))
        for before in _BEFORE_UNSPACED:
            if not missing:
                break
            start, *encoded = self.encode([before, *(before + texts[number] for number in missing)])
            if self.special.unknown in start:
                continue
            for number, ids in zip(missing, encoded, strict=True):
                if ids[: len(start)] == start:
                    found[number] = ids[len(start) :]
            missing = [number for number in missing if not found[number]]
        return found

    def words(
        self, texts: Sequence[str], encoded: Sequence[Sequence[int]], remove: Callable[[list[int]], list[int]]
    ) -> list[Words | None]:
        """The words of texts, with where they start in the ids. Each different word is encoded once.

        Args:
            texts (`Sequence[str]`): The texts.
            encoded (`Sequence[Sequence[int]]`): Their ids, as `encode` gives them, after `remove`.
            remove (`Callable[[list[int]], list[int]]`): Removes markers from the ids of a text.

        Returns:
            `list[Words | None]`: the words of each text, joined where one starts inside a token; `None` if that cannot
            be told.
        """
        divided = [split_words(text) for text in texts]
        unspaced = [is_unspaced(text) for text in texts]
        # With spaces, these are its words.
        parts = [[] if is_one else words.text.split() for words, is_one in zip(divided, unspaced, strict=True)]
        distinct = list(dict.fromkeys(chain.from_iterable(parts)))
        ids_of = {word: remove(ids) for word, ids in zip(distinct, self._encode_words(distinct), strict=True)}
        found: list[Words | None] = []
        for words, is_one, of_text, ids in zip(divided, unspaced, parts, encoded, strict=True):
            starts = (
                self._unspaced_starts(words, ids) if is_one else _starts_of_parts([ids_of[w] for w in of_text], ids)
            )
            found.append(None if starts is None else words.joined(starts))
        return found

    def _encode_words(self, words: Sequence[str]) -> list[list[int]]:
        """Ids of words, those of earlier calls from memory."""
        known = self._word_ids  # Another thread may put an empty one in its place.
        unknown = [word for word in words if word not in known]
        if len(known) + len(unknown) > _REMEMBERED_WORDS:
            known, unknown = {}, list(words)
            self._word_ids = known
        known.update(zip(unknown, self.encode(unknown), strict=True))
        return [list(known[word]) for word in words]

    def _unspaced_starts(self, words: Words, ids: Sequence[int]) -> list[int | None] | None:
        """Where each word starts in the ids of a text of which some words are not separated by whitespace."""
        text, shift = self.space + words.text, len(self.space)
        if not self.tokenizer.is_fast:
            bounds = [0, *(start + shift for start, _ in words.spans[1:]), len(text)]
            parts = [text[left:right] for left, right in zip(bounds[:-1], bounds[1:], strict=True)]
            return _starts_of_parts(self.raw(parts), ids)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        if encoded["input_ids"] != list(ids):  # Markers or special tokens were removed from the text.
            return None
        positions: dict[int, int] = {}
        covered = 0
        for number, (left, right) in enumerate(encoded["offset_mapping"]):
            while left < len(text) and text[left].isspace():
                left += 1
            if left >= covered:
                positions.setdefault(left, number)
            covered = max(covered, right)
        return [0 if ids else None, *(positions.get(start + shift) for start, _ in words.spans[1:])]


def _backend_of(tokenizer: PreTrainedTokenizerBase) -> Tokenizer | None:
    """The compiled tokenizer of a fast one, for ids alone, which takes half of the time; `None` if it does more."""
    kind: Any = type(tokenizer)
    ordinary: Any = PreTrainedTokenizerFast
    if not isinstance(tokenizer, PreTrainedTokenizerFast) or any(
        getattr(kind, name, None) is not getattr(ordinary, name, None)
        for name in ("__call__", "_encode_plus", "_batch_encode_plus")
    ):
        return None
    backend: Tokenizer = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = bool(getattr(tokenizer, "split_special_tokens", False))
    return backend


def _starts_of_parts(parts: Sequence[Sequence[int]], ids: Sequence[int]) -> list[int | None] | None:
    """Where each part starts in the ids that they make together; `None` for a part without ids.

    `None` instead of a list if they make other ids.
    """
    if [token for part in parts for token in part] != list(ids):
        return None
    ends = np.cumsum([len(part) for part in parts]).tolist()
    return [end - len(part) if part else None for end, part in zip(ends, parts, strict=True)]
