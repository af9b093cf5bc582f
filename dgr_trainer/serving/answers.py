"""Hits as the API answers them."""

from __future__ import annotations

from collections.abc import Sequence

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.retrieval.hits import Hit
from dgr_trainer.retrieval.matched_text import marked_pieces, matched_spans
from dgr_trainer.serving.schemas import (
    HitAnswer,
    IdentifierAnswer,
    MarkedPassage,
    OtherIdentifiers,
    PassageAnswer,
    QueryAnswer,
    TextPiece,
)
from dgr_trainer.serving.systems import System

NOT_IN_RUN = "The run has no rank list for this query; it is compared with the queries of its file as they stand."


class AnswerWriter:
    """Writes hits of a system as answers.

    Args:
        system ([`System`]): Where the hits come from.
        corpus ([`Corpus`], *optional*): Texts of the passages.
        identifiers (`int`, *optional*): Identifiers to list for each hit, the best ones; all if `None`.
        views (`Sequence[str]`, *optional*): Views of the identifiers to list; all if `None`.
        texts (`bool`): Whether to add titles and texts.
        marked (`bool`): Whether to divide the texts by the listed identifiers.
    """

    def __init__(
        self,
        system: System,
        corpus: Corpus | None,
        identifiers: int | None,
        views: Sequence[str] | None,
        texts: bool,
        marked: bool,
    ) -> None:
        self._system, self._corpus = system, corpus if texts or marked else None
        self._limit, self._views, self._texts, self._marked = identifiers, views, texts, marked

    def query(self, query: str, hits: Sequence[Hit] | None) -> QueryAnswer:
        """The answer to a query; `None` for no hits if the system knows nothing about it."""
        if hits is None:
            return QueryAnswer(query=query, hits=[], note=NOT_IN_RUN)
        return QueryAnswer(query=query, hits=[self._hit(hit) for hit in hits], note=None)

    def _hit(self, hit: Hit) -> HitAnswer:
        chosen = [one for one in hit.identifiers if self._views is None or one.view in self._views]
        chosen.sort(key=lambda one: -one.score)
        chosen = chosen[: self._limit]
        shown = [
            IdentifierAnswer(
                view=one.view,
                text=_visible(self._system.identifier_text(one.view, one.ids)),
                count=one.count,
                score=one.score,
            )
            for one in chosen
        ]
        passage = self._passage(hit.passage_id)
        title, text, marked = None, None, None
        if passage is not None and self._texts:
            title, text = passage.title, passage.text
        if passage is not None and self._marked:
            marked = self._divided(passage, shown)
        listed = sum(one.score for one in chosen)
        return HitAnswer(
            passage_id=hit.passage_id,
            score=hit.score,
            title=title,
            text=text,
            identifiers=shown,
            other_identifiers=OtherIdentifiers(
                count=len(hit.identifiers) - len(chosen), score=sum(one.score for one in hit.identifiers) - listed
            ),
            marked=marked,
        )

    def _passage(self, passage_id: str) -> Passage | None:
        if self._corpus is None or passage_id not in self._corpus.ids:
            return None
        return self._corpus.get(passage_id)

    def _divided(self, passage: Passage, identifiers: Sequence[IdentifierAnswer]) -> MarkedPassage:
        def pieces(text: str, view: str) -> list[TextPiece]:
            # A substring is one of any part, a title or a pseudo-query one of its own.
            texts = [one.text if one.view in ("substring", view) else "" for one in identifiers]
            spans = matched_spans(text, texts, markers=self._system.markers)
            return [TextPiece(text=piece, identifiers=list(of)) for piece, of in marked_pieces(text, spans)]

        pseudo_queries = [pieces(query, "pseudo_query") for query in passage.pseudo_queries]
        return MarkedPassage(
            title=pieces(passage.title, "title"),
            text=pieces(passage.text, "substring"),
            pseudo_queries=[query for query in pseudo_queries if any(piece.identifiers for piece in query)],
        )


def passage_answer(passage: Passage) -> PassageAnswer:
    """A passage as the API answers it."""
    return PassageAnswer(
        id=passage.id,
        title=passage.title,
        text=passage.text,
        pseudo_queries=list(passage.pseudo_queries),
        docid=passage.docid,
    )


def _visible(text: str) -> str:
    """A text that can be encoded; tokens may end within a character."""
    return text.encode("utf-8", "replace").decode("utf-8")
