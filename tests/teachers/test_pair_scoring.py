import sqlite3

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.teachers import pair_scoring
from dgr_trainer.teachers.batches import plan_batches
from dgr_trainer.teachers.pair_teacher import PairTeacher
from dgr_trainer.teachers.score_cache import KEY, ScoreCache


class Counting(PairTeacher):
    """Scores depend on what else is in the batch, as padding and kernels make them; and every batch is recorded."""

    name, batch_tokens, progress = "counting", 40, False

    def __init__(self, corpus, version=0, processes=None, cache=None):
        self.corpus, self.version, self.processes, self.cache = corpus, version, processes, cache
        self.batches = []

    def content(self, query, passage):
        return query.encode(), passage.text.encode()

    def encode(self, pairs):
        return [f"{query} {passage.text}" for query, passage in pairs]

    def score(self, batch):
        self.batches.append(batch)
        longest = max(map(len, batch))
        return np.array([hash((one, self.version)) % 1000 + longest / 7 for one in batch])

    def settings(self):
        return {"version": self.version}

    @property
    def scored(self):
        return [one for batch in self.batches for one in batch]


class Process:
    """One of several processes, of which no other has found anything."""

    def __init__(self, process_index, num_processes):
        self.process_index, self.num_processes = process_index, num_processes

    def wait_for_everyone(self):
        """Nobody else is there."""


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(pair_scoring, "_PAIRS_PER_CHUNK", 7)
    corpus = Corpus.from_passages([Passage(f"p{i}", text="word " * (i % 5 + 1) + str(i)) for i in range(12)])
    queries = {f"q{i}": f"query {i}" for i in range(4)}
    candidates = Rankings({q: {f"p{(i + j) % 12}": 0.0 for j in range(6)} for i, q in enumerate(queries)})
    return corpus, queries, candidates


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 80), st.none() | st.integers(1, 9))
def test_batches_hold_every_input_once_within_the_budget(lengths, budget, size):
    batches = list(plan_batches(np.array(lengths, dtype=np.int64), budget, size))
    assert all(len(batch) <= (size or len(lengths)) for batch in batches)
    assert sorted(row for batch in batches for row in batch.tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(1, max(lengths[row] for row in batch)) <= budget
    in_order = [lengths[row] for batch in batches for row in batch]
    assert in_order == sorted(lengths, reverse=True)


def test_the_order_of_queries_and_candidates_does_not_matter(small):
    corpus, queries, candidates = small
    expected = Counting(corpus).rank(queries, candidates)
    turned = Rankings({q: dict(reversed(list(zip(*candidates[q], strict=True)))) for q in reversed(list(candidates))})
    again = Counting(corpus).rank(dict(reversed(queries.items())), turned)
    assert list(again) == list(reversed(list(expected))) and again == expected
    assert list(expected) == list(queries)


def test_the_same_content_is_scored_once(small):
    _, queries, _ = small
    corpus = Corpus.from_passages([Passage(f"p{i}", text="all the same") for i in range(5)])
    teacher = Counting(corpus)
    ranked = teacher.rank({"a": "q", "b": "q"}, Rankings({q: {f"p{i}": 0.0 for i in range(5)} for q in "ab"}))
    assert teacher.scored == ["q all the same"]
    assert len({score for q in "ab" for score in ranked[q].scores}) == 1


def test_a_cache_is_by_content(small, tmp_path):
    corpus, queries, candidates = small
    first = Counting(corpus, cache=tmp_path)
    expected = first.rank(queries, candidates)
    again = Counting(corpus, cache=tmp_path)
    assert again.rank(queries, candidates) == expected and not again.scored
    # Other ids, another corpus, the same texts: nothing is scored.
    renamed = Corpus.from_passages([Passage(f"x{p.id}", text=p.text) for p in corpus])
    moved = Rankings({f"x{q}": {f"x{p}": 0.0 for p in candidates[q].passage_ids} for q in candidates})
    other = Counting(renamed, cache=tmp_path)
    found = other.rank({f"x{q}": text for q, text in queries.items()}, moved)
    assert not other.scored
    assert found["xq0"].scores.tolist() == expected["q0"].scores.tolist()
    # Another text or another model is scored.
    changed = Counting(corpus, cache=tmp_path)
    changed.rank({**queries, "q0": "another query"}, candidates)
    assert len(changed.scored) == 6 and all(one.startswith("another query") for one in changed.scored)
    newer = Counting(corpus, version=1, cache=tmp_path)
    newer.rank(queries, candidates)
    assert len(newer.scored) == 24


@pytest.mark.parametrize("fails_at", range(12))
def test_nothing_is_scored_twice_after_an_interruption(small, tmp_path, fails_at):
    corpus, queries, candidates = small
    expected = Counting(corpus).rank(queries, candidates)
    teacher = Counting(corpus, cache=tmp_path)
    score, calls = teacher.score, []

    def failing(batch):
        calls.append(batch)
        if len(calls) == fails_at + 1:
            raise KeyboardInterrupt
        return score(batch)

    teacher.score = failing
    with pytest.raises(KeyboardInterrupt):
        teacher.rank(queries, candidates)
    assert teacher.rank(queries, candidates) == expected
    assert sorted(teacher.scored) == sorted(set(teacher.scored)) and len(teacher.scored) == 24


def test_the_number_of_processes_does_not_matter(small, tmp_path):
    corpus, queries, candidates = small
    expected = Counting(corpus).rank(queries, candidates)
    for count in (2, 3):
        teachers = []
        for index in range(count):
            folder = tmp_path / str((count, index))
            teachers.append(Counting(corpus, processes=Process(index, count), cache=folder))
            # Alone, a process knows its own scores only; the others are missing.
            with pytest.raises(ValueError, match="is nan"):
                teachers[-1].rank(queries, candidates)
        scored = [one for teacher in teachers for one in teacher.scored]
        assert sorted(scored) == sorted(set(scored)) and len(scored) == 24
        assert all(teacher.scored for teacher in teachers)
        # Their scores together are those of one.
        together = tmp_path / f"together{count}"
        with ScoreCache(together, Counting(corpus).settings()) as cache:
            for index in range(count):
                (file,) = (tmp_path / str((count, index))).iterdir()
                with sqlite3.connect(file) as other:
                    keys, scores = zip(*other.execute("SELECT key, score FROM scores"), strict=True)
                cache.add(np.array(keys, KEY), np.array(scores))
        last = Counting(corpus, cache=together)
        assert last.rank(queries, candidates) == expected and not last.scored


def test_a_score_that_is_no_number_is_refused_with_its_pair(small, tmp_path):
    corpus, queries, candidates = small
    teacher = Counting(corpus, cache=tmp_path)
    teacher.score = lambda batch: np.full(len(batch), np.inf)
    with pytest.raises(FloatingPointError, match="counting gives the score inf to query 'q0' and passage 'p"):
        teacher.rank(queries, candidates)
    with ScoreCache(tmp_path, teacher.settings()) as cache:
        assert len(cache) == 0


def test_k_cuts_and_queries_without_candidates_get_an_empty_list(small):
    corpus, queries, candidates = small
    full = Counting(corpus).rank({**queries, "other": "nothing"}, candidates)
    cut = Counting(corpus).rank({**queries, "other": "nothing"}, candidates, k=2)
    assert cut["q0"].passage_ids == full["q0"].passage_ids[:2] and full.name == "counting"
    assert cut["other"].passage_ids == ()
    with pytest.raises(ValueError, match="Counting is a reranker: .* Give candidates"):
        Counting(corpus).rank(queries)
