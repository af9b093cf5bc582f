"""Sampling: the short list of passages on which a query is trained in an epoch, in the order to be taught."""

import hashlib
import logging
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dgr_trainer.queries import Qrels
from dgr_trainer.rank_lists import RankList

logger = logging.getLogger(__name__)

SAMPLINGS = ("reference", "top")


class TrainingList(NamedTuple):
    """
    Passages of a query in the order to be taught, best first.

    Args:
        passage_ids (`tuple[str, ...]`): The passages, at most the list length.
        teacher_scores (`tuple[float, ...]`): The teacher's score of each.
        relevant (`str`, *optional*): The passage whose identifiers are to be generated.
    """

    passage_ids: tuple[str, ...]
    teacher_scores: tuple[float, ...]
    relevant: str | None


@dataclass
class Coverage:
    """
    What the training queries have and lack.

    Args:
        queries (`int`): Queries looked at.
        rank_lists (`int`): Those with two passages or more to compare.
        without_rank_list (`int`): Those that the teacher did not rank.
        short_lists (`int`): Those with a rank list that has fewer passages to compare than the list length.
        without_target (`int`): Those without a passage whose identifiers could be generated.
        without_relevant (`int`): Those whose relevant passages are all unknown, or that have none.
        ranked_passages (`int`): Passages in the rank lists.
        unknown_passages (`int`): Ranked passages without identifiers.
        example (`str`): One of them.
    """

    queries: int = 0
    rank_lists: int = 0
    without_rank_list: int = 0
    short_lists: int = 0
    without_target: int = 0
    without_relevant: int = 0
    ranked_passages: int = 0
    unknown_passages: int = 0
    example: str = ""

    def gaps(self) -> list[str]:
        """A sentence on each thing that is missing; empty when nothing is."""
        of = f"of {self.queries} queries"
        sentences = {
            f"{self.without_rank_list} {of} have no rank list": self.without_rank_list,
            f"{self.short_lists} {of} have fewer passages to compare than the list length": self.short_lists,
            f"{self.without_relevant} {of} have no relevant passage with identifiers": self.without_relevant,
            f"{self.without_target} {of} have no passage to generate": self.without_target,
            f"{self.unknown_passages} of {self.ranked_passages} ranked passages have no identifiers (such as "
            f"{self.example!r})": self.unknown_passages,
        }
        return [sentence for sentence, count in sentences.items() if count]


class ListSampler:
    """
    Draws the list of a query: its relevant passage, then others in the teacher's order.

    What is drawn depends on the seed, the epoch and the query id alone, so it is the same in any process, worker or
    resumed run.

    Args:
        rankings (`Mapping[str, RankList]`): The teacher's rank lists.
        qrels (`Qrels`, *optional*): Relevant passages.
        usable (`Callable[[str], Container[str]]`): Passages with identifiers, for a query.
        student_order (`Callable[[str], Sequence[str]]`, *optional*): The student's candidates of a query, best first.
        list_length (`int`): Passages in a list, the relevant one included.
        sampling (`str`):
            `"reference"`: the best other candidate of the student (of the teacher, where there is no order of the
            student) and a uniform sample of the rest; as relevant passage the best one or, every second time, a
            uniform draw. `"top"`: the teacher's first passages and the best relevant passage.
        relevant_first (`bool`): Whether the relevant passage leads the list; else the teacher's order alone counts.
        seed (`int`): Seed of the draws.
    """

    def __init__(
        self,
        rankings: Mapping[str, RankList],
        qrels: Qrels | None,
        usable: Callable[[str], Container[str]],
        student_order: Callable[[str], Sequence[str]] | None,
        *,
        list_length: int,
        sampling: str,
        relevant_first: bool,
        seed: int,
    ) -> None:
        if list_length < 2:
            raise ValueError(f"list_length={list_length}: a list needs at least 2 passages to compare.")
        if sampling not in SAMPLINGS:
            raise ValueError(f"sampling={sampling!r} is unknown; use one of {', '.join(SAMPLINGS)}.")
        self.rankings = rankings
        self.qrels = qrels or {}
        self.list_length = list_length
        self.sampling = sampling
        self.relevant_first = relevant_first
        self.seed = seed
        self._usable = usable
        self._student_order = student_order

    def sample(self, query_id: str, epoch: int) -> TrainingList:
        """The list of a query in an epoch; empty for a query of which nothing is known."""
        teacher, relevant, others, scores = self._pool(query_id)
        rng = self.rng(query_id, epoch)
        chosen = relevant[0] if relevant else None
        if len(relevant) > 1 and self.sampling == "reference" and rng.random() < 0.5:
            chosen = relevant[int(rng.integers(len(relevant)))]
        first = [chosen] if chosen is not None and self.relevant_first else []
        wanted = self.list_length - len(first)
        if len(others) > wanted and self.sampling == "reference":
            kept = self._hardest(query_id, others)
            rest = [place for place in range(len(others)) if place != kept]
            drawn = rng.choice(len(rest), wanted - 1, replace=False)
            others = [others[place] for place in sorted([kept, *(rest[i] for i in drawn)])]
        passages = first + others[:wanted]
        if chosen is None and passages:
            chosen = passages[0]
        # A relevant passage that the teacher did not rank is as good as the best of the list.
        best = max((scores[passage_id] for passage_id in passages if passage_id in scores), default=0.0)
        return TrainingList(tuple(passages), tuple(scores.get(passage_id, best) for passage_id in passages), chosen)

    def coverage(self, query_ids: Iterable[str]) -> Coverage:
        """Counts what queries have and lack."""
        found = Coverage()
        for query_id in query_ids:
            teacher, relevant, others, _ = self._pool(query_id)
            size = len(others) + bool(relevant and self.relevant_first)
            found.queries += 1
            found.rank_lists += size >= 2
            found.without_rank_list += query_id not in self.rankings
            found.short_lists += query_id in self.rankings and size < self.list_length
            found.without_relevant += bool(self.qrels) and not relevant
            found.without_target += not relevant and not others
            usable = self._usable(query_id)
            unknown = [passage_id for passage_id in teacher if passage_id not in usable]
            found.ranked_passages += len(teacher)
            found.unknown_passages += len(unknown)
            found.example = found.example or next(iter(unknown), "")
        return found

    def _pool(self, query_id: str) -> tuple[Sequence[str], list[str], list[str], dict[str, float]]:
        """The teacher's passages, the usable relevant ones, the other usable ones in order, the teacher's scores."""
        ranked = self.rankings[query_id] if query_id in self.rankings else RankList((), np.empty(0))
        usable = self._usable(query_id)
        grades = {passage_id: grade for passage_id, grade in self.qrels.get(query_id, {}).items() if grade > 0}
        order = ranked.passage_ids if self._student_order is None else self._student_order(query_id)
        places = {passage_id: place for place, passage_id in enumerate(order)} if grades else {}
        relevant = sorted(
            (passage_id for passage_id in grades if passage_id in usable),
            key=lambda passage_id: (-grades[passage_id], places.get(passage_id, len(places)), passage_id),
        )
        taken = grades if relevant and self.relevant_first else {}
        others = [passage_id for passage_id in ranked.passage_ids if passage_id in usable and passage_id not in taken]
        return ranked.passage_ids, relevant, others, dict(zip(ranked.passage_ids, ranked.scores.tolist(), strict=True))

    def _hardest(self, query_id: str, others: Sequence[str]) -> int:
        """Place of the passage that is always in the list: the student's best one, else the teacher's."""
        places = {passage_id: place for place, passage_id in enumerate(others)}
        order = others if self._student_order is None else self._student_order(query_id)
        return next((places[passage_id] for passage_id in order if passage_id in places), 0)

    def rng(self, query_id: str, epoch: int, purpose: str = "list") -> np.random.Generator:
        """Random numbers for a query in an epoch, the same wherever they are drawn."""
        digest = hashlib.blake2b(f"{self.seed} {epoch} {purpose} {query_id}".encode(), digest_size=16).digest()
        return np.random.default_rng(int.from_bytes(digest, "little"))
