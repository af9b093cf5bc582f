"""Where the identifiers of a passage come from in training: one string per passage, or the student's matches."""

import logging
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from dgr_trainer.candidates import Candidates, MatchedIdentifier
from dgr_trainer.data.passages import Passage
from dgr_trainer.errors import DGRTypeError, DGRValueError
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.identifiers.unknown_text import UnknownText
from dgr_trainer.runs.rank_list import typical_spread

logger = logging.getLogger(__name__)

_BATCH = 10_000
_QUERIES_SAMPLED = 100


class StringIdentifiers:
    """One identifier string per passage: a title, a docid, a URL. They are tokenised once, as the view `"docid"`.

    Args:
        strings (`Mapping[str, str]`): Identifier of each passage id.
        identifiers ([`Identifiers`]): The student's tokenizer and prompts.

    Raises:
        TypeError: if a key or value is no string.
        ValueError: if there is no identifier or an empty one, or the tokenizer does not know most of their text.
    """

    def __init__(self, strings: Mapping[str, str], identifiers: Identifiers) -> None:
        if not strings:
            raise DGRValueError("identifiers is empty. Give a mapping from passage id to identifier string.")
        # Alone, a docid needs no marker. Beside other views it must hold none, as in their index.
        beside_others = "docid" in identifiers.views
        marker = identifiers.settings.docid_start if beside_others else ""
        self.identifiers = Identifiers(
            identifiers.tokenizer, replace(identifiers.settings, views=("docid",), docid_start=marker)
        )
        encoder = identifiers if beside_others else self.identifiers
        unknown = UnknownText(self.identifiers)
        for passage_id, string in strings.items():
            if not isinstance(passage_id, str) or not isinstance(string, str):
                raise DGRTypeError(
                    f"identifiers maps {passage_id!r} to {string!r}; both the passage id and its identifier must be "
                    "strings."
                )
            if not string.strip():
                raise DGRValueError(
                    f"The identifier of passage {passage_id!r} is empty. Give it one, or leave out the passage."
                )
        self._rows = {passage_id: row for row, passage_id in enumerate(strings)}
        tokens, lengths = [], []
        passages = [Passage(id=passage_id, docid=string) for passage_id, string in strings.items()]
        for start in range(0, len(passages), _BATCH):
            batch = passages[start : start + _BATCH]
            segments = encoder.encode_segments(batch)
            unknown.add(batch, segments)
            targets = [self.identifiers.target("docid", segment.docid) for segment in segments]
            lengths.append(np.fromiter(map(len, targets), np.int64, len(targets)))
            tokens.append(np.concatenate([np.asarray(ids, np.int32) for ids in targets]))
        self._tokens = np.concatenate(tokens)
        self._starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
        unknown.report()
        duplicates = len(strings) - len({self._ids(passage_id) for passage_id in strings})
        if duplicates:
            logger.warning(
                "%d of %d passages have the identifier of another passage, so the two always get the same score.",
                duplicates,
                len(strings),
            )

    @property
    def longest(self) -> int:
        """Tokens of the longest identifier."""
        return int(np.diff(self._starts).max())

    def usable(self, query_id: str) -> Container[str]:
        """Passages with an identifier: the same for every query."""
        return self._rows

    def matched(self, query_id: str, passage_ids: Sequence[str], limit: int) -> list[tuple[MatchedIdentifier, ...]]:
        """The identifier of each passage."""
        return [(MatchedIdentifier("docid", self._ids(passage_id), 1, 0.0),) for passage_id in passage_ids]

    def _ids(self, passage_id: str) -> tuple[int, ...]:
        row = self._rows[passage_id]
        return tuple(self._tokens[self._starts[row] : self._starts[row + 1]].tolist())


class CandidateIdentifiers:
    """The identifiers by which the student found a passage for a query, with their corpus counts.

    Args:
        candidates ([`Candidates`]): What the student found.
        identifiers ([`Identifiers`]): The student's tokenizer, views and prompts.

    Raises:
        ValueError: if there are no candidates, or they belong to another tokenizer or hold other views.
    """

    def __init__(self, candidates: Candidates, identifiers: Identifiers) -> None:
        if not candidates:
            raise DGRValueError("The candidates are empty. Make them with GenerativeRetriever.candidates(queries).")
        candidates.check_tokenizer(identifiers.fingerprint)
        self.identifiers = identifiers
        self.candidates = candidates
        self._check_views()

    def order(self, query_id: str) -> Sequence[str]:
        """The student's candidates of a query, best first."""
        return self.candidates.passage_ids(query_id) if query_id in self.candidates else ()

    def usable(self, query_id: str) -> Container[str]:
        """Passages with identifiers for a query: its candidates, but for those that have none."""
        if query_id not in self.candidates:
            return frozenset()
        numbers = self.candidates.num_identifiers(query_id).tolist()
        return frozenset(
            passage_id for passage_id, number in zip(self.order(query_id), numbers, strict=True) if number
        )

    def matched(self, query_id: str, passage_ids: Iterable[str], limit: int) -> list[tuple[MatchedIdentifier, ...]]:
        """The first identifiers of each passage, in the order of credit."""
        passage_ids = list(passage_ids)
        if not passage_ids:
            return []
        candidates = self.candidates.select(query_id, passage_ids, max_identifiers=limit)
        return [candidate.identifiers for candidate in candidates]

    def spread(self, query_ids: Iterable[str]) -> float:
        """How much the student scores its best candidate above its median one; 0 if no query has two candidates.

        The median over the first queries, in units of the scores.
        """
        return typical_spread(
            self.candidates.scores(query_id) for query_id in query_ids if query_id in self.candidates
        )

    def _check_views(self) -> None:
        """Raise if the candidates of the first queries have views that the identifiers lack."""
        candidate_views: set[str] = set()
        for query_id in islice(self.candidates, _QUERIES_SAMPLED):
            candidate_views |= {
                identifier.view for candidate in self.candidates[query_id] for identifier in candidate.identifiers
            }
        unknown = candidate_views - set(self.identifiers.views)
        if unknown:
            raise DGRValueError(
                f"The candidates have identifiers of the views {sorted(unknown)}, but the collator has the views "
                f"{list(self.identifiers.views)}. Give it Identifiers(tokenizer, settings) with the settings of the "
                "retriever that made the candidates."
            )
