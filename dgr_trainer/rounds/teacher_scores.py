"""What the teacher says of the candidates of a round: only what is new is scored, if the teacher can keep scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dgr_trainer.candidates import Candidates
from dgr_trainer.evaluation.agreement import kendall_tau
from dgr_trainer.processes import Processes, from_main, is_main_process, wait
from dgr_trainer.processes.jobs import in_every_process
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.teachers.teacher import Teacher
from dgr_trainer.training.taught_lists import evenly

_SAMPLED = 1000


def rank_candidates(
    teacher: Teacher,
    queries: Mapping[str, str],
    candidates: Candidates,
    file: Path,
    cache: Path,
    processes: Processes | None,
) -> Rankings:
    """Let the teacher rank the candidates, and write its rank lists to a file; if there is one already, read it.

    A teacher that shares its work among processes does so; any other one works in the main process.

    Args:
        teacher ([`Teacher`]): The teacher.
        queries (`Mapping[str, str]`): Texts of the queries by id.
        candidates ([`Candidates`]): The candidates of these queries.
        file (`pathlib.Path`): JSON Lines.
        cache (`pathlib.Path`): Folder of scores for a teacher that can keep them and has no such folder.
        processes ([`Processes`], *optional*): The processes, each of which calls this.

    Returns:
        [`Rankings`]: the rank list of each query, in every process.
    """
    main = is_main_process(processes)
    if not from_main(file.is_file(), processes):
        lists = candidates.to_rankings()
        depth = max(1, *(len(ids) for ids, _ in lists.values()))

        def rank() -> Rankings:
            return teacher.rank(queries, lists, k=depth)

        with _keeping_scores(teacher, cache):
            if getattr(teacher, "processes", None) is not None:
                ranked: Rankings | None = rank()
            else:
                ranked = in_every_process(lambda: rank() if main else None, processes)
        if main and ranked is not None:
            ranked.to_jsonl(file)
        wait(processes)
    return Rankings.from_jsonl(file)


@contextmanager
def _keeping_scores(teacher: Any, cache: Path) -> Iterator[None]:
    """Let a teacher that can keep its scores, and does not, keep them in a folder."""
    if not hasattr(teacher, "cache") or teacher.cache is not None:
        yield
        return
    teacher.cache = cache
    try:
        yield
    finally:
        teacher.cache = None


def mean_agreement(candidates: Candidates, rankings: Rankings) -> float | None:
    """Mean of Kendall's tau between the student's order of its candidates and the teacher's.

    Args:
        candidates ([`Candidates`]): The candidates, in the student's order.
        rankings ([`Rankings`]): The teacher's rank lists.

    Returns:
        `float`, *optional*: the mean over up to 1,000 queries, at even distances; `None` if no list has an order.
    """
    lists = candidates.to_rankings()
    query_ids = evenly([query_id for query_id in lists if query_id in rankings], _SAMPLED)
    taus = [kendall_tau(lists[query_id], rankings[query_id]) for query_id in query_ids]
    defined = [tau for tau in taus if not math.isnan(tau)]
    return math.fsum(defined) / len(defined) if defined else None


def new_shares(candidates: Candidates, earlier: Sequence[Candidates]) -> tuple[float, float]:
    """How many candidates are new.

    Args:
        candidates ([`Candidates`]): The candidates of a round.
        earlier (`Sequence[Candidates]`): Those of the rounds before, in their order.

    Returns:
        `tuple[float, float]`: the shares of candidates that the last round did not have, and that none had.
    """
    total = new = never = 0
    for query_id in candidates:
        found = set(candidates.passage_ids(query_id))
        known: set[str] = set()
        last: set[str] = set()
        for one in earlier:
            last = set(one.passage_ids(query_id)) if query_id in one else set()
            known |= last
        total += len(found)
        new += len(found - last)
        never += len(found - known)
    return new / max(total, 1), never / max(total, 1)
