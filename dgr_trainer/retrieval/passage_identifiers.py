"""A passage's own identifiers, read from its tokens in the index."""

from __future__ import annotations

from collections.abc import Iterable

from dgr_trainer.identifiers import Identifiers


def own_identifiers(
    identifiers: Identifiers, tokens: Iterable[int], substring_length: int
) -> list[tuple[str, tuple[int, ...]]]:
    """Title, docid, pseudo-queries and the first words of a passage, as far as it has them and the views use them.

    Segments of a passage hold no marker (`Identifiers` sees to that), so markers tell them apart.

    Args:
        identifiers ([`Identifiers`]): Markers and views.
        tokens (`Iterable[int]`): The passage as the index holds it, without the separator.
        substring_length (`int`): Tokens to take of the body.

    Returns:
        `list[tuple[str, tuple[int, ...]]]`: (view, ids) in the order above.
    """
    rest = list(map(int, tokens))
    views = identifiers.views
    titles, docids, pseudo_queries = [], [], []
    if "title" in views:
        title, rest = _split(rest, identifiers.end("title"))
        titles = [title] if title else []
    if "docid" in views:
        rest, docid = _split(rest, identifiers.prefix("docid"))
        docids = [docid] if docid else []
    if "pseudo_query" in views:
        rest, after = _split(rest, identifiers.prefix("pseudo_query"))
        while after:
            pseudo_query, after = _split(after, identifiers.end("pseudo_query"))
            pseudo_queries.append(pseudo_query)
            _, after = _split(after, identifiers.prefix("pseudo_query"))
    bodies = [rest[:substring_length]] if rest and "substring" in views else []
    return [
        (view, identifiers.target(view, segment))
        for view, segments in (
            ("title", titles),
            ("docid", docids),
            ("pseudo_query", pseudo_queries),
            ("substring", bodies),
        )
        for segment in segments
    ]


def _split(tokens: list[int], marker: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """What stands before and after the first occurrence of a marker; all and nothing where there is none."""
    for place in range(len(tokens) - len(marker) + 1):
        if tuple(tokens[place : place + len(marker)]) == marker:
            return tokens[:place], tokens[place + len(marker) :]
    return tokens, []
