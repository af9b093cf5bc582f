"""Generation pairs: (prompt, identifier) examples that teach a student to generate what identifies a passage.

A judged query gives its passage's title, substrings that resemble the query, and pseudo-queries (MINDER, section 3;
substrings are sampled as LTRGR describes, or by how well they tell the passage from others). A passage alone gives
pairs in which a piece of it is used as the query. The student's own candidates give pairs of the identifiers by which
it found the relevant passages. The result is an ordinary tokenised dataset, `input_ids` and `labels`, for any seq2seq
trainer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TypeVar

import datasets
import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from dgr_trainer.candidates import Candidates, MatchedIdentifier
from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.grades import Qrels, as_qrels
from dgr_trainer.data.queries import queries_mapping
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.arrow_rows import dataset_from_tables
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.identifiers.unknown_text import UnknownText, check_script
from dgr_trainer.index import FMIndex
from dgr_trainer.processes.worker_processes import check_num_proc, map_chunks
from dgr_trainer.training.pair_making import FEATURES, Example, MadePairs, PairMaker, PairPacker, PairSource, random_of
from dgr_trainer.training.pair_substrings import DistinctiveSubstrings, PublishedSubstrings
from dgr_trainer.training.prompts import LostQueries
from dgr_trainer.training.stop_words import StopWords

logger = logging.getLogger(__name__)

TARGETS = ("dgr_paper", "distinctive")
SUBSTRING_TOKENS = 8
"""Longest distinctive substring by default: what a search generates (`SearchSettings.substring_length`)."""

Item = TypeVar("Item")
_CHUNK = 256
_SAMPLED = 250


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
    targets: str = "dgr_paper",
    index: FMIndex | None = None,
    substring_length: int | None = None,
    seed: int = 42,
    num_proc: int | None = None,
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
        targets (`str`, defaults to `"dgr_paper"`):
            Which substrings are taught. `"dgr_paper"`: as published, drawn by their resemblance to the query, with
            repetitions. `"distinctive"`: also by their log-odds against the corpus, each once, cut to
            `substring_length` (see [`DistinctiveSubstrings`]). Needs `index`.
        index ([`FMIndex`], *optional*): Index of the corpus, which counts the substrings, for `"distinctive"`.
        substring_length (`int`, *optional*):
            Longest substring, in tokens; give what the search has (`SearchSettings.substring_length`). Whole words are
            taken; a single word that is longer is cut. By default 8 for `"distinctive"`, and any length for
            `"dgr_paper"`.
        seed (`int`, defaults to 42): Equal seeds give equal pairs, whatever the order of queries in mappings.
        num_proc (`int`, *optional*): Number of processes, which gives the same pairs. By default only this one works.
        progress (`bool`, defaults to `True`): Show progress bars.

    Returns:
        `datasets.Dataset`: Columns `input_ids` (prompt with special tokens) and `labels` (identifier, then the end of
        sequence), memory-mapped, unshuffled.

    Raises:
        ValueError: if queries come without qrels, if no pair can be made, on counts below zero, if the tokenizer does
            not know most of the passages' text, or if the index is missing, not needed or of another corpus.
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
    if substring_length is not None and substring_length < 1:
        raise DGRValueError(f"substring_length={substring_length}: a substring has at least 1 token.")
    check_num_proc(num_proc)
    _check_index(targets, index, corpus, identifiers)
    if (queries is None) != (qrels is None):
        raise DGRValueError(
            "queries and qrels go together: a pair needs a query and its relevant passage. Give both or neither."
        )
    texts = None if queries is None else queries_mapping(queries)
    qrels = None if qrels is None else as_qrels(qrels)
    check_script(corpus, identifiers, sampled=_SAMPLED)
    stop_words = StopWords(corpus if texts is not None and "substring" in identifiers.views else (), identifiers)
    substrings: PublishedSubstrings | DistinctiveSubstrings
    if index is None:
        substrings = PublishedSubstrings(substring_words, substring_length, temperature)
    else:
        tokens = substring_length or SUBSTRING_TOKENS
        substrings = DistinctiveSubstrings(index, substring_words, tokens, temperature)
    per_query = {"title": titles_per_query, "docid": titles_per_query}
    per_query |= {"substring": substrings_per_query, "pseudo_query": pseudo_queries_per_query}
    maker = PairMaker(
        corpus, identifiers, per_query, samples_per_passage, substrings, substring_words, stop_words, seed
    )

    def sources() -> Iterator[PairSource]:
        if texts is not None and qrels is not None:
            # Each passage is counted once.
            yield from _of_queries(corpus, texts, qrels, counted=not samples_per_passage)
        if samples_per_passage:
            yield from (PairSource(position, counted=True) for position in range(len(corpus)))

    pairs = _written(map_chunks(maker.make, _chunks(sources()), num_proc), identifiers, progress)
    if not len(pairs):
        raise DGRValueError(
            "No generation pair could be made: no query has a relevant passage in the corpus, or every count is 0. "
            f"The corpus has {len(corpus)} passages, the views are {', '.join(identifiers.views)}."
        )
    return pairs


def pairs_from_candidates(
    candidates: Candidates,
    identifiers: Identifiers,
    queries: datasets.Dataset | Mapping[str, str],
    qrels: Qrels,
    *,
    identifiers_per_query: int = 10,
    seed: int = 42,
    num_proc: int | None = None,
    progress: bool = True,
) -> datasets.Dataset:
    """Make generation pairs of the identifiers by which the student itself found the relevant passages.

    They are what the search of this student generates, drawn by what they added to the score of the passage, so a
    student that is trained on them finds these passages by more. Identifiers that are the query itself, as a
    pseudo-query, are left out. A relevant passage that no identifier led to gives pairs of those that
    `GenerativeRetriever.candidates(..., relevant=qrels)` adds for it, drawn evenly.

    Args:
        candidates ([`Candidates`]): What the student found, with the relevant passages of the queries.
        identifiers ([`Identifiers`]): The student's tokenizer and views.
        queries (`datasets.Dataset` or `Mapping[str, str]`): Training queries.
        qrels (`Qrels`): Their relevant passages.
        identifiers_per_query (`int`, defaults to 10):
            Different identifiers per query and relevant passage, at most those that led to the passage.
        seed (`int`, defaults to 42): Equal seeds give equal pairs.
        num_proc (`int`, *optional*): Number of processes, which gives the same pairs. By default only this one works.
        progress (`bool`, defaults to `True`): Show progress bars.

    Returns:
        `datasets.Dataset`: As [`generation_pairs`].

    Raises:
        ValueError: if the candidates belong to another tokenizer or other views, if no relevant passage is among them,
            or `identifiers_per_query` is below 1.
    """
    if identifiers_per_query < 1:
        raise DGRValueError(f"identifiers_per_query={identifiers_per_query}: make at least 1 pair for a query.")
    check_num_proc(num_proc)
    candidates.check_tokenizer(identifiers.fingerprint)
    texts, qrels = queries_mapping(queries), as_qrels(qrels)
    judged = {
        query_id: sorted(passage_id for passage_id, grade in qrels.get(query_id, {}).items() if grade > 0)
        for query_id in sorted(texts)
    }
    judged = {query_id: relevant for query_id, relevant in judged.items() if relevant}
    found = [query_id for query_id in judged if query_id in candidates]
    packer = PairPacker(identifiers)

    def make(query_ids: list[str]) -> MadePairs:
        examples = [
            Example(identifier.view, texts[query_id], identifier.ids)
            for query_id in query_ids
            for passage_id in _known(judged[query_id], candidates.passage_ids(query_id))
            for identifier in _earning(
                candidates.select(query_id, [passage_id])[0].identifiers,
                texts[query_id],
                identifiers,
                identifiers_per_query,
                random_of(seed, query_id, passage_id),
            )
        ]
        return MadePairs(packer.pack(examples), None, packer.losses.taken())

    pairs = _written(map_chunks(make, _chunks(found), num_proc), identifiers, progress)
    if not len(pairs):
        raise DGRValueError(
            f"No relevant passage is among the candidates: {len(texts)} queries were given, {len(judged)} of them "
            f"have relevant passages, and {len(found)} of these have candidates. Were the candidates made for these "
            "queries, with GenerativeRetriever.candidates(..., relevant=qrels)?"
        )
    if len(found) < len(judged):
        logger.warning(
            "%d of %d queries with relevant passages have no candidates and give no pairs.",
            len(judged) - len(found),
            len(judged),
        )
    return pairs


def _of_queries(corpus: Corpus, queries: Mapping[str, str], qrels: Qrels, *, counted: bool) -> Iterator[PairSource]:
    """Each query with each of its relevant passages, in the order of their ids."""
    missing = 0
    seen: set[int] = set()
    for query_id in sorted(queries):
        for passage_id in sorted(p for p, grade in qrels.get(query_id, {}).items() if grade > 0):
            position = corpus.ids.find(passage_id)
            if position is None:
                missing += 1
                continue
            yield PairSource(position, query_id, queries[query_id], counted and position not in seen)
            seen.add(position)
    if missing:
        logger.warning("%d judged passages are not in the corpus and give no generation pairs.", missing)


def _written(made: Iterable[MadePairs], identifiers: Identifiers, progress: bool) -> datasets.Dataset:
    """Write pairs to a dataset, and report what their passages and queries lost."""
    unknown, losses = UnknownText(identifiers), LostQueries(identifiers)

    def tables() -> Iterator[pa.Table]:
        with tqdm(desc="Writing generation pairs", unit=" rows", disable=not progress) as bar:
            for table, of_passages, of_queries in made:
                if of_passages is not None:
                    unknown.merge(of_passages)
                losses.merge(of_queries)
                yield table
                bar.update(len(table))

    pairs = dataset_from_tables(tables(), FEATURES)
    unknown.report()
    losses.report(len(pairs), "queries of generation pairs")
    return pairs


def _known(passage_ids: Iterable[str], found: Iterable[str]) -> list[str]:
    found = set(found)
    return [passage_id for passage_id in passage_ids if passage_id in found]


def _earning(
    matched: tuple[MatchedIdentifier, ...],
    query: str,
    identifiers: Identifiers,
    count: int,
    random: np.random.Generator,
) -> list[MatchedIdentifier]:
    """Different identifiers, drawn in proportion to what they added to the score of their passage."""
    unknown = sorted({identifier.view for identifier in matched} - set(identifiers.views))
    if unknown:
        raise DGRValueError(
            f"The candidates have identifiers of the views {unknown}, but the student has {list(identifiers.views)}. "
            "Give Identifiers(tokenizer, settings) with the settings of the retriever that made the candidates."
        )
    own = " ".join(query.split()).casefold()
    others = {
        (identifier.view, identifier.ids): identifier
        for identifier in matched
        if identifier.view != "pseudo_query" or identifiers.text(identifier.view, identifier.ids).casefold() != own
    }
    earning = [identifier for identifier in others.values() if identifier.score > 0]
    pool = earning or list(others.values())
    credits = np.array([identifier.score if earning else 1.0 for identifier in pool])
    # The largest of logarithms with Gumbel noise are a sample without replacement, in proportion to the credits.
    noisy = np.log(credits) + random.gumbel(size=len(pool))
    return [pool[number] for number in np.argsort(-noisy, kind="stable")[:count].tolist()]


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    remaining = iter(items)
    while chunk := list(islice(remaining, _CHUNK)):
        yield chunk


def _check_index(targets: str, index: FMIndex | None, corpus: Corpus, identifiers: Identifiers) -> None:
    if targets not in TARGETS:
        raise DGRValueError(f"targets={targets!r} is unknown; use one of {', '.join(TARGETS)}.")
    if targets == "dgr_paper":
        if index is not None:
            raise DGRValueError("index counts substrings for targets='distinctive'. Leave it out, or ask for these.")
        return
    if index is None:
        raise DGRValueError(
            "targets='distinctive' compares substrings with the corpus, so it needs its index: "
            "index=FMIndex.from_corpus(corpus, identifiers), or one that FMIndex.load opens."
        )
    index.check_tokenizer(identifiers)
    if index.num_passages != len(corpus):
        raise DGRValueError(
            f"The index holds {index.num_passages} passages, but the corpus has {len(corpus)}: it was built from "
            "another corpus. Build it again with FMIndex.from_corpus(corpus, identifiers)."
        )
