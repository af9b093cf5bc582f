"""The identifiers that a passage contains, read from its tokens in the index."""

from __future__ import annotations

from dgr_trainer.candidates import MatchedIdentifier
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex


def passage_identifiers(
    index: FMIndex, identifiers: Identifiers, position: int, substring_length: int
) -> list[MatchedIdentifier]:
    """Title, docid, pseudo-queries and first words of a passage, as far as it has them and the views use them.

    Segments of a passage contain no marker (`Identifiers` sees to it), so markers separate the segments.

    Args:
        index ([`FMIndex`]): Index of the corpus.
        identifiers ([`Identifiers`]): Markers and views.
        position (`int`): Position of the passage in the index.
        substring_length (`int`): Number of tokens to take from the body; 0 for none.

    Returns:
        `list[MatchedIdentifier]`: the identifiers in the order above, with score 0.
    """
    rest = [int(token) for token in index.extract(position)]
    views = identifiers.views
    titles, docids, pseudo_queries = [], [], []
    if "title" in views:
        title, rest = _split(rest, identifiers.end("title"))
        titles = [title] if title else []
    if views == ("docid",):
        marker = identifiers.prefix("docid")
        docid, rest = (rest[len(marker) :] if tuple(rest[: len(marker)]) == marker else rest), []
        docids = [docid] if docid else []
    elif "docid" in views:
        rest, docid = _split(rest, identifiers.prefix("docid"))
        docids = [docid] if docid else []
    if "pseudo_query" in views:
        rest, after = _split(rest, identifiers.prefix("pseudo_query"))
        while after:
            pseudo_query, after = _split(after, identifiers.end("pseudo_query"))
            pseudo_queries.append(pseudo_query)
            _, after = _split(after, identifiers.prefix("pseudo_query"))
    first_words = rest[:substring_length] if "substring" in views else []
    segments = [("title", title) for title in titles]
    segments += [("docid", docid) for docid in docids]
    segments += [("pseudo_query", pseudo_query) for pseudo_query in pseudo_queries]
    segments += [("substring", first_words)] if first_words else []
    if not segments:
        return []
    targets = [(view, identifiers.target(view, segment)) for view, segment in segments]
    counts = index.counts(index.find_batch([identifiers.pattern(view, ids) for view, ids in targets]))
    return [
        MatchedIdentifier(view, ids, count, 0.0) for (view, ids), count in zip(targets, counts.tolist(), strict=True)
    ]


def _split(tokens: list[int], marker: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Split tokens at the first occurrence of a marker, which is dropped; without one, the second part is empty."""
    for start in range(len(tokens) - len(marker) + 1):
        if tuple(tokens[start : start + len(marker)]) == marker:
            return tokens[:start], tokens[start + len(marker) :]
    return tokens, []
