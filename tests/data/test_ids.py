import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgr_trainer.data.ids import IdColumn, as_id


def test_strings_and_integers_are_ids():
    assert as_id("p1", "passage", "here") == "p1"
    assert as_id(17, "passage", "here") == "17"
    assert as_id(np.int64(17), "passage", "here") == "17"


@pytest.mark.parametrize("value", [None, 1.5, True, ["p1"]])
def test_other_types_are_refused(value):
    with pytest.raises(TypeError, match="corpus.jsonl, line 3: the passage id is .* but ids are strings"):
        as_id(value, "passage", "corpus.jsonl, line 3")


@pytest.mark.parametrize("value", ["a b", " a", "a\n", "a\u00a0b", "\t"])
def test_whitespace_is_refused(value):
    with pytest.raises(ValueError, match="line 3: the query id .* holds whitespace"):
        as_id(value, "query", "line 3")


def test_an_empty_id_is_refused():
    with pytest.raises(ValueError, match="the query id is empty"):
        as_id("", "query", "line 3")


def _column(ids, chunk=3):
    chunks = [pa.array(ids[start : start + chunk], pa.string()) for start in range(0, len(ids), chunk)]
    return IdColumn(pa.chunked_array(chunks, pa.string()))


@given(st.lists(st.text(max_size=3), max_size=30), st.text(max_size=3))
def test_a_column_finds_what_a_list_finds(ids, other):
    column = _column(ids)
    assert list(column) == ids and len(column) == len(ids)
    for value in [*ids, other]:
        assert (value in column) == (value in ids)
        assert column.find(value) == (ids.index(value) if value in ids else None)
    assert column.duplicates() == {
        value: [position for position, id in enumerate(ids) if id == value] for value in ids if ids.count(value) > 1
    }


def test_equal_hashes_are_told_apart(monkeypatch):
    column = _column(["a", "b", "c", "b"])
    monkeypatch.setattr("builtins.hash", lambda value: 7)
    assert column.find("c") == 2
    assert column.find("d") is None
    assert column.duplicates() == {"b": [1, 3]}


def test_a_column_is_a_sequence():
    column = _column(["a", "b", "c", "d"])
    assert column[0] == "a" and column[-1] == "d" and column[np.int64(1)] == "b" and column[1:3] == ["b", "c"]
    assert column.index("c") == 2
    assert 3 not in column
    assert "'a', 'b', 'c'], ..." in repr(column)
    with pytest.raises(IndexError, match="no id 4: there are 4"):
        column[4]
    with pytest.raises(ValueError, match="'e' is not among the ids"):
        column.index("e")
    with pytest.raises(ValueError, match="'a' is not among the ids"):
        column.index("a", 1)


def test_hashes_stay_in_their_process():
    column = _column(["a", "b"])
    assert "b" in column
    assert pickle.loads(pickle.dumps(column))._sorted is None
    assert "b" in pickle.loads(pickle.dumps(column))
