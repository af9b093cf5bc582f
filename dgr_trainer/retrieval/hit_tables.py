"""Hits as an HTML table for notebooks: all text is escaped, and styles stand at the elements, where they are kept."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from dgr_trainer.candidates import MatchedIdentifier
from dgr_trainer.retrieval.hits import Hit
from dgr_trainer.retrieval.matched_text import marked_pieces, matched_spans, part_markers

if TYPE_CHECKING:
    from dgr_trainer.data.corpus import Corpus
    from dgr_trainer.data.passages import Passage
    from dgr_trainer.identifiers import Identifiers

_MOST_QUERIES = 20
_MOST_IDENTIFIERS = 6
_LONGEST_TEXT = 420
_BEFORE_FIRST_MATCH = 80
# Each view has a colour and a line of its own, so that they differ without colours.
_VIEWS = {
    "title": ("31, 95, 168", "solid"),
    "docid": ("31, 95, 168", "solid"),
    "substring": ("186, 110, 10", "dotted"),
    "pseudo_query": ("47, 125, 59", "dashed"),
}
_LINE = "1px solid rgba(128, 128, 128, .4)"
_CELL = f"text-align: left; vertical-align: top; padding: .4em .8em .4em 0; border-top: {_LINE}; white-space: normal;"
_QUIET = "opacity: .7;"


def hits_table(hits: Sequence[Hit], query: str | None, identifiers: Identifiers | None, corpus: Corpus | None) -> str:
    """The hits of a query as a table.

    Args:
        hits (`Sequence[Hit]`): Best first.
        query (`str`, *optional*): Stands above the table.
        identifiers ([`Identifiers`], *optional*): Without them the texts of identifiers are not known.
        corpus ([`Corpus`], *optional*): Without it passages are shown by their ids.

    Returns:
        `str`: an HTML element.
    """
    head = "" if query is None else f'<div style="font-weight: 600;">{escape(query) or "(an empty query)"}</div>'
    if not hits:
        return f'<div>{head}<div style="{_QUIET}">no passage found</div></div>'
    rows = [_row(rank, hit, identifiers, corpus) for rank, hit in enumerate(hits, start=1)]
    names = ("rank", "passage", "score", "identifiers and what they added to the score")
    header = "".join(f'<th scope="col" style="{_CELL} border-top: none;">{name}</th>' for name in names)
    table = f'<table style="border-collapse: collapse; width: 100%; max-width: 62em;"><thead><tr>{header}</tr></thead>'
    return f"<div>{head}{table}<tbody>{''.join(rows)}</tbody></table></div>"


def result_tables(tables: Sequence[str]) -> str:
    """Tables of several queries below each other, the first ones if there are many."""
    rest = len(tables) - _MOST_QUERIES
    note = f'<div style="{_QUIET}">and the hits of {rest:,} more queries</div>' if rest > 0 else ""
    return f"<div>{'<br>'.join(tables[:_MOST_QUERIES])}{note}</div>"


def _row(rank: int, hit: Hit, identifiers: Identifiers | None, corpus: Corpus | None) -> str:
    best = sorted(hit.identifiers, key=lambda one: -one.score)
    texts = ["" if identifiers is None else identifiers.text(one.view, one.ids) for one in best]
    passage = corpus.get(hit.passage_id) if corpus is not None and hit.passage_id in corpus.ids else None
    cells = [
        f"{rank}",
        _passage(hit.passage_id, passage, best, texts, identifiers),
        f"{hit.score:,.1f}",
        _identifiers(best, texts, identifiers is not None),
    ]
    styles = [_CELL, f"{_CELL} width: 60%;", f"{_CELL} white-space: nowrap;", _CELL]
    return (
        "<tr>"
        + "".join(f'<td style="{style}">{cell}</td>' for style, cell in zip(styles, cells, strict=True))
        + "</tr>"
    )


def _passage(
    passage_id: str,
    passage: Passage | None,
    best: Sequence[MatchedIdentifier],
    texts: Sequence[str],
    identifiers: Identifiers | None,
) -> str:
    if passage is None or identifiers is None:
        return f"<b>{escape(passage_id)}</b>"
    markers = part_markers(identifiers.settings)

    def marked(text: str, view: str) -> str:
        wanted = [text if one.view in ("substring", view) else "" for one, text in zip(best, texts, strict=True)]
        pieces = marked_pieces(text, matched_spans(text, wanted, markers=markers))
        return "".join(_marked(piece, [best[number] for number in of], best) for piece, of in _excerpt(pieces))

    title = marked(passage.title, "title") if passage.title else ""
    shown_id = "" if passage.title == passage_id else f'<span style="{_QUIET}">{escape(passage_id)}</span>'
    heading = f"<b>{title}</b> {shown_id}" if title else f"<b>{escape(passage_id)}</b>"
    return f"{heading}<br>{marked(passage.text, 'substring')}" if passage.text else heading


def _excerpt(pieces: Sequence[tuple[str, tuple[int, ...]]]) -> list[tuple[str, tuple[int, ...]]]:
    """The part of a long text that begins a little before the first match."""
    text = "".join(piece for piece, _ in pieces)
    if len(text) <= _LONGEST_TEXT:
        return list(pieces)
    first, position = 0, 0
    for piece, of in pieces:
        if of:
            first = max(0, position - _BEFORE_FIRST_MATCH)
            break
        position += len(piece)
    first = min(first, len(text) - _LONGEST_TEXT)
    last, position = first + _LONGEST_TEXT, 0
    kept: list[tuple[str, tuple[int, ...]]] = [("\u2026", ())] if first else []
    for piece, of in pieces:
        part = piece[max(0, first - position) : max(0, last - position)]
        if part:
            kept.append((part, of))
        position += len(piece)
    return [*kept, ("\u2026", ())] if last < len(text) else kept


def _marked(piece: str, of: Sequence[MatchedIdentifier], best: Sequence[MatchedIdentifier]) -> str:
    if not of:
        return escape(piece)
    highest = max(of, key=lambda one: one.score)
    most = max(1e-9, best[0].score)
    colour, line = _VIEWS[highest.view]
    alpha = 0.12 + 0.33 * max(0.0, highest.score) / most
    told = "; ".join(f"{one.view}, {one.score:,.1f}" for one in of)
    style = f"background: rgba({colour}, {alpha:.2f}); border-bottom: 2px {line} rgb({colour}); color: inherit;"
    return f'<mark style="{style}" title="{escape(told)}">{escape(piece)}</mark>'


def _identifiers(best: Sequence[MatchedIdentifier], texts: Sequence[str], known: bool) -> str:
    most = max((one.score for one in best), default=0.0)
    lines = []
    for one, text in zip(best[:_MOST_IDENTIFIERS], texts, strict=False):
        colour, line = _VIEWS[one.view]
        width = 4.0 * max(0.0, one.score) / most if most > 0 else 0.0
        name = escape(text) if known else f"{len(one.ids)} tokens"
        lines.append(
            f'<div><span style="display: inline-block; width: {width:.2f}em; height: .6em; margin-right: .3em; '
            f'background: rgba({colour}, .5); border-bottom: 2px {line} rgb({colour});"></span>'
            f'{one.score:,.1f} {name} <span style="{_QUIET}">{escape(one.view)}, {one.count:,}x</span></div>'
        )
    rest = best[_MOST_IDENTIFIERS:]
    if rest:
        lines.append(f'<div style="{_QUIET}">{sum(one.score for one in rest):,.1f} of {len(rest)} more</div>')
    return "".join(lines)
