"""Parts of queries by a hash of their ids."""

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgr_trainer import split_queries

IDS = st.sets(st.text("abcxyz0123", min_size=1, max_size=6), min_size=40, max_size=60)


@settings(max_examples=15)
@given(IDS, st.integers(2, 3), st.integers(0, 5), st.randoms())
def test_parts_divide_the_queries_whatever_their_order(ids, parts, seed, random):
    queries = {query_id: f"text of {query_id}" for query_id in sorted(ids)}
    divided = split_queries(queries, parts, seed=seed)
    assert len(divided) == parts
    joined = [query_id for part in divided for query_id in part]
    assert sorted(joined) == sorted(ids) and len(set(joined)) == len(joined)
    assert all(part[query_id] == queries[query_id] for part in divided for query_id in part)
    # The part of a query depends on nothing but its id.
    shuffled = list(ids)
    random.shuffle(shuffled)
    again = split_queries({**dict.fromkeys(shuffled, "b"), "other": "c"}, parts, seed=seed)
    assert [set(part) - {"other"} for part in again] == [set(part) for part in divided]


def test_datasets_keep_their_columns_and_order():
    rows = {"query_id": [str(n % 30) for n in range(50)], "query": [f"t{n % 30}" for n in range(50)], "x": range(50)}
    queries = datasets.Dataset.from_dict(rows)
    one, other = split_queries(queries)
    assert one.column_names == other.column_names == ["query_id", "query", "x"]
    assert sorted(one["x"][:] + other["x"][:]) == list(range(50)) and one["x"][:] == sorted(one["x"][:])
    assert set(one["query_id"]).isdisjoint(other["query_id"])
    assert [set(part) for part in split_queries(dict(zip(rows["query_id"], rows["query"], strict=True)))] == [
        set(one["query_id"]), set(other["query_id"]),
    ]  # fmt: skip


def test_parts_are_about_equal_and_depend_on_the_seed():
    queries = {f"q{n}": "a" for n in range(2000)}
    one, other = split_queries(queries)
    assert 900 < len(one) < 1100
    assert 400 < len(set(one) & set(split_queries(queries, seed=1)[0])) < 600


def test_wrong_parts():
    with pytest.raises(ValueError, match="parts=1: queries are divided into 2 parts or more"):
        split_queries({"q": "a"}, 1)
    with pytest.raises(ValueError, match="1 queries are too few for 2 parts: part 2 has none"):
        split_queries({"q1": "a"}, 2)
