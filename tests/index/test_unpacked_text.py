"""Small indexes that are asked often: unpacked into memory, they answer as when they are walked."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgr_trainer.index import FMIndex, query_dispatch
from dgr_trainer.index.unpacked_text import MOST_TOKENS

SEPARATOR, VOCABULARY = 2, 6
texts = st.lists(st.lists(st.sampled_from([0, 1, 3, 4]), max_size=9), min_size=1, max_size=9)


@pytest.fixture(autouse=True, scope="module")
def unpacking(walks):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(query_dispatch, "MOST_TOKENS", MOST_TOKENS)
        yield patch


def build(passages, **options):
    return FMIndex.build(
        passages, passage_ids=[f"p{n}" for n in range(len(passages))], vocab_size=VOCABULARY, separator=SEPARATOR,
        progress=False, **options,
    )  # fmt: skip


def unpacked(index):
    return [segment.memory._text is not None for segment in index._segments]


def ask_until_unpacked(index):
    """Read all passages until the walks have had as many steps as all segments have tokens, and once more."""
    for _ in range(3 + index.num_tokens):
        index.extract_batch(np.arange(index.num_passages))
        index.locate_batch(index.find_batch([[SEPARATOR]]), 1)


def answers(index):
    patterns = [[a, *more] for a in range(VOCABULARY) for more in ([], [0], [3], [SEPARATOR], [1, 4])]
    patterns.append([SEPARATOR, 1, 3])
    ranges, lengths = index.find_batch(patterns), [len(pattern) for pattern in patterns]
    passages = np.arange(index.num_passages)[::-1]
    found = [*index.locate_batch(ranges, lengths), *index.locate_batch(ranges, lengths, 2)]
    return [array.tolist() for array in [*found, *index.extract_batch(passages)]]


@given(texts, st.lists(st.integers(0, 8), max_size=3), st.sampled_from([None, 12]))
@settings(max_examples=150, deadline=None)
def test_the_answers_are_those_of_walks(passages, removed, segment_tokens):
    index = build(passages, segment_tokens=segment_tokens)
    some = sorted({f"p{number}" for number in removed if number < len(passages) - 1})
    if some:
        index = index.remove(some)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(query_dispatch, "MOST_TOKENS", 0)
        walked = answers(index)
        assert not any(unpacked(index))
    ask_until_unpacked(index)
    assert all(unpacked(index))
    assert answers(index) == walked


def test_it_is_unpacked_after_as_many_steps_as_it_has_tokens():
    index = build([[1] * 99, [3] * 99])
    index.extract(0)
    index.extract(1)
    assert unpacked(index) == [False]  # Whoever reads all passages once, for example to compact, needs no copy.
    index.extract(0)
    index.extract(1)
    assert unpacked(index) == [True]


def test_segments_that_an_edited_index_takes_over_stay_unpacked():
    index = build([[1, 3], [3, 4]])
    ask_until_unpacked(index)
    assert unpacked(index.remove(["p0"])) == [True]


def test_an_index_above_the_limit_is_walked(unpacking):
    index = build([[1, 3], [3, 4, 4]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(query_dispatch, "MOST_TOKENS", index.num_tokens - 1)
        ask_until_unpacked(index)
    assert unpacked(index) == [False]


def test_threads_unpack_it_once(monkeypatch):
    index = build([[1, 3, 4] * 50] * 40)
    expected = answers(index)
    index.extract_batch(np.arange(40))
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: (answers(index), id(index._segments[0].memory._text)), range(16)))
    assert all(found == expected for found, _ in results)
    assert len({text for _, text in results}) == 1


def test_a_copy_begins_anew():
    index = build([[1, 3], [3, 4]])
    ask_until_unpacked(index)
    for copied in (copy.deepcopy(index), pickle.loads(pickle.dumps(index))):
        assert unpacked(copied) == [False]
        assert answers(copied) == answers(index)
