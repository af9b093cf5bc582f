"""Tokenises the passages of a corpus for an index, in this process or in several."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.identifiers.unknown_text import UnknownText
from dgr_trainer.index.token_texts import TokenPiece, TokenText, join_pieces, token_piece
from dgr_trainer.processes.worker_processes import map_chunks


def corpus_texts(
    corpus: Corpus,
    identifiers: Identifiers,
    start: int = 0,
    *,
    max_tokens: int | None,
    batch_size: int = 4096,
    num_proc: int | None = None,
    progress: bool = True,
) -> Iterator[TokenText]:
    """The texts of a corpus, see `read_texts`; at their end, a warning tells of text that the tokenizer loses.

    Args:
        corpus ([`Corpus`]): the passages.
        identifiers ([`Identifiers`]): turns a passage into tokens; its end-of-sequence token is the separator.
        start (`int`): the passage to start at.
        max_tokens (`int`, *optional*): most tokens of a text.
        batch_size (`int`): number of passages that are tokenised together.
        num_proc (`int`, *optional*): number of processes that tokenise; by default only this one.
        progress (`bool`): whether to show a progress bar.

    Raises:
        ValueError: as in `read_texts`; also if the tokenizer knows too little of the text.
    """
    counts = UnknownText(identifiers)

    def pieces() -> Iterator[TokenPiece]:
        make = partial(_tokenised, corpus, identifiers, UnknownText(identifiers), batch_size)
        for piece, counted in map_chunks(make, range(start, len(corpus), batch_size), num_proc):
            counts.merge(counted)
            yield piece
        counts.report()

    return join_pieces(pieces(), max_tokens, len(corpus) - start, progress)


def _tokenised(
    corpus: Corpus, identifiers: Identifiers, unknown: UnknownText, batch_size: int, start: int
) -> tuple[TokenPiece, UnknownText]:
    """The passages of a batch, and what the tokenizer does not know of them."""
    passages = corpus[start : start + batch_size]
    segments = identifiers.encode_segments(passages)
    unknown.add(passages, segments)
    sequences = [identifiers.joined(of_passage) for of_passage in segments]
    ids = [passage.id for passage in passages]
    piece = token_piece(sequences, ids, start, identifiers.vocab_size, identifiers.eos_token_id)
    return piece, unknown.taken()
