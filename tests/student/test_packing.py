import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgr_trainer.student.packing import IGNORED, NO_SEGMENT, pack_identifiers

QUERY = st.lists(
    st.tuples(st.integers(0, 1), st.lists(st.integers(0, 3), min_size=1, max_size=7).map(tuple)), max_size=15
)


def unpacked(packed, num_prompts):
    """(prompt, identifier, prefixes that its tokens follow) of each query, read back from the arrays."""
    tokens, depths, ends = (a.reshape(-1, a.shape[-1]) for a in packed[:3])
    prompts, scored = packed.row_prompts.ravel(), packed.scored_prefixes.ravel()
    width = tokens.shape[1]
    queries = []
    for b, labels in enumerate(packed.labels):
        found = {}
        for label, segment, place in zip(labels, packed.segments[b], packed.label_prefixes[b], strict=True):
            if segment == NO_SEGMENT:
                assert label == IGNORED
                continue
            row, column = divmod(int(scored[place]), width)
            query, prompt = divmod(int(prompts[row]), num_prompts)
            assert query == b
            path = [i for i in range(column + 1) if ends[row, i] > column]
            assert depths[row, path].tolist() == list(range(len(path))) and tokens[row, 0] == -1
            prefix = tuple(tokens[row, path[1:]].tolist())
            found.setdefault(int(segment), []).append((prompt, prefix, int(label)))
        queries.append(found)
    return queries


@given(st.lists(QUERY, min_size=1, max_size=4), st.integers(1, 30))
def test_nothing_is_lost_mixed_or_put_in_another_order(queries, max_row_tokens):
    identifiers = [[ids for _, ids in query] for query in queries]
    prompts = [[number for number, _ in query] for query in queries]
    packed = pack_identifiers(identifiers, prompts, 2, max_row_tokens)
    assert all(len(array) == len(queries) for array in packed)
    for query, found in zip(queries, unpacked(packed, 2), strict=True):
        assert sorted(found) == list(range(len(query)))
        for number, (prompt, ids) in enumerate(query):
            assert found[number] == [(prompt, ids[:depth], ids[depth]) for depth in range(len(ids))]
    longest = max([1, *(len(ids) for query in identifiers for ids in query)])
    assert packed.prefix_tokens.shape[-1] <= max(longest, max_row_tokens)


def test_prefixes_are_shared_and_padding_attends_to_itself_only():
    packed = pack_identifiers([[(7, 8), (7, 8, 9), (7, 8, 9, 4), (5,)], [(1,)]], [[0, 0, 0, 0], [1]], 2, 10)
    assert packed.prefix_tokens.tolist() == [[[-1, 7, 8, 9]], [[-1, -1, -1, -1]]]
    assert packed.prefix_ends.tolist() == [[[4, 4, 4, 4]], [[1, 2, 3, 4]]]
    assert packed.row_prompts.tolist() == [[0], [3]]
    assert packed.scored_prefixes.tolist() == [[0, 1, 2], [3, 4, 0]], "five prefixes, and one more to make it even"
    assert packed.segments.tolist() == [[3, 0, 0, 1, 1, 1, 2, 2, 2, 2], [0] + [-1] * 9]


@pytest.mark.parametrize("queries", [1, 4])
def test_little_is_padded(queries):
    # Titles, substrings and pseudo-queries of a query: in rows as long as the longest tree, half would be padding.
    titles = [(k, k + 1, k + 2) for k in range(10)]
    substrings = [(k, k % 7, k % 5, k % 3) for k in range(70)]
    pseudo_queries = [tuple(range(k, k + 15)) for k in range(4)]
    query = [*titles, *substrings, *pseudo_queries]
    prompts = [0] * len(titles) + [1] * len(substrings) + [2] * len(pseudo_queries)
    packed = pack_identifiers([query] * queries, [prompts] * queries, 3, 512)
    used = len(set(packed.scored_prefixes.ravel().tolist()))
    assert used > 0.8 * packed.prefix_tokens.size


def test_a_long_identifier_gets_a_row_for_itself_and_what_adds_no_prefix():
    packed = pack_identifiers([[(1, 2, 3), (4,), (4, 6)]], [[0, 0, 0]], 1, max_row_tokens=2)
    assert packed.prefix_tokens.tolist() == [[[-1, 1, 2], [-1, 4, -1]]]
    assert packed.label_prefixes.tolist() == [[0, 1, 2, 0, 3, 4]]


def test_a_batch_without_identifiers_has_one_empty_row_per_query():
    packed = pack_identifiers([[], []], [[], []], 3, max_row_tokens=8)
    assert packed.prefix_tokens.shape == (2, 1, 1)
    assert (packed.segments == NO_SEGMENT).all() and (packed.labels == IGNORED).all()
    assert packed.scored_prefixes.tolist() == [[0], [0]]


def test_what_cannot_be_packed_is_refused():
    with pytest.raises(ValueError, match="An identifier has no tokens.*Leave out empty identifiers"):
        pack_identifiers([[(1,), ()]], [[0, 0]], 1, max_row_tokens=4)
    with pytest.raises(ValueError, match="max_row_tokens is 0, but it must be at least 1"):
        pack_identifiers([[(1,)]], [[0]], 1, max_row_tokens=0)
