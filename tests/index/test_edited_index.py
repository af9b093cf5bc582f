"""An index that readers see with other texts: equal to an index that was built with these texts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgr_trainer.index import FMIndex
from dgr_trainer.index.edited_index import EditedIndex, Edits

SEPARATOR, VOCABULARY = 2, 9
PASSAGE = st.lists(st.sampled_from([0, 1, 3, 4, 5]), max_size=7)
# The last token occurs in other texts only.
OTHER_PASSAGE = st.lists(st.sampled_from([0, 1, 3, 4, 7]), max_size=7)


def built(passages, **settings):
    ids = [f"p{number}" for number in range(len(passages))]
    return FMIndex.build(passages, passage_ids=ids, vocab_size=VOCABULARY, separator=SEPARATOR, progress=False,
                         **settings)  # fmt: skip


def patterns_of(*texts):
    """All patterns of up to four tokens of passages, with the separators before and after; and some that are not."""
    found = {(), (6,), (5, 7), (SEPARATOR, 6), (0, SEPARATOR, 0)}
    for text in texts:
        for passage in text:
            whole = (SEPARATOR, *passage, SEPARATOR)
            found |= {whole[i : i + n] for i in range(len(whole)) for n in range(1, 5) if i + n <= len(whole)}
            found |= {whole}
    return sorted(found)


def as_sets(index, ranges, patterns):
    """What follows each pattern, how often, and where it occurs; undefined after a separator."""
    offsets, tokens, counts = index.continuations_batch(ranges)
    following = [
        dict(zip(tokens[a:b].tolist(), counts[a:b].tolist(), strict=True)) if pattern[-1:] != (SEPARATOR,) else None
        for a, b, pattern in zip(offsets[:-1], offsets[1:], patterns, strict=True)
    ]
    placed = [number for number, pattern in enumerate(patterns) if pattern]
    lengths = [len(patterns[number]) for number in placed]
    numbers, passages, places = index.locate_batch(ranges[placed], lengths)
    assert (np.diff(numbers) >= 0).all()
    return following, sorted(zip(numbers.tolist(), passages.tolist(), places.tolist(), strict=True))


def check_equal(edited, expected, patterns):
    ranges, expected_ranges = edited.find_batch(patterns), expected.find_batch(patterns)
    assert edited.counts(ranges).tolist() == expected.counts(expected_ranges).tolist()
    assert as_sets(edited, ranges, patterns) == as_sets(expected, expected_ranges, patterns)
    assert edited.token_counts.tolist() == expected.token_counts.tolist()
    assert edited.num_tokens == expected.num_tokens
    assert edited.passage_lengths.tolist() == expected.passage_lengths.tolist()
    everything = list(range(expected.num_passages))[::-1]
    for one, other in zip(edited.extract_batch(everything), expected.extract_batch(everything), strict=True):
        assert one.tolist() == other.tolist()
    assert edited.counts(edited.whole) == expected.counts(expected.whole)
    followed = dict(zip(*(part.tolist() for part in edited.continuations(edited.find([SEPARATOR]))), strict=True))
    assert followed == dict(
        zip(*(part.tolist() for part in expected.continuations(expected.find([SEPARATOR]))), strict=True)
    )


@settings(max_examples=12, deadline=None)
@given(
    passages=st.lists(PASSAGE, min_size=1, max_size=5),
    readers=st.lists(st.dictionaries(st.integers(0, 4), OTHER_PASSAGE, max_size=3), min_size=1, max_size=3),
    segment_tokens=st.sampled_from([None, 8]),
    removed=st.booleans(),
)
def test_answers_are_those_of_an_index_with_the_other_texts(passages, readers, segment_tokens, removed):
    readers = [{position: text for position, text in one.items() if position < len(passages)} for one in readers]
    index = built([*passages, [3, 4, 0]], segment_tokens=segment_tokens)
    index = index.remove([f"p{len(passages)}"]) if removed else index
    passages = passages if removed else [*passages, [3, 4, 0]]
    texts = [[one.get(position, passage) for position, passage in enumerate(passages)] for one in readers]
    patterns = patterns_of(passages, *texts)
    whole = EditedIndex(Edits(index, [{n: np.array(t, np.int64) for n, t in one.items()} for one in readers]),
                        range(len(readers)))  # fmt: skip
    expected = [built(text) for text in texts]
    for reader, of_reader in enumerate(expected):
        check_equal(whole.for_readers([reader]), of_reader, patterns)
    for root in ((), (SEPARATOR,), (3,)):
        roots = whole.roots(root, len(readers))
        tokens, occurs = whole.first_tokens(root)
        for reader, of_reader in enumerate(expected):
            assert set(tokens[occurs[reader]].tolist()) == set(
                of_reader.continuations(of_reader.find(root))[0].tolist()
            )
        tried = np.tile(np.array([0, 1, 3, 4, 5, 6, 7, SEPARATOR]), (len(readers), 1))
        every, some = whole.counts(whole.extend(roots, tried)), whole.counts(whole.extend(roots, tried, enough=2))
        again = whole.counts(whole.extend(whole.extend(roots, tried[:, 2]), tried[:, 3]))
        for reader, of_reader in enumerate(expected):
            counts = of_reader.counts(of_reader.find_batch([(*root, int(token)) for token in tried[reader]]))
            assert every[reader].tolist() == counts.tolist()
            assert ((some[reader] == counts) | (some[reader] == 0)).all()
            assert again[reader] == of_reader.count((*root, 3, 4))


def test_a_limit_counts_only_what_the_reader_sees():
    index = built([[3, 4]] * 6)
    edited = EditedIndex(Edits(index, [{0: np.array([3, 5]), 1: np.array([4]), 5: np.array([3, 4, 3, 4])}]), [0])
    for limit, expected in ((2, 2), (4, 4), (50, 5)):
        passages, _ = edited.locate(edited.find([3, 4]), 2, limit)
        assert len(passages) == expected and set(passages.tolist()) <= {2, 3, 4, 5}


def test_equal_texts_of_several_passages_are_told_apart():
    index = built([[3, 4, 3, 4], [3, 4, 3, 4], [3, 4, 3, 4]])
    texts = {0: np.array([3, 4, 3, 4]), 2: np.array([3, 4, 3, 4])}
    edited = EditedIndex(Edits(index, [texts]), [0])
    check_equal(edited, index, patterns_of([[3, 4, 3, 4]]))


def test_readers_without_other_texts_see_the_index():
    index = built([[3, 4], [4, 5]])
    edited = EditedIndex(Edits(index, [{}, {1: np.array([0], np.int64)}]), [0, 1])
    check_equal(edited.for_readers([0]), index, patterns_of([[3, 4], [4, 5]]))
    assert repr(edited) == f"EditedIndex({index!r}, 2 readers)"
    with pytest.raises(ValueError, match="expected 1"):
        edited.find([3])
