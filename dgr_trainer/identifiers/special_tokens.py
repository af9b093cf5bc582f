"""Keeps text from being taken for special tokens: `</s>` in a passage is text, and ends nothing."""

import re
import unicodedata
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

_NAMES = ("bos", "eos", "pad", "unk", "mask", "cls", "sep")


class SpecialTokens:
    """The tokens of a tokenizer that stand for no text: those that begin, end, pad, mask or replace it.

    Tokens that a user added under other names, such as the codes of semantic ids, and a tokenizer's sentinels and
    language codes are tokens like any others.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): The tokenizer.
        within (`str`, defaults to `""`):
            A text, such as a chat template, whose special tokens count too, whatever their names.

    Attributes:
        ids (`frozenset[int]`): Their ids.
        unknown (`int`, *optional*): The id of the unknown token, among them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, within: str = "") -> None:
        named = {name: getattr(tokenizer, f"{name}_token_id", None) for name in _NAMES}
        texts = {str(getattr(tokenizer, f"{name}_token")) for name, token in named.items() if token is not None}
        self.ids = frozenset(token for token in named.values() if token is not None)
        self.unknown = named["unk"]
        # The unknown token may also be the end of the sequence (GPT-2's).
        self._structural = self.ids - {self.unknown} | ({named["eos"]} & self.ids)
        for token, added in tokenizer.added_tokens_decoder.items() if within else ():
            if added.special and added.content in within:
                self._structural |= {token}
                texts.add(added.content)
        alternatives = "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True) if text)
        self._pattern = re.compile(alternatives) if alternatives else None

    def as_text(self, text: str, normalised: bool = False) -> str:
        """Separate the first character of each special token in a text from the rest, so that it is one no more.

        Args:
            text (`str`): The text.
            normalised (`bool`, defaults to `False`):
                Normalise the text before (NFKC), as many tokenizers do, so that `＜/s＞` is found, too.
        """
        if normalised:
            text = unicodedata.normalize("NFKC", text)
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda match: f"{match[0][0]} {match[0][1:]}" if len(match[0]) > 1 else " ", text)

    def count(self, ids: Sequence[int]) -> int:
        """How many of these ids begin, end, pad or mask a text."""
        if self._structural.isdisjoint(ids):
            return 0
        return sum(token in self._structural for token in ids)
