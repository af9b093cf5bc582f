"""Pairs of a part of a corpus and its queries: identifiers are chosen, prompts tokenised, both packed into a table.

The random numbers depend only on the seed and the ids, so a part gives the same pairs whatever is done before it, and
in any process.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow as pa

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.identifiers.unknown_text import UnknownText
from dgr_trainer.training.pair_substrings import (
    DistinctiveSubstrings,
    PreparedPassage,
    PublishedSubstrings,
    grams,
)
from dgr_trainer.training.prompts import LostQueries
from dgr_trainer.training.stop_words import StopWords

FEATURES = datasets.Features(
    {"input_ids": datasets.List(datasets.Value("int32")), "labels": datasets.List(datasets.Value("int32"))}
)
# Passages whose tokens and words are kept, about 20 kB each.
_REMEMBERED_PASSAGES = 2048


class PairSource(NamedTuple):
    """What pairs are made of: a query and a passage that is relevant for it, or a passage alone.

    Attributes:
        position (`int`): Position of the passage in the corpus.
        query_id, query (`str`, *optional*): The query.
        counted (`bool`): Whether the unknown text of the passage is counted here.
    """

    position: int
    query_id: str | None = None
    query: str | None = None
    counted: bool = False


class Example(NamedTuple):
    """A query and an identifier to be generated from it.

    Attributes:
        view (`str`): The view of the identifier.
        query (`str`): The query.
        ids (`Sequence[int]`): The identifier's tokens.
    """

    view: str
    query: str
    ids: Sequence[int]


class MadePairs(NamedTuple):
    """The pairs of some sources.

    Attributes:
        table (`pa.Table`): Columns `input_ids` and `labels`.
        unknown ([`UnknownText`], *optional*): Text of their passages that the tokenizer does not know.
        losses ([`LostQueries`]): Queries that lose text.
    """

    table: pa.Table
    unknown: UnknownText | None
    losses: LostQueries


class PairMaker:
    """Makes the pairs of sources.

    Args:
        corpus ([`Corpus`]): The passages.
        identifiers ([`Identifiers`]): The student's tokenizer and views.
        per_query (`Mapping[str, int]`): Examples of each view for a query and a relevant passage.
        per_passage (`int`): Examples of each view for a passage alone.
        substrings ([`PublishedSubstrings`] or [`DistinctiveSubstrings`]): Draws substrings.
        piece_words (`int`): Words of a piece of a passage that plays the query.
        stop_words ([`StopWords`]): Words at which a substring rarely starts.
        seed (`int`): Seed of all draws.
    """

    def __init__(
        self,
        corpus: Corpus,
        identifiers: Identifiers,
        per_query: Mapping[str, int],
        per_passage: int,
        substrings: PublishedSubstrings | DistinctiveSubstrings,
        piece_words: int,
        stop_words: StopWords,
        seed: int,
    ) -> None:
        self.corpus = corpus
        self.identifiers = identifiers
        self.per_query = per_query
        self.per_passage = per_passage
        self.substrings = substrings
        self.piece_words = piece_words
        self.stop_words = stop_words
        self.seed = seed
        self._unknown = UnknownText(identifiers)
        self._packer = PairPacker(identifiers)
        self._prepared: OrderedDict[int, PreparedPassage] = OrderedDict()

    def make(self, sources: Sequence[PairSource]) -> MadePairs:
        """The pairs of some sources, in their order."""
        prepared = self._prepare(sources)
        counted = [prepared[source.position] for source in sources if source.counted]
        self._unknown.add([one.passage for one in counted], [one.segments for one in counted])
        examples = (example for source in sources for example in self._examples(source, prepared[source.position]))
        return MadePairs(self._packer.pack(list(examples)), self._unknown.taken(), self._packer.losses.taken())

    def _prepare(self, sources: Sequence[PairSource]) -> dict[int, PreparedPassage]:
        """The passages of some sources by position; those of earlier calls from memory."""
        positions = list(dict.fromkeys(source.position for source in sources))
        new = [position for position in positions if position not in self._prepared]
        passages = self.corpus.take(new) if new else []
        encoded = self.identifiers.encode_segments(passages)
        bodies = [segments.body for segments in encoded]
        # Words are needed where substrings are.
        texts = [passage.text if body else "" for passage, body in zip(passages, bodies, strict=True)]
        words = self.identifiers.words_of(texts, bodies)
        for position, passage, segments, of_text in zip(new, passages, encoded, words, strict=True):
            self._prepared[position] = PreparedPassage(passage, segments, of_text, self.identifiers, self.stop_words)
        prepared = {position: self._prepared[position] for position in positions}
        if "substring" in self.identifiers.views:
            self.substrings.prepare(list(prepared.values()))
        for position in positions:
            self._prepared.move_to_end(position)
        while len(self._prepared) > _REMEMBERED_PASSAGES:
            self._prepared.popitem(last=False)
        return prepared

    def _examples(self, source: PairSource, passage: PreparedPassage) -> Iterator[Example]:
        if source.query_id is not None and source.query is not None:
            random = random_of(self.seed, source.query_id, passage.passage.id)
            yield from self._targets(passage, source.query, self.per_query, random)
            return
        random = random_of(self.seed, passage.passage.id)
        for _ in range(self.per_passage):
            query = self._piece(passage, random)
            yield from self._targets(passage, query, dict.fromkeys(self.identifiers.views, 1), random)

    def _piece(self, passage: PreparedPassage, random: np.random.Generator) -> str:
        """A piece of a passage to use as the query: a pseudo-query or consecutive words of the body."""
        words, pseudo_queries = passage.pieces, passage.passage.pseudo_queries
        if pseudo_queries and (not words.spans or random.random() < 0.5):
            return pseudo_queries[random.integers(len(pseudo_queries))]
        start = int(random.integers(max(1, len(words.spans) - self.piece_words + 1)))
        return words.piece(start, self.piece_words) or passage.passage.title

    def _targets(
        self, passage: PreparedPassage, query: str, counts: Mapping[str, int], random: np.random.Generator
    ) -> Iterator[Example]:
        segments, target = passage.segments, self.identifiers.target
        for view in self.identifiers.views:
            count = counts[view]
            if view == "substring":
                drawn = self.substrings.draw(passage, self._grams(query), count, random)
                yield from (Example(view, query, ids) for ids in drawn)
            elif view == "pseudo_query":
                # Not the query itself: copying it would teach nothing about the passage.
                others = [
                    ids
                    for ids, text in zip(segments.pseudo_queries, passage.pseudo_queries, strict=True)
                    if text != query
                ]
                for number in random.permutation(len(others))[:count]:
                    yield Example(view, query, target(view, others[number]))
            else:
                segment = segments.title if view == "title" else segments.docid
                for _ in range(count if segment else 0):
                    yield Example(view, query, target(view, segment))

    def _grams(self, query: str) -> list[str]:
        return grams(self.identifiers.split_words(query))


class PairPacker:
    """Tokenises the prompts of examples, each different one once, and packs prompts and identifiers into a table.

    Args:
        identifiers ([`Identifiers`]): The student's tokenizer and prompts.

    Attributes:
        losses ([`LostQueries`]): The queries of examples that lose text.
    """

    def __init__(self, identifiers: Identifiers) -> None:
        self.identifiers = identifiers
        self.losses = LostQueries(identifiers)

    def pack(self, examples: Sequence[Example]) -> pa.Table:
        """Columns `input_ids` and `labels`, a row for each example."""
        prompts: dict[tuple[str, str], list[int]] = {}
        for view in sorted({example.view for example in examples}):
            of_view = [example.query for example in examples if example.view == view]
            queries = list(dict.fromkeys(of_view))
            encoded = dict(zip(queries, self.identifiers.encode_prompts(queries, view, False), strict=True))
            prompts |= {(view, query): ids for query, ids in encoded.items()}
            full = {query for query, ids in encoded.items() if len(ids) >= self.losses.limit}
            if full:
                self.losses.add_cut([query for query in of_view if query in full], [view])
            unknown = {query for query, ids in encoded.items() if self.losses.unknown in ids}
            if unknown:
                self.losses.add_unknown([query for query in of_view if query in unknown])
        eos = self.identifiers.eos_token_id
        rows = [prompts[example.view, example.query] for example in examples]
        labels = [ids if ids[-1] == eos else (*ids, eos) for _, _, ids in examples]
        return pa.table({"input_ids": _lists(rows), "labels": _lists(labels)}, schema=FEATURES.arrow_schema)


def random_of(seed: int, *ids: str) -> np.random.Generator:
    """Random numbers that depend only on the seed and the ids."""
    return np.random.default_rng([seed, *(zlib.crc32(i.encode()) for i in ids)])


def _lists(rows: Sequence[Sequence[int]]) -> pa.Array:
    """A column of token ids."""
    ends = np.zeros(len(rows) + 1, np.int32)
    np.cumsum([len(row) for row in rows], out=ends[1:])
    values = np.fromiter(chain.from_iterable(rows), np.int32, count=int(ends[-1]))
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(values))
