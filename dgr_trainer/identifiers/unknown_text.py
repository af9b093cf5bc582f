"""Counts what a tokenizer does not know in the texts of passages, and passages that become identical by it."""

import copy
import logging
import string
import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dgr_trainer.data.passages import Passage
from dgr_trainer.errors import DGRValueError
from dgr_trainer.identifiers.markers import docid_of
from dgr_trainer.identifiers.views import Identifiers, PassageSegments

logger = logging.getLogger(__name__)

_SAMPLED = 1000
_SHOWN = 60
# Passages whose titles and docids are kept, to show two that become identical.
_REMEMBERED = 100_000
_ADVICE = (
    "Unknown tokens are never generated, so identifiers with one are never found, and texts that differ only in them "
    "cannot be told apart. Use a student whose tokenizer knows the script, such as a multilingual or a byte-level one"
)


@dataclass
class _PartCounts:
    """What is known of one part of the passages: titles, texts, pseudo-queries or docids."""

    passages: int = 0
    characters: int = 0
    unknown_characters: int = 0
    unknown_tokens: int = 0
    example: str = ""

    def merge(self, other: "_PartCounts") -> None:
        """Add the counts of the passages after these."""
        self.passages += other.passages
        self.characters += other.characters
        self.unknown_characters += other.unknown_characters
        self.unknown_tokens += other.unknown_tokens
        self.example = self.example or other.example


@dataclass
class _Sameness:
    """Hashes of the texts and of the ids of titles or docids, to count different texts with equal ids."""

    texts: "array[int]" = field(default_factory=lambda: array("q"))
    ids: "array[int]" = field(default_factory=lambda: array("q"))
    first: dict[int, tuple[str, str]] = field(default_factory=dict)
    example: str = ""

    def add(self, passage_id: str, text: str, ids: Sequence[int]) -> None:
        key, text_key = hash(tuple(ids)), hash(text)
        self.texts.append(text_key)
        self.ids.append(key)
        if self.example:
            return
        if len(self.first) < _REMEMBERED:
            self.first.setdefault(key, (passage_id, text))
        other_id, other_text = self.first.get(key, (passage_id, text))
        if other_text != text:
            self._set_example((other_id, other_text), (passage_id, text))

    def merge(self, other: "_Sameness") -> None:
        """Add what another one, of the passages after these, has seen."""
        self.texts.extend(other.texts)
        self.ids.extend(other.ids)
        for key, passage in other.first.items():
            if self.example:
                return
            if len(self.first) < _REMEMBERED:
                self.first.setdefault(key, passage)
            if self.first.get(key, passage)[1] != passage[1]:
                self._set_example(self.first[key], passage)
        self.example = self.example or other.example

    def _set_example(self, one: tuple[str, str], other: tuple[str, str]) -> None:
        self.example = f"{shortened(one[1])} of {one[0]!r} and {shortened(other[1])} of {other[0]!r}"

    def count(self) -> int:
        """Passages whose ids another passage with another text has, too."""
        texts, ids = np.frombuffer(self.texts, np.int64), np.frombuffer(self.ids, np.int64)
        pairs, copies = np.unique(np.column_stack([ids, texts]), axis=0, return_counts=True)
        _, which, texts_of_ids = np.unique(pairs[:, 0], return_inverse=True, return_counts=True)
        return int(copies[texts_of_ids[which] > 1].sum())


class UnknownText:
    """Counts the text of passages that a tokenizer loses: what becomes unknown tokens, and what becomes nothing.

    Args:
        identifiers ([`Identifiers`]): The tokenizer and the views in use; parts without a view are not counted.
    """

    def __init__(self, identifiers: Identifiers) -> None:
        self.identifiers = identifiers
        self.unknown: int | None = identifiers.tokenizer.unk_token_id
        self.num_passages = 0
        self._parts: dict[str, _PartCounts] = defaultdict(_PartCounts)
        self._same: dict[str, _Sameness] = defaultdict(_Sameness)
        self._dropped: dict[str, bool] = {}
        self._keeps_ascii: bool | None = None

    def add(self, passages: Iterable[Passage], segments: Iterable[PassageSegments]) -> None:
        """Count passages and their segments, as `Identifiers.encode_segments` gives them."""
        views = self.identifiers.views
        for passage, segment in zip(passages, segments, strict=True):
            self.num_passages += 1
            if "title" in views:
                self._add("title", passage, [passage.title], [segment.title])
                if passage.title:
                    title = " ".join(passage.title.split())
                    self._same["title"].add(passage.id, title, segment.title)
            if "substring" in views:
                self._add("text", passage, [passage.text], [segment.body])
            if "pseudo_query" in views:
                texts = [text for text in passage.pseudo_queries if text.strip()]
                ids = segment.pseudo_queries
                # Those without tokens are left out of the segments.
                ids = ids if len(ids) == len(texts) else [self.identifiers.encode(text) for text in texts]
                self._add("pseudo-queries", passage, texts, ids)
            if "docid" in views:
                docid = docid_of(passage)
                self._add("docid", passage, [docid], [segment.docid])
                self._same["docid"].add(passage.id, docid, segment.docid)

    def taken(self) -> "UnknownText":
        """What was counted since the last call, for `merge` in another process; the counting begins anew."""
        counted = copy.copy(self)
        self.num_passages, self._parts, self._same = 0, defaultdict(_PartCounts), defaultdict(_Sameness)
        return counted

    def merge(self, other: "UnknownText") -> None:
        """Add what was counted of other passages, those after these."""
        self.num_passages += other.num_passages
        for part, counts in other._parts.items():
            self._parts[part].merge(counts)
        for part, same in other._same.items():
            self._same[part].merge(same)

    def __getstate__(self) -> dict[str, Any]:
        # Between processes, counts travel without the tokenizer.
        return {name: value for name, value in vars(self).items() if name not in ("identifiers", "_dropped")}

    def check(self) -> None:
        """Refuse passages of which most of the text of a part is lost.

        Raises:
            ValueError: if the tokenizer does not know more than half of the characters of the titles, the texts, the
                pseudo-queries or the docids.
        """
        for part, counts in self._parts.items():
            if 2 * counts.unknown_characters > counts.characters:
                raise DGRValueError(
                    f"The tokenizer does not know {counts.unknown_characters:,} of {counts.characters:,} characters "
                    f"in the {_plural(part)} of {self.num_passages:,} passages, for example in {counts.example}. "
                    f"{_ADVICE}."
                )

    def report(self) -> None:
        """Warn of text that is lost and of passages that become identical; refuse if most is lost (see `check`)."""
        self.check()
        for part, counts in self._parts.items():
            if counts.passages:
                logger.warning(
                    "The tokenizer does not know %s of %s characters (%s) in the %s of %s of %s passages: they "
                    "become %s unknown tokens, for example in %s. %s, or add tokens.",
                    f"{counts.unknown_characters:,}",
                    f"{counts.characters:,}",
                    f"{counts.unknown_characters / counts.characters:.1%}",
                    _plural(part),
                    f"{counts.passages:,}",
                    f"{self.num_passages:,}",
                    f"{counts.unknown_tokens:,}",
                    counts.example,
                    _ADVICE,
                )
        for part, same in self._same.items():
            number = same.count()
            if number:
                logger.warning(
                    "%s of %s passages have the same tokens as another passage for a different %s, so nothing tells "
                    "them apart by it%s.",
                    f"{number:,}",
                    f"{self.num_passages:,}",
                    part,
                    f": for example {same.example}" if same.example else "",
                )

    def _add(self, part: str, passage: Passage, texts: Sequence[str], encoded: Sequence[Sequence[int]]) -> None:
        counts = self._parts[part]
        affected = False
        for text, ids in zip(texts, encoded, strict=True):
            size = _visible(text)
            counts.characters += size
            lost = self._lost(text, ids) if size else 0
            if not lost:
                continue
            affected = True
            counts.unknown_characters += min(size, lost)
            counts.unknown_tokens += list(ids).count(self.unknown) if self.unknown is not None else 0
            if not counts.example:
                counts.example = f"the {part} of passage {passage.id!r}: {shortened(text)}"
        counts.passages += affected

    def _lost(self, text: str, ids: Sequence[int]) -> int:
        """Characters of a text that its ids do not hold, markers aside."""
        is_unknown = self.unknown is not None and self.unknown in ids
        if ids and not is_unknown and not self._drops_some(text):
            return 0
        # Markers are removed from the ids of a text on purpose; these ids still hold them.
        ids = self.identifiers.encode(text)
        kept = self.identifiers.decode([token for token in ids if token != self.unknown])
        lost = _size(text) - _size(kept)
        return max(lost, int(is_unknown or not ids))

    def _drops_some(self, text: str) -> bool:
        """Whether the tokenizer makes nothing of a letter or digit (byte-pair encoding without an unknown token)."""
        if self._keeps_ascii is None:
            self._keeps_ascii = not any(map(self._drops, string.ascii_letters + string.digits))
        if self._keeps_ascii and text.isascii():
            return False
        return any(map(self._drops, set(text)))

    def _drops(self, character: str) -> bool:
        if character not in self._dropped:
            self._dropped[character] = character.isalnum() and not self.identifiers.decode(
                self.identifiers.encode(character)
            )
        return self._dropped[character]


def check_script(passages: Sequence[Passage], identifiers: Identifiers, *, sampled: int = _SAMPLED) -> None:
    """Refuse passages of which the tokenizer knows too little, by a sample of them, before long work starts.

    Args:
        passages (`Sequence[Passage]`): The passages.
        identifiers ([`Identifiers`]): The tokenizer and the views in use.
        sampled (`int`): How many of them are looked at, at even distances.

    Raises:
        ValueError: see `UnknownText.check`.
    """
    step = max(1, len(passages) // sampled)
    sample = [passages[number] for number in range(0, len(passages), step)][:sampled]
    unknown = UnknownText(identifiers)
    unknown.add(sample, identifiers.encode_segments(sample))
    unknown.check()


def _visible(text: str) -> int:
    """Number of characters that are not whitespace."""
    if text.isascii() and text.isprintable():  # Then a space is the only whitespace; faster than to split the text.
        return len(text) - text.count(" ")
    return len("".join(text.split()))


def _size(text: str) -> int:
    return len("".join(unicodedata.normalize("NFKC", text).split()))


def shortened(text: str) -> str:
    """A text as a warning shows it: in quotes, with its beginning only if it is long."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def _plural(part: str) -> str:
    return part if part.endswith("s") else f"{part}s"
