import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgr_trainer.student.prefix_trees import prefix_tree, shared_lengths

IDENTIFIERS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6).map(tuple), min_size=1, max_size=25)


def spelled(tree):
    """The prefixes in the order of the tree, rebuilt from tokens, depths and ends."""
    found = []
    for place, depth in enumerate(tree.depths):
        above = [other for other in range(place) if tree.ends[other] > place]
        assert len(above) == depth
        found.append(tuple(tree.tokens[[*above, place][1:]].tolist()))
    return found


def test_an_example():
    tree = prefix_tree([(5,), (5, 6), (5, 6, 7), (5, 8), (9, 9)])
    assert spelled(tree) == [(), (5,), (5, 6), (9,)]
    assert tree.tokens.tolist() == [-1, 5, 6, 9]
    assert tree.ends.tolist() == [4, 3, 3, 4]
    assert tree.prefixes.tolist() == [0, 0, 1, 0, 1, 2, 0, 1, 0, 3]


@given(IDENTIFIERS)
def test_every_prefix_is_there_once_and_every_token_follows_its_own(identifiers):
    ordered = sorted(identifiers)
    tree = prefix_tree(ordered)
    prefixes = spelled(tree)
    assert sorted(prefixes) == sorted({ids[:depth] for ids in ordered for depth in range(len(ids))})
    followed = [prefixes[place] for place in tree.prefixes]
    assert followed == [ids[:depth] for ids in ordered for depth in range(len(ids))]


@given(IDENTIFIERS)
def test_shared_lengths_say_how_many_prefixes_a_further_identifier_adds(identifiers):
    ordered = sorted(identifiers)
    added = [len(ids) - 1 - shared for ids, shared in zip(ordered, shared_lengths(ordered), strict=True)]
    for place in range(len(ordered)):
        assert sum(added[: place + 1]) + 1 == len(prefix_tree(ordered[: place + 1]).tokens)


@pytest.mark.parametrize("identifiers", [[(4,)], [(4,), (4,), (4,)]])
def test_single_tokens_follow_the_empty_prefix(identifiers):
    tree = prefix_tree(identifiers)
    assert tree.tokens.tolist() == [-1] and tree.ends.tolist() == [1]
    assert np.array_equal(tree.prefixes, np.zeros(len(identifiers)))
