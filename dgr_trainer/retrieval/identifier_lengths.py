"""How long identifiers are generated, and which of the index are longer and cannot be found."""

from __future__ import annotations

import logging
from functools import lru_cache
from weakref import WeakKeyDictionary

import numpy as np
from torch import nn

from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval.settings import SearchSettings
from dgr_trainer.student.students import student_of

logger = logging.getLogger(__name__)

# Tokens of the passages whose identifiers are measured, so that the check of a large index takes seconds.
_MEASURED_TOKENS = 10_000_000
_NO_LIMIT = np.iinfo(np.int64).max
# Evaluations make a new retriever for the same index.
_longest: WeakKeyDictionary[FMIndex, dict[tuple[tuple[int, ...], tuple[int, ...]], int]] = WeakKeyDictionary()


def generated_lengths(model: nn.Module, identifiers: Identifiers, settings: SearchSettings) -> dict[str, int]:
    """The longest identifier of each view that a search generates, in tokens.

    Without a limit, a search ends by itself: titles, pseudo-queries and docids are generated up to their closing
    marker. A decoder with position embeddings cannot write more tokens than it has positions.
    """
    positions = student_of(model).identifier_limit(identifiers.settings.max_query_length)
    longest = _NO_LIMIT if positions is None else positions
    lengths = {view: settings.length(view) for view in identifiers.views}
    return {view: longest if length is None else min(length, longest) for view, length in lengths.items()}


def warn_of_lengths(model: nn.Module, index: FMIndex, identifiers: Identifiers, settings: SearchSettings) -> None:
    """Say which identifiers of the index are longer than what a search generates.

    That is a warning for docids and for the only view; with other views, the passages are found by these.
    """
    positions = student_of(model).identifier_limit(identifiers.settings.max_query_length)
    for view, length in generated_lengths(model, identifiers, settings).items():
        prefix, end = identifiers.prefix(view), identifiers.end(view)
        if not end or length == _NO_LIMIT or int(index.passage_lengths.max()) + 1 <= length:
            continue
        known = _longest.setdefault(index, {})
        if (prefix, end) not in known:
            known[prefix, end] = longest_identifier(index, prefix, end)
        longest = known[prefix, end]
        if longest > length:
            by_position = positions is not None and length == positions
            limit, advice = f"{view}_length is {length}", f"Raise {view}_length, or leave it out for no limit."
            if by_position:
                limit, advice = f"The decoder has {length} positions", "Shorten them."
            if by_position and positions != student_of(model).identifier_limit(0):
                prompt = identifiers.settings.max_query_length
                limit = f"Behind a prompt of max_query_length={prompt}, the model has room for {length} tokens"
                advice = "Shorten them, or lower max_query_length."
            level = logging.WARNING if view == "docid" or len(identifiers.views) == 1 else logging.INFO
            _say_once(
                level,
                f"{limit}, but the longest {view.replace('_', '-')} of "
                f"the index has {longest} tokens: a search never generates it, nor others of more than {length}. "
                f"{advice}",
            )


def longest_identifier(index: FMIndex, prefix: tuple[int, ...], end: tuple[int, ...]) -> int:
    """Tokens of the longest identifier of a view, in the longest passages of an index (all, up to 10 million tokens).

    Args:
        index ([`FMIndex`]): The index.
        prefix (`tuple[int, ...]`): What precedes an identifier of the view.
        end (`tuple[int, ...]`): What closes it.

    Returns:
        `int`: the number of its tokens, the closing marker included; 0 if there is none.
    """
    longest_first = np.argsort(-index.passage_lengths, kind="stable")
    sizes = np.cumsum(index.passage_lengths[longest_first])
    measured = np.sort(longest_first[: max(1, np.searchsorted(sizes, _MEASURED_TOKENS, side="right"))])
    indptr, tokens = index.extract_batch(measured)
    text = np.full(len(tokens) + len(measured) + 1, index.separator, np.int64)
    text[np.arange(len(tokens)) + np.repeat(np.arange(1, len(measured) + 1), np.diff(indptr))] = tokens
    # An identifier ends at the first closing marker, which may be the separator, or nowhere in its passage.
    starts = _places(text, prefix)[: len(measured) if prefix == (index.separator,) else None] + len(prefix)
    ends = _places(text, end)
    separators = np.flatnonzero(text == index.separator)
    which = np.searchsorted(ends, starts)
    starts, which = starts[which < len(ends)], which[which < len(ends)]
    own = ends[which] <= separators[np.searchsorted(separators, starts)]
    return int((ends[which] - starts)[own].max(initial=-len(end))) + len(end)


def _places(text: np.ndarray, pattern: tuple[int, ...]) -> np.ndarray:
    """Where a pattern starts in a text, ascending."""
    if len(text) < len(pattern):
        return np.empty(0, np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(text, len(pattern))
    return np.flatnonzero((windows == np.array(pattern)).all(axis=1))


@lru_cache(maxsize=1000)
def _say_once(level: int, message: str) -> None:
    logger.log(level, "%s", message)
