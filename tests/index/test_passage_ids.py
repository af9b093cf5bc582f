from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgr_trainer.index.passage_ids import PassageIds, join_ids, pack_ids

words = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=4)


def passage_ids(values):
    packed = pack_ids(values)
    return PassageIds(packed.id_bytes, packed.id_offsets, packed.order())


@given(st.lists(words, unique=True, max_size=30), st.lists(words, max_size=10))
@settings(max_examples=80, deadline=None)
def test_a_sequence_like_the_list_it_was_made_of(values, others):
    ids = passage_ids(values)
    assert list(ids) == values and len(ids) == len(values)
    assert [ids[position] for position in range(len(values))] == values
    assert ids[1:4] == values[1:4] and ids[::-1] == values[::-1]
    expected = [values.index(value) if value in values else -1 for value in values + others]
    np.testing.assert_array_equal(ids.positions(values + others), expected)
    assert all((value in ids) == (value in values) for value in values + others)
    np.testing.assert_array_equal(ids.positions(pack_ids(values + others)), expected)
    if values:
        assert ids[-1] == values[-1] and ids.index(values[-1]) == len(values) - 1


def test_prefixes_and_non_ascii():
    ids = passage_ids(["b", "a", "ab", "aé", "a0", "日本"])
    assert ids.positions(["a", "ab", "aé", "日本", "日", "", "c"]).tolist() == [1, 2, 3, 5, -1, -1, -1]
    assert 3 not in ids
    assert repr(ids) == "PassageIds(6: 'b', 'a', 'ab', ...)"


def test_errors():
    ids = passage_ids(["a", "b"])
    with pytest.raises(IndexError, match="There is no passage 2: the index holds 2"):
        ids[2]
    with pytest.raises(ValueError, match="'c' is not among the passage ids"):
        ids.index("c")
    with pytest.raises(ValueError, match="'a' is not among the passage ids"):
        ids.index("a", 1)
    with pytest.raises(ValueError, match=r"'x' occurs twice \(passages 0 and 2\).*a different id"):
        passage_ids(["x", "y", "x"])
    with pytest.raises(TypeError, match="passage_ids: the passage id is None"):
        pack_ids(["x", None])


@given(st.lists(words, max_size=20), st.data())
@settings(max_examples=60, deadline=None)
def test_packed_ids_in_parts(values, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=3)))
    packed = pack_ids(values)
    parts = [packed.part(start, stop) for start, stop in pairwise([0, *cuts, len(values)])]
    assert [[part[n] for n in range(len(part))] for part in parts] == [
        values[start:stop] for start, stop in pairwise([0, *cuts, len(values)])
    ]
    joined = join_ids(parts)
    assert [joined[n] for n in range(len(joined))] == values
    if len(set(values)) == len(values):
        assert joined.order().tolist() == sorted(range(len(values)), key=lambda n: values[n].encode())
    else:
        with pytest.raises(ValueError, match="occurs twice"):
            joined.order()
