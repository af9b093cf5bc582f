"""Generation pairs: (prompt, identifier) examples that teach a student to generate what identifies a passage.

A judged query gives its passage's title, substrings that resemble the query, and pseudo-queries (MINDER, section 3;
substrings are sampled as LTRGR describes). A passage alone gives pairs in which a piece of it is used as the query.
The result is an ordinary tokenised dataset, `input_ids` and `labels`, for any seq2seq trainer.
"""

import logging
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
from rapidfuzz import fuzz, process

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.grades import Qrels, as_qrels
from dgr_trainer.data.passages import Passage
from dgr_trainer.data.queries import queries_mapping
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.arrow_rows import dataset_from_rows
from dgr_trainer.identifiers import Identifiers, PassageSegments
from dgr_trainer.identifiers.unknown_text import UnknownText, check_script
from dgr_trainer.identifiers.words import Words
from dgr_trainer.training.prompts import LostQueries
from dgr_trainer.training.stop_words import StopWords

logger = logging.getLogger(__name__)

_FEATURES = datasets.Features(
    {"input_ids": datasets.List(datasets.Value("int32")), "labels": datasets.List(datasets.Value("int32"))}
)
_CHUNK = 256


def generation_pairs(
    corpus: Corpus,
    identifiers: Identifiers,
    queries: datasets.Dataset | Mapping[str, str] | None = None,
    qrels: Qrels | None = None,
    *,
    titles_per_query: int = 3,
    substrings_per_query: int = 10,
    pseudo_queries_per_query: int = 5,
    samples_per_passage: int = 1,
    substring_words: int = 10,
    temperature: float = 1.0,
    seed: int = 42,
    progress: bool = True,
) -> datasets.Dataset:
    """Make the training data of the generation stage: one example per (prompt, identifier) pair.

    Args:
        corpus ([`Corpus`]): Passages, with pseudo-queries where there are any.
        identifiers ([`Identifiers`]): The student's tokenizer and views; other views give no pairs.
        queries (`datasets.Dataset` or `Mapping[str, str]`, *optional*): Training queries.
        qrels (`Qrels`, *optional*): Their relevant passages, needed with `queries`.
        titles_per_query (`int`, defaults to 3): Title examples (or docid examples) per query and relevant passage.
        substrings_per_query (`int`, defaults to 10): Substrings sampled per query and relevant passage.
        pseudo_queries_per_query (`int`, defaults to 5): Pseudo-queries sampled per query and relevant
            passage, at most those that exist.
        samples_per_passage (`int`, defaults to 1):
            Examples of every view from each passage alone, with a piece of its body or a pseudo-query as the query.
        substring_words (`int`, defaults to 10):
            Length of a substring in words: whitespace words, and in scripts without spaces Unicode words, or what the
            tokenizer joins of them.
        temperature (`float`, defaults to 1.0): Temperature of the softmax over the starts of substrings; higher is
            more even.
        seed (`int`, defaults to 42): Equal seeds give equal pairs, whatever the order of queries in mappings.
        progress (`bool`, defaults to `True`): Show progress bars.

    Returns:
        `datasets.Dataset`: Columns `input_ids` (prompt with special tokens) and `labels` (identifier, then the end of
        sequence), memory-mapped, unshuffled.

    Raises:
        ValueError: if queries come without qrels, if no pair can be made, on counts below zero, or if the tokenizer
            does not know most of the passages' text.
    """
    counts = {
        "titles_per_query": titles_per_query,
        "substrings_per_query": substrings_per_query,
        "pseudo_queries_per_query": pseudo_queries_per_query,
        "samples_per_passage": samples_per_passage,
    }
    if any(count < 0 for count in counts.values()) or substring_words < 1 or temperature <= 0:
        raise DGRValueError(
            f"Counts must not be negative, substring_words at least 1 and temperature above 0; got {counts}, "
            f"substring_words={substring_words}, temperature={temperature}."
        )
    if (queries is None) != (qrels is None):
        raise DGRValueError(
            "queries and qrels go together: a pair needs a query and its relevant passage. Give both or neither."
        )
    texts = None if queries is None else queries_mapping(queries)
    qrels = None if qrels is None else as_qrels(qrels)
    check_script(corpus, identifiers)
    stop_words = StopWords(corpus if texts is not None and "substring" in identifiers.views else (), identifiers)
    maker = _PairMaker(identifiers, substring_words, temperature, seed, stop_words)
    unknown, losses = UnknownText(identifiers), LostQueries(identifiers)

    def examples() -> Iterator[tuple[str, str, Sequence[int]]]:
        if texts is not None and qrels is not None:
            per_view = {"title": titles_per_query, "docid": titles_per_query}
            per_view |= {"substring": substrings_per_query, "pseudo_query": pseudo_queries_per_query}
            # Each passage is counted once.
            counted = None if samples_per_passage else unknown
            yield from maker.from_queries(corpus, texts, qrels, per_view, counted)
        if samples_per_passage:
            yield from maker.from_passages(corpus, samples_per_passage, unknown)

    pairs = dataset_from_rows(
        _tokenised(examples(), identifiers, losses),
        _FEATURES,
        description="Writing generation pairs" if progress else None,
    )
    unknown.report()
    losses.report(len(pairs), "queries of generation pairs")
    if not len(pairs):
        raise DGRValueError(
            "No generation pair could be made: no query has a relevant passage in the corpus, or every count is 0. "
            f"The corpus has {len(corpus)} passages, the views are {', '.join(identifiers.views)}."
        )
    return pairs


def _tokenised(
    examples: Iterable[tuple[str, str, Sequence[int]]], identifiers: Identifiers, losses: LostQueries
) -> Iterator[dict[str, Any]]:
    """Tokenise prompts in chunks, which is several times faster than one at a time."""
    chunk: list[tuple[str, str, Sequence[int]]] = []

    def flush() -> Iterator[dict[str, Any]]:
        prompts: dict[int, list[int]] = {}
        for view in sorted({view for view, _, _ in chunk}):
            rows = [row for row, example in enumerate(chunk) if example[0] == view]
            queries = [chunk[row][1] for row in rows]
            encoded = identifiers.encode_prompts(queries, view, False)
            prompts |= zip(rows, encoded, strict=True)
            full = [query for query, ids in zip(queries, encoded, strict=True) if len(ids) >= losses.limit]
            losses.add_cut(full, [view])
            losses.add_unknown([query for query, ids in zip(queries, encoded, strict=True) if losses.unknown in ids])
        eos = identifiers.eos_token_id
        for row, (_, _, ids) in enumerate(chunk):
            yield {"input_ids": prompts[row], "labels": [*ids] if ids[-1] == eos else [*ids, eos]}

    for example in examples:
        chunk.append(example)
        if len(chunk) == _CHUNK:
            yield from flush()
            chunk = []
    yield from flush()


class _PairMaker:
    """Yields (view, query, identifier ids) examples; the random numbers depend only on the seed and the ids."""

    def __init__(
        self,
        identifiers: Identifiers,
        substring_words: int,
        temperature: float,
        seed: int,
        stop_words: StopWords,
    ) -> None:
        self.identifiers = identifiers
        self.substring_words = substring_words
        self.temperature = temperature
        self.seed = seed
        self.stop_words = stop_words

    def from_queries(
        self,
        corpus: Corpus,
        queries: Mapping[str, str],
        qrels: Qrels,
        counts: Mapping[str, int],
        unknown: UnknownText | None,
    ) -> Iterator[tuple[str, str, Sequence[int]]]:
        missing = 0
        counted: set[str] = set()
        for query_id in sorted(queries):
            for passage_id in sorted(p for p, grade in qrels.get(query_id, {}).items() if grade > 0):
                if passage_id not in corpus.ids:
                    missing += 1
                    continue
                random = self._random(query_id, passage_id)
                query, passage = queries[query_id], corpus.get(passage_id)
                (segments,) = self.identifiers.encode_segments([passage])
                if unknown is not None and passage_id not in counted:
                    counted.add(passage_id)
                    unknown.add([passage], [segments])
                for view in self.identifiers.views:
                    for ids in self._targets(view, passage, segments, query, counts[view], random):
                        yield view, query, ids
        if missing:
            logger.warning("%d judged passages are not in the corpus and give no generation pairs.", missing)

    def from_passages(
        self, corpus: Corpus, samples: int, unknown: UnknownText
    ) -> Iterator[tuple[str, str, Sequence[int]]]:
        for start in range(0, len(corpus), _CHUNK):
            passages = [corpus[i] for i in range(start, min(start + _CHUNK, len(corpus)))]
            encoded = self.identifiers.encode_segments(passages)
            unknown.add(passages, encoded)
            for passage, segments in zip(passages, encoded, strict=True):
                random = self._random(passage.id)
                for _ in range(samples):
                    query = self._piece(passage, random)
                    for view in self.identifiers.views:
                        for ids in self._targets(view, passage, segments, query, 1, random):
                            yield view, query, ids

    def _random(self, *ids: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, *(zlib.crc32(i.encode()) for i in ids)])

    def _piece(self, passage: Passage, random: np.random.Generator) -> str:
        """A piece of a passage to use as the query: a pseudo-query or consecutive words of the body."""
        words = self.identifiers.split_words(passage.text)
        if passage.pseudo_queries and (not words.spans or random.random() < 0.5):
            return passage.pseudo_queries[random.integers(len(passage.pseudo_queries))]
        start = int(random.integers(max(1, len(words.spans) - self.substring_words + 1)))
        return words.piece(start, self.substring_words) or passage.title

    def _targets(
        self,
        view: str,
        passage: Passage,
        segments: PassageSegments,
        query: str,
        count: int,
        random: np.random.Generator,
    ) -> Iterator[tuple[int, ...]]:
        target = self.identifiers.target
        if view == "substring":
            yield from self._substrings(passage, segments.body, query, count, random)
        elif view == "pseudo_query":
            # Not the query itself: copying it would teach nothing about the passage.
            others = [ids for ids in segments.pseudo_queries if self.identifiers.decode(ids) != query]
            for i in random.permutation(len(others))[:count]:
                yield target(view, others[i])
        else:
            segment = segments.title if view == "title" else segments.docid
            for _ in range(count if segment else 0):
                yield target(view, segment)

    def _substrings(
        self, passage: Passage, body: list[int], query: str, count: int, random: np.random.Generator
    ) -> Iterator[tuple[int, ...]]:
        if not body or not count:
            return
        words = self.identifiers.words(passage.text, body)
        starts = list(range(len(body))) if words is None else words.starts
        probabilities = None
        if words is not None:
            weights = self._overlap(query, words)
            logits = weights / self.temperature
            probabilities = np.exp(logits - logits.max())
            probabilities /= probabilities.sum()
        bounds = [*starts, len(body)]
        for first in random.choice(len(starts), size=count, p=probabilities):
            yield tuple(body[bounds[first] : bounds[min(first + self.substring_words, len(starts))]])

    def _overlap(self, query: str, words: Words) -> np.ndarray:
        """Weight of each word of a passage as a start: similarity of its trigram to those of the query, summed."""
        query_words = self.identifiers.split_words(query)
        query_grams = [query_words.piece(i, 3) for i in range(len(query_words.spans))]
        passage_grams = [words.piece(i, 3) for i in range(len(words.spans))]
        if not query_grams:
            return np.zeros(len(passage_grams))
        similarity = process.cdist(query_grams, passage_grams, scorer=fuzz.ratio, dtype=np.float32).sum(axis=0) / 100.0
        similarity[[words.piece(i, 1) in self.stop_words for i in range(len(passage_grams))]] = 0.0
        return np.asarray(similarity, dtype=np.float64)
