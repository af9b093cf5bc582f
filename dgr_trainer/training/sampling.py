"""Sampling of the short list of passages on which a query is trained in an epoch, in the order to be taught."""

import hashlib
import logging
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dgr_trainer.data.grades import Qrels, as_qrels
from dgr_trainer.errors import DGRValueError
from dgr_trainer.runs.rank_list import RankList

logger = logging.getLogger(__name__)

SAMPLINGS = ("dgr_paper", "top", "spread", "gap", "hard", "near")


class TrainingList(NamedTuple):
    """Passages of a query in the order to be taught, best first.

    Args:
        passage_ids (`tuple[str, ...]`): The passages, at most the list length.
        teacher_scores (`tuple[float, ...]`): The teacher's score of each.
        relevant (`str`, *optional*): The passage whose identifiers are to be generated.
        ranks (`tuple[int, ...]`): Place of each in the order to be taught, from 0. Passages to which the teacher gives
            equal scores share a place; a relevant passage that comes first does so alone, since the judgement tells it
            from the others.
        judged (`bool`): Whether a relevant passage comes first.
    """

    passage_ids: tuple[str, ...]
    teacher_scores: tuple[float, ...]
    relevant: str | None
    ranks: tuple[int, ...]
    judged: bool


@dataclass
class Coverage:
    """Counts of what the training queries have and lack.

    Args:
        queries (`int`): Number of queries.
        rank_lists (`int`): Queries with two passages or more that are told apart.
        without_rank_list (`int`): Queries that the teacher did not rank.
        without_target (`int`): Queries without a passage whose identifiers can be generated.
        without_relevant (`int`): Queries without a relevant passage that has identifiers.
        ranked_passages (`int`): Passages in the rank lists.
        unknown_passages (`int`): Ranked passages without identifiers.
        example (`str`): One of these.
        tied_lists (`int`): Queries whose rank list has two passages or more, all with the same score, or within
            `tie_margin` of the best one.
        suspected (`int`): Ranked passages left out because they may be relevant (`false_negative_margin`).
    """

    queries: int = 0
    rank_lists: int = 0
    without_rank_list: int = 0
    without_target: int = 0
    without_relevant: int = 0
    ranked_passages: int = 0
    unknown_passages: int = 0
    example: str = ""
    suspected: int = 0
    tied_lists: int = 0

    def gaps(self) -> list[str]:
        """A sentence on each kind of gap; empty if there are none."""
        share = f"of {self.queries} queries"
        sentences = {
            f"{self.without_rank_list} {share} have no rank list": self.without_rank_list,
            f"{self.tied_lists} {share} have a rank list in which all scores are equal, which says nothing of the "
            "order (with tie_margin, close ones are equal)": self.tied_lists,
            f"{self.without_relevant} {share} have no relevant passage with identifiers": self.without_relevant,
            f"{self.without_target} {share} have no passage to generate": self.without_target,
            f"{self.unknown_passages} of {self.ranked_passages} ranked passages have no identifiers (such as "
            f"{self.example!r})": self.unknown_passages,
            f"{self.suspected} of {self.ranked_passages} ranked passages are left out because the teacher scores them "
            "above the relevant passage by more than the margin": self.suspected,
        }
        return [sentence for sentence, count in sentences.items() if count]


class ListSampler:
    """Samples the list of a query: its relevant passage, then others in the teacher's order.

    The sample depends only on the seed, the epoch and the query id, so it is the same in any process, worker or
    resumed run.

    Args:
        rankings (`Mapping[str, RankList]`): The teacher's rank lists.
        qrels (`Qrels`, *optional*): Relevant passages.
        usable (`Callable[[str], Container[str]]`): Passages with identifiers, for a query.
        student_order (`Callable[[str], Sequence[str]]`, *optional*): The student's candidates of a query, best first.
        list_length (`int`): Passages in a list, the relevant one included.
        sampling (`str`):
            `"dgr_paper"`: the best other candidate of the student (of the teacher, if there is no student's order) and
            a uniform sample of the rest; as relevant passage the best one or, half of the time, a uniform sample. The
            other ways take the best relevant passage. `"top"`: the teacher's first passages. `"spread"`: one from each
            of as many equal parts of the rank list. `"gap"`: the passages whose scores are furthest apart (the
            smallest difference between neighbours is maximal), the same in every epoch. `"hard"`: the student's first
            passages (the teacher's, where there is no student's order, and after them). `"near"`: those nearest to the
            relevant passage in the teacher's rank list, above and below; the first ones if it is not ranked.
        relevant_first (`bool`): Whether the relevant passage comes first; otherwise the list has the teacher's order.
        seed (`int`): Seed of the sampling.
        false_negative_margin (`float`, *optional*):
            Leave out unjudged passages that the teacher scores above the relevant one (the one that it scores highest)
            by more than this, since they may be relevant too. By default they are kept, as always for a query of which
            the teacher ranked no relevant passage.
        ignore_identical_ids (`bool`): Whether to leave out the passage that has the id of the query.
        tie_margin (`float`): Passages whose teacher scores are at most this below the best one of their place share
            the place, so that they are no pair. 0: only those with equal scores.
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
        false_negative_margin: float | None = None,
        ignore_identical_ids: bool = False,
        tie_margin: float = 0.0,
    ) -> None:
        if not tie_margin >= 0:
            raise DGRValueError(
                f"tie_margin={tie_margin}: give 0 or more, in units of the teacher's scores; 0 joins equal ones only."
            )
        if false_negative_margin is not None and not false_negative_margin >= 0:
            raise DGRValueError(
                f"false_negative_margin={false_negative_margin}: give 0 or more, in units of the teacher's scores, or "
                "None to keep all."
            )
        if list_length < 2:
            raise DGRValueError(f"list_length={list_length}: a list needs at least 2 passages to compare.")
        if sampling not in SAMPLINGS:
            raise DGRValueError(f"sampling={sampling!r} is unknown; use one of {', '.join(SAMPLINGS)}.")
        self.rankings = rankings
        self.qrels = as_qrels(qrels or {})
        if ignore_identical_ids:
            self.qrels = {
                query_id: {passage_id: grade for passage_id, grade in grades.items() if passage_id != query_id}
                for query_id, grades in self.qrels.items()
            }
        self.ignore_identical_ids = ignore_identical_ids
        self.list_length = list_length
        self.sampling = sampling
        self.relevant_first = relevant_first
        self.seed = seed
        self.false_negative_margin = false_negative_margin
        self.tie_margin = tie_margin
        self._usable = usable
        self._student_order = student_order

    def sample(self, query_id: str, epoch: int) -> TrainingList:
        """Sample the list of a query in an epoch; empty for an unknown query."""
        _, relevant, others, scores, _ = self._pool(query_id)
        rng = self.rng(query_id, epoch)
        chosen = relevant[0] if relevant else None
        if len(relevant) > 1 and self.sampling == "dgr_paper" and rng.random() < 0.5:
            chosen = relevant[int(rng.integers(len(relevant)))]
        first = [chosen] if chosen is not None and self.relevant_first else []
        count = self.list_length - len(first)
        if len(others) > count:
            relevant_score = scores.get(chosen) if chosen is not None else None
            positions = self._select(query_id, others, scores, count, rng, relevant_score)
            others = [others[position] for position in positions]
        passages = first + others[:count]
        if chosen is None and passages:
            chosen = passages[0]
        # A relevant passage that the teacher did not rank gets the best score of the list.
        best = max((scores[passage_id] for passage_id in passages if passage_id in scores), default=0.0)
        teacher_scores = tuple(scores.get(passage_id, best) for passage_id in passages)
        ranks = _ranks(teacher_scores, bool(first), self.tie_margin)
        return TrainingList(tuple(passages), teacher_scores, chosen, ranks, judged=bool(first))

    def coverage(self, query_ids: Iterable[str]) -> Coverage:
        """Count what queries have and lack."""
        coverage = Coverage()
        for query_id in query_ids:
            teacher, relevant, others, scores, suspected = self._pool(query_id)
            has_first = bool(relevant and self.relevant_first)
            size = len(others) + has_first
            tied = len(others) > 1 and scores[others[-1]] >= scores[others[0]] - self.tie_margin
            coverage.queries += 1
            coverage.rank_lists += size >= 2 and (has_first or not tied)
            coverage.tied_lists += tied
            coverage.without_rank_list += query_id not in self.rankings
            coverage.without_relevant += bool(self.qrels) and not relevant
            coverage.without_target += not relevant and not others
            usable = self._usable(query_id)
            unknown = [passage_id for passage_id in teacher if passage_id not in usable]
            coverage.ranked_passages += len(teacher)
            coverage.unknown_passages += len(unknown)
            coverage.suspected += suspected
            coverage.example = coverage.example or next(iter(unknown), "")
        return coverage

    def _select(
        self,
        query_id: str,
        others: Sequence[str],
        scores: Mapping[str, float],
        count: int,
        rng: np.random.Generator,
        relevant_score: float | None,
    ) -> Sequence[int]:
        """Ascending positions of the passages to take from a longer list."""
        if self.sampling == "dgr_paper":
            kept = self._hardest(query_id, others)
            rest = [position for position in range(len(others)) if position != kept]
            sampled = rng.choice(len(rest), count - 1, replace=False)
            return sorted([kept, *(rest[i] for i in sampled)])
        if self.sampling == "spread":
            bounds = [len(others) * part // count for part in range(count + 1)]
            return [int(position) for position in rng.integers(bounds[:-1], bounds[1:])]
        if self.sampling == "gap":
            return spaced([scores[passage_id] for passage_id in others], count)
        if self.sampling == "hard" and self._student_order is not None:
            places = {passage_id: place for place, passage_id in enumerate(self._student_order(query_id))}
            order = sorted(range(len(others)), key=lambda position: places.get(others[position], len(places)))
            return sorted(order[:count])
        if self.sampling == "near" and relevant_score is not None:
            return nearest([scores[passage_id] for passage_id in others], relevant_score, count)
        return range(count)

    def _pool(self, query_id: str) -> tuple[Sequence[str], list[str], list[str], dict[str, float], int]:
        """What there is to sample from for a query.

        Returns the teacher's passages, the relevant passages with identifiers, the other passages with identifiers in
        the teacher's order, the teacher's scores, and how many passages were left out because they may be relevant.
        """
        ranked = self.rankings[query_id] if query_id in self.rankings else RankList((), np.empty(0))
        if self.ignore_identical_ids and query_id in ranked.passage_ids:
            own = ranked.passage_ids.index(query_id)
            ranked = RankList(ranked.passage_ids[:own] + ranked.passage_ids[own + 1 :], np.delete(ranked.scores, own))
        usable = self._usable(query_id)
        grades = {passage_id: grade for passage_id, grade in self.qrels.get(query_id, {}).items() if grade > 0}
        order = ranked.passage_ids if self._student_order is None else self._student_order(query_id)
        ranks = {passage_id: rank for rank, passage_id in enumerate(order)} if grades else {}
        relevant = sorted(
            (passage_id for passage_id in grades if passage_id in usable),
            key=lambda passage_id: (-grades[passage_id], ranks.get(passage_id, len(ranks)), passage_id),
        )
        taken = grades if relevant and self.relevant_first else {}
        others = [passage_id for passage_id in ranked.passage_ids if passage_id in usable and passage_id not in taken]
        scores = dict(zip(ranked.passage_ids, ranked.scores.tolist(), strict=True))
        suspects: set[str] = set()
        if self.false_negative_margin is not None and not scores.keys().isdisjoint(grades):
            limit = max(scores[passage_id] for passage_id in grades if passage_id in scores)
            limit += self.false_negative_margin
            judged = self.qrels[query_id]
            suspects = {passage_id for passage_id in others if scores[passage_id] > limit and passage_id not in judged}
            others = [passage_id for passage_id in others if passage_id not in suspects]
        return ranked.passage_ids, relevant, others, scores, len(suspects)

    def _hardest(self, query_id: str, others: Sequence[str]) -> int:
        """Position of the passage that is always sampled: the student's best one, else the teacher's."""
        positions = {passage_id: position for position, passage_id in enumerate(others)}
        order = others if self._student_order is None else self._student_order(query_id)
        return next((positions[passage_id] for passage_id in order if passage_id in positions), 0)

    def rng(self, query_id: str, epoch: int, purpose: str = "list") -> np.random.Generator:
        """A random generator for a query in an epoch, the same in every process."""
        digest = hashlib.blake2b(f"{self.seed} {epoch} {purpose} {query_id}".encode(), digest_size=16).digest()
        return np.random.default_rng(int.from_bytes(digest, "little"))


def _ranks(scores: Sequence[float], relevant_first: bool, tie_margin: float) -> tuple[int, ...]:
    """Places of passages in the order to be taught: equal for those that the teacher hardly tells apart.

    A place holds the scores that are at most `tie_margin` below its first one. A relevant passage that comes first has
    a place of its own.
    """
    ranks: list[int] = []
    best = 0.0
    for position, score in enumerate(scores):
        tied = position > relevant_first and score >= best - tie_margin
        if not tied:
            best = score
        ranks.append(ranks[-1] + (not tied) if ranks else 0)
    return tuple(ranks)


def nearest(scores: Sequence[float], score: float, count: int) -> range:
    """Positions in a descending list around the place where a score belongs, as many above as below.

    Args:
        scores (`Sequence[float]`): Scores, highest first; at least `count`.
        score (`float`): The score; it belongs after those that equal it.
        count (`int`): How many positions; one more below than above if it is odd.

    Returns:
        `range`: Ascending positions; more on one side where the other one ends.
    """
    place = sum(other >= score for other in scores)
    first = min(max(0, place - count // 2), len(scores) - count)
    return range(first, first + count)


def spaced(scores: Sequence[float], count: int) -> list[int]:
    """Positions in a descending list of scores that maximise the smallest difference between neighbours.

    Args:
        scores (`Sequence[float]`): Scores, highest first; more than `count`.
        count (`int`): How many positions; at least 1. The first is always taken.

    Returns:
        `list[int]`: Ascending positions. Of equally good choices, the one nearest to the front.
    """
    falling = -np.asarray(scores)  # Ascending, as searchsorted needs it.

    def at_least(gap: float) -> list[int]:
        positions = [0]
        while len(positions) < count:
            position = max(int(falling.searchsorted(falling[positions[-1]] + gap)), positions[-1] + 1)
            if position >= len(falling):
                break
            positions.append(position)
        return positions

    best = at_least(0.0)
    low, high = 0.0, float(falling[-1] - falling[0]) / max(1, count - 1)
    for _ in range(30):
        middle = (low + high) / 2
        positions = at_least(middle)
        low, high, best = (middle, high, positions) if len(positions) == count else (low, middle, best)
    return best
