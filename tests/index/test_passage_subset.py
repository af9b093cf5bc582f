"""The index of some passages: equal to an index that was built from them, in both ways of making it."""

import numpy as np
import pytest
from brute_force_index import BruteForce, has_continuations
from hypothesis import given, settings
from hypothesis import strategies as st

from dgr_trainer.index import FMIndex, passage_subset
from dgr_trainer.index.passage_subset import index_of_passages

SEPARATOR, VOCABULARY = 2, 6
PATTERNS = [[], [0], [3], [SEPARATOR], [0, 3], [3, 3], [SEPARATOR, 0], [4, SEPARATOR], [1, 0, 3], [5, 5]]


def build(passages, **options):
    return FMIndex.build(
        passages.values(), passage_ids=passages, vocab_size=VOCABULARY, separator=SEPARATOR, progress=False, **options
    )


@settings(max_examples=40, deadline=None)
@given(
    sequences=st.lists(st.lists(st.sampled_from([0, 1, 3, 4]), max_size=9), min_size=1, max_size=9),
    chosen=st.lists(st.booleans(), min_size=9, max_size=9).filter(any),
    segment_tokens=st.sampled_from([None, 12]),
    indexed_share=st.sampled_from([0.0, 1.0]),
    removed=st.booleans(),
)
def test_answers_are_those_for_the_passages(sequences, chosen, segment_tokens, indexed_share, removed):
    passages = {f"p{number}": sequence for number, sequence in enumerate(sequences)}
    index = build({**passages, "gone": [3, 0, 3], "last": [0, 1]}, segment_tokens=segment_tokens)
    index = index.remove(["gone"]) if removed else index
    all_passages = passages | ({} if removed else {"gone": [3, 0, 3]}) | {"last": [0, 1]}
    kept = [id for id, is_chosen in zip(passages, chosen, strict=False) if is_chosen] or ["last"]
    subset = index_of_passages(index, index.passage_positions(kept), indexed_share)
    check(subset, {id: all_passages[id] for id in kept})


def check(index, passages):
    brute = BruteForce(list(passages.values()), SEPARATOR)
    assert list(index.passage_ids) == list(passages)
    assert index.num_tokens == sum(len(passage) + 1 for passage in passages.values())
    assert index.passage_lengths.tolist() == [len(passage) for passage in passages.values()]
    counts = [sum([*p, SEPARATOR].count(token) for p in passages.values()) for token in range(VOCABULARY)]
    assert index.token_counts.tolist() == counts
    indptr, text = index.extract_batch(np.arange(len(passages)))
    assert [text[a:b].tolist() for a, b in zip(indptr, indptr[1:], strict=False)] == list(passages.values())
    ranges = index.find_batch(PATTERNS)
    offsets, tokens, following = index.continuations_batch(ranges)
    extended = index.counts(index.extend(ranges, np.tile(np.arange(VOCABULARY), (len(PATTERNS), 1))))
    for number, pattern in enumerate(PATTERNS):
        assert index.counts(ranges[number]) == (len(brute.occurrences(pattern)) if pattern else index.num_tokens)
        if has_continuations(pattern, SEPARATOR):
            expected = brute.continuations(pattern) if pattern else dict(enumerate(counts))
            part = slice(offsets[number], offsets[number + 1])
            found = dict(zip(tokens[part].tolist(), following[part].tolist(), strict=True))
            assert found == {token: count for token, count in expected.items() if count}
            assert extended[number].tolist() == [expected.get(token, 0) for token in range(VOCABULARY)]
        if pattern:
            places = zip(*(array.tolist() for array in index.locate(ranges[number], len(pattern))), strict=True)
            assert sorted(places) == sorted(brute.occurrences(pattern))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.98])
def test_threads_mark_the_rows_that_one_marks(share, monkeypatch):
    """Long enough for several blocks of bits and several threads."""
    rng = np.random.default_rng(0)
    passages = {f"p{number}": rng.choice([0, 1, 3, 4, 5], size=rng.integers(0, 40)).tolist() for number in range(300)}
    index = build(passages)
    kept = np.flatnonzero(rng.random(300) < share)
    one = index_of_passages(index, kept, indexed_share=0)
    monkeypatch.setattr("dgr_trainer.index.segment.number_of_threads", lambda work: 3)
    monkeypatch.setattr("dgr_trainer.index.kernel_threads.number_of_threads", lambda work: 3)
    several = index_of_passages(index, kept, indexed_share=0)
    assert several.segments[0].removed.rows.tolist() == one.segments[0].removed.rows.tolist()
    check(several, {id: passages[id] for id in index.passage_ids.take(kept)})


def test_few_passages_are_indexed_and_many_are_not():
    index = build({f"p{number}": [0, 1, 3] for number in range(100)})
    few, many = index_of_passages(index, np.array([7])), index_of_passages(index, np.arange(50))
    assert few.segments[0].arrays is not index.segments[0].arrays
    assert many.segments[0].arrays is index.segments[0].arrays
    assert index_of_passages(index, np.arange(100)) is index
    assert 0 < passage_subset._INDEXED_SHARE < 0.5
