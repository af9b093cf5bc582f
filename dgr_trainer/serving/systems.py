"""What the server searches with: a retriever, or what is shown beside it, a run file or a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, islice
from typing import TYPE_CHECKING, Any, Protocol

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.errors import DGRValueError
from dgr_trainer.retrieval.hits import Hit
from dgr_trainer.retrieval.matched_text import part_markers
from dgr_trainer.runs.rank_list import RankList
from dgr_trainer.runs.rankings import Rankings

if TYPE_CHECKING:
    from dgr_trainer.retrieval.retriever import GenerativeRetriever
    from dgr_trainer.teachers.teacher import Teacher

_PROBE = "ready"
_CHECKED_IDS = 1000
_EXAMPLES = 200


@dataclass(frozen=True)
class Restriction:
    """The passages that a search may return.

    Args:
        among (`tuple[str, ...]`, *optional*): Ids of the only passages to rank.
        exclude (`tuple[str, ...]`, *optional*): Ids of passages to leave out.
    """

    among: tuple[str, ...] | None = None
    exclude: tuple[str, ...] | None = None

    @classmethod
    def of(cls, among: Sequence[str] | None, exclude: Sequence[str] | None) -> Restriction:
        """The restriction by ids in any order; equal ones are equal."""
        return cls(
            None if among is None else tuple(sorted(set(among))),
            None if not exclude else tuple(sorted(set(exclude))),
        )

    def arguments(self) -> dict[str, list[str]]:
        """The arguments of `GenerativeRetriever.search` that were given."""
        given = {"among": self.among, "exclude": self.exclude}
        return {name: list(ids) for name, ids in given.items() if ids is not None}

    def allowed(self, passage_ids: Sequence[str]) -> list[bool]:
        """Whether each of some passages may be returned."""
        among = None if self.among is None else frozenset(self.among)
        exclude = frozenset(self.exclude or ())
        return [(among is None or one in among) and one not in exclude for one in passage_ids]


class System(Protocol):
    """Something that finds passages for queries.

    Attributes:
        kind (`str`): `"retriever"`, `"run"` or `"teacher"`.
        views (`Sequence[str]`): Views of its identifiers.
        markers (`Sequence[str]`): Markers between the parts of its passages.
        corpus ([`Corpus`], *optional*): The texts of its passages.
        batch_size (`int`): Queries that it searches for together.
        examples (`Sequence[str]`): Some queries that it knows.
    """

    kind: str
    examples: Sequence[str]
    views: Sequence[str]
    markers: Sequence[str]
    corpus: Corpus | None
    batch_size: int

    def search(self, queries: Sequence[str], k: int, restriction: Restriction) -> list[list[Hit] | None]:
        """The k best hits of each query; `None` for a query that it knows nothing about."""
        ...

    def num_candidates(self, k: int) -> int:
        """Number of passages that are ranked for k hits; 0 if k only says where the ranking is cut."""
        ...

    def probe(self) -> None:
        """Do what a search does, for a word; raises what fails."""
        ...

    def identifier_text(self, view: str, ids: Sequence[int]) -> str:
        """Text of an identifier."""
        ...


class RetrieverSystem:
    """A [`GenerativeRetriever`].

    Args:
        retriever ([`GenerativeRetriever`]): The retriever.
        corpus ([`Corpus`], *optional*): Its passages, if they are not saved with it.

    Raises:
        ValueError: if the corpus is not that of the index.
    """

    kind = "retriever"
    examples: Sequence[str] = ()

    def __init__(self, retriever: GenerativeRetriever, corpus: Corpus | None = None) -> None:
        self.retriever = retriever
        if corpus is not None:
            _check_corpus(corpus, retriever)
        self.corpus = retriever.corpus if corpus is None else corpus
        self.views: Sequence[str] = retriever.identifiers.views
        self.markers: Sequence[str] = part_markers(retriever.identifiers.settings)
        self.batch_size = retriever.settings.batch_size

    def search(self, queries: Sequence[str], k: int, restriction: Restriction) -> list[list[Hit] | None]:
        """See [`System`]."""
        restricted: dict[str, Any] = restriction.arguments()
        return list(self.retriever.search(list(queries), k, **restricted))

    def num_candidates(self, k: int) -> int:
        """See [`System`]."""
        return 0

    def probe(self) -> None:
        """See [`System`]."""
        self.retriever.search(_PROBE, k=1)

    def identifier_text(self, view: str, ids: Sequence[int]) -> str:
        """See [`System`]."""
        return self.retriever.identifiers.text(view, ids)


class RunSystem:
    """The rank lists of a run file, for queries that are typed as they stand in the file of queries.

    Args:
        rankings ([`Rankings`]): The run.
        queries (`Mapping[str, str]`): Query id -> text.

    Raises:
        ValueError: if no query has a rank list.
    """

    kind = "run"
    views: Sequence[str] = ()
    markers: Sequence[str] = ()
    corpus: Corpus | None = None
    batch_size = 64

    def __init__(self, rankings: Rankings, queries: Mapping[str, str]) -> None:
        self._rankings = rankings
        self._ids = {_as_typed(text): query_id for query_id, text in queries.items() if query_id in rankings}
        self.examples: Sequence[str] = [text for query_id, text in queries.items() if query_id in rankings][:_EXAMPLES]
        if not self._ids:
            raise DGRValueError(
                f"The run {rankings.name!r} has rank lists of {len(rankings)} queries, but none of them is among the "
                f"{len(queries)} queries. Give the run and the queries that belong together."
            )

    def search(self, queries: Sequence[str], k: int, restriction: Restriction) -> list[list[Hit] | None]:
        """See [`System`]."""
        known = [self._ids.get(_as_typed(query)) for query in queries]
        return [None if query is None else _hits(self._rankings[query], k, restriction) for query in known]

    def num_candidates(self, k: int) -> int:
        """See [`System`]."""
        return 0

    def probe(self) -> None:
        """See [`System`]."""
        self._rankings[next(iter(self._ids.values()))]

    def identifier_text(self, view: str, ids: Sequence[int]) -> str:
        """A run has no identifiers: there is no text to give."""
        return ""


class TeacherSystem:
    """A teacher that searches the corpus, or ranks the passages that a retriever finds.

    Args:
        teacher ([`Teacher`]): The teacher.
        retriever ([`GenerativeRetriever`], *optional*): For a teacher that cannot search a corpus: what finds its
            candidates.
        candidates (`int`, *optional*, defaults to 50): Number of candidates, at least the hits asked for.
    """

    kind = "teacher"
    examples: Sequence[str] = ()
    views: Sequence[str] = ()
    markers: Sequence[str] = ()
    corpus: Corpus | None = None
    batch_size = 20

    def __init__(self, teacher: Teacher, retriever: GenerativeRetriever | None = None, candidates: int = 50) -> None:
        self._teacher = teacher
        self._retriever = retriever
        self._candidates = candidates

    def search(self, queries: Sequence[str], k: int, restriction: Restriction) -> list[list[Hit] | None]:
        """See [`System`]."""
        texts = {str(number): query for number, query in enumerate(queries) if query.strip()}
        candidates = None
        depth = k + len(restriction.exclude or ())
        if self._retriever is not None:
            restricted: dict[str, Any] = restriction.arguments()
            found = self._retriever.search(list(texts.values()), self.num_candidates(k), **restricted)
            ids = {query_id: [hit.passage_id for hit in hits] for query_id, hits in zip(texts, found, strict=True)}
            texts = {query_id: text for query_id, text in texts.items() if ids[query_id]}
            candidates = Rankings.from_order({query_id: ids[query_id] for query_id in texts})
        elif restriction.among is not None:
            allowed = list(compress(restriction.among, restriction.allowed(restriction.among)))
            if not allowed:
                return [[] for _ in queries]
            candidates = Rankings.from_order(dict.fromkeys(texts, allowed))
        ranked = self._teacher.rank(texts, candidates, k=depth) if texts else {}
        return [
            _hits(ranked[str(number)], k, restriction) if str(number) in ranked else []
            for number in range(len(queries))
        ]

    def num_candidates(self, k: int) -> int:
        """See [`System`]."""
        return 0 if self._retriever is None else max(k, self._candidates)

    def probe(self) -> None:
        """See [`System`]."""
        self.search([_PROBE], 1, Restriction())

    def identifier_text(self, view: str, ids: Sequence[int]) -> str:
        """A teacher has no identifiers: there is no text to give."""
        return ""


def _hits(ranked: RankList, k: int, restriction: Restriction) -> list[Hit]:
    ids = list(ranked.passage_ids)
    pairs = compress(zip(ids, ranked.scores, strict=True), restriction.allowed(ids))
    return [Hit(passage_id, float(score), ()) for passage_id, score in islice(pairs, k)]


def _as_typed(query: str) -> str:
    return " ".join(query.split()).casefold()


def _check_corpus(corpus: Corpus, retriever: GenerativeRetriever) -> None:
    index = retriever.index
    if len(corpus) != index.num_passages:
        raise DGRValueError(
            f"The corpus has {len(corpus)} passages, but the index holds {index.num_passages}: the retriever belongs "
            "to another corpus. Give the one that was indexed."
        )
    for passage_id in index.passage_ids[:_CHECKED_IDS]:
        if passage_id not in corpus.ids:
            raise DGRValueError(
                f"The corpus has no passage {passage_id!r}, which the index holds: the retriever belongs to another "
                "corpus. Give the one that was indexed."
            )
