"""Hits of a query and of several: lists that a notebook shows as tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, SupportsIndex, cast, overload

from dgr_trainer.retrieval.hit_tables import hits_table, result_tables
from dgr_trainer.retrieval.hits import Hit

if TYPE_CHECKING:
    from dgr_trainer.data.corpus import Corpus
    from dgr_trainer.identifiers import Identifiers


class Hits(list[Hit]):
    """The hits of a query: a list that a notebook shows as a table, with the identifiers marked in the passages.

    In everything else it is a list: it equals one, and its elements are [`Hit`]s. A slice of it is shown in the same
    way. A pickled copy has the hits alone.

    Args:
        hits (`Iterable[Hit]`): Best first.
        query (`str`, *optional*): The query, shown above the table.
        identifiers ([`Identifiers`], *optional*): Turns the tokens of identifiers into text.
        corpus ([`Corpus`], *optional*): The passages, to show titles and texts.
    """

    def __init__(
        self,
        hits: Iterable[Hit] = (),
        *,
        query: str | None = None,
        identifiers: Identifiers | None = None,
        corpus: Corpus | None = None,
    ) -> None:
        super().__init__(hits)
        self._query, self._identifiers, self._corpus = query, identifiers, corpus

    def with_passages(self, corpus: Corpus) -> Hits:
        """The same hits, shown with the titles and texts of a corpus."""
        return Hits(self, query=self._query, identifiers=self._identifiers, corpus=corpus)

    @overload
    def __getitem__(self, position: SupportsIndex) -> Hit: ...
    @overload
    def __getitem__(self, position: slice) -> Hits: ...
    def __getitem__(self, position: SupportsIndex | slice) -> Hit | Hits:
        if isinstance(position, slice):
            hits = super().__getitem__(position)
            return Hits(hits, query=self._query, identifiers=self._identifiers, corpus=self._corpus)
        return super().__getitem__(position)

    def __reduce__(self) -> tuple[Any, ...]:
        return Hits, (list(self),)

    def _repr_html_(self) -> str:
        return hits_table(self, self._query, self._identifiers, self._corpus)


class SearchResults(list[list[Hit]]):
    """The hits of several queries, shown in a notebook as a table for each; in everything else a list of lists.

    Args:
        results (`Iterable[Hits]`): The [`Hits`] of each query.
    """

    def __init__(self, results: Iterable[Hits] = ()) -> None:
        super().__init__(results)

    @overload
    def __getitem__(self, position: SupportsIndex) -> Hits: ...
    @overload
    def __getitem__(self, position: slice) -> SearchResults: ...
    def __getitem__(self, position: SupportsIndex | slice) -> Hits | SearchResults:
        found: Any = super().__getitem__(position)
        return SearchResults(found) if isinstance(position, slice) else found

    def __iter__(self) -> Iterator[Hits]:
        return cast("Iterator[Hits]", super().__iter__())

    def with_passages(self, corpus: Corpus) -> SearchResults:
        """The same hits, shown with the titles and texts of a corpus."""
        return SearchResults(hits.with_passages(corpus) for hits in self)

    def _repr_html_(self) -> str:
        return result_tables([hits._repr_html_() for hits in self])
