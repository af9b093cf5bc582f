import gzip
import json
import random

import datasets
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgr_trainer.files import records
from dgr_trainer.files.records import json_array, read_records

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
RECORDS = st.lists(st.dictionaries(st.text(max_size=8), VALUES, max_size=4), max_size=6)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=RECORDS, indent=st.sampled_from([None, 2]), ascii=st.booleans(), chunk=st.integers(1, 40))
def test_an_array_is_read_in_pieces_of_any_size(rows, indent, ascii, chunk, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_CHUNK", chunk)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=ascii), encoding="utf-8", newline="\n")
    assert [record for _, record in json_array(path)] == rows


def test_lines_of_an_array_are_counted(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text('\n[\n{"a": 1},\n\n{"b":\n 2}, {"c": 3}\n]\n')
    for chunk in (1, 1000):
        monkeypatch.setattr(records, "_CHUNK", chunk)
        assert list(json_array(path)) == [(3, {"a": 1}), (5, {"b": 2}), (6, {"c": 3})]


def test_little_of_an_array_is_held_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_CHUNK", 1000)
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "x" * 500}] * 400))
    window = records._Window(path)
    monkeypatch.setattr(records, "_Window", lambda path: window)
    assert max(len(window._text) for _ in json_array(path)) < 5000


@pytest.mark.parametrize("chunk", [3, 1 << 20])
@pytest.mark.parametrize(
    "text, message",
    [
        ('{"a": 1}', "line 1: a JSON array was expected"),
        ("", "line 1: a JSON array was expected"),
        ('[{"a": 1},\n 5]', "line 2: the array holds 5, not an object"),
        ('[{"a": 1}\n{"a": 2}]', r"line 2: expected ',' or '\]' after an object of the array, not '\{'"),
        ('[{"a": 1},\n{"a":\n nought, "b": "' + "x" * 50 + '"}]', "line 3: not JSON"),
        ('[{"a": 1},\n{"a": "half', "line 2: the file ends inside the object that begins on line 2. It is cut off"),
        ('[{"a": 1},\n', "line 2: the file ends inside"),
        ('[{"a": 1}\n', r"line 2: expected ',' or '\]' after an object of the array, not ''"),
        ('[{"a": 1}]\n[]', "line 2: more follows after the end of the array"),
    ],
)
def test_errors_of_an_array_name_the_line(tmp_path, monkeypatch, chunk, text, message):
    monkeypatch.setattr(records, "_CHUNK", chunk)
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"a\.json, {message}"):
        list(json_array(path))


def test_an_array_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes('[{"a": 1},\n{"b": "schön"}]'.encode("latin-1"))
    with pytest.raises(ValueError, match="a.json, line 2: not UTF-8"):
        list(json_array(path))


def test_an_error_in_a_large_array_is_found_before_the_rest_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_CHUNK", 1000)
    path = tmp_path / "a.json"
    path.write_text('[{"a": oops},' + ",".join(['{"text": "word"}'] * 10_000) + "]")
    window = records._Window(path)
    monkeypatch.setattr(records, "_Window", lambda path: window)
    with pytest.raises(ValueError, match="line 1: not JSON"):
        list(json_array(path))
    assert not window._ended


ROWS = [{"id": str(number), "text": f"text {number}", "answers": ["a", "b"]} for number in range(2500)]


def test_every_form_holds_the_same_records(tmp_path):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "lines.json").write_text(lines)
    (tmp_path / "array.json").write_text(json.dumps(ROWS))
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(json.dumps(ROWS).encode()))
    (tmp_path / "a.jsonl.zst").write_bytes(pa.compress(lines.encode(), codec="zstd", asbytes=True))
    table = pa.Table.from_pylist(ROWS)
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    pa.feather.write_feather(table, tmp_path / "a.feather")
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    for path in tmp_path.iterdir():
        assert [record for _, record in read_records(path).rows] == ROWS, path.name
    found = read_records(tmp_path / "a.parquet")
    assert found.location(next(iter(found.rows))[0]).endswith("a.parquet, row 1")


def test_peek_loses_nothing(tmp_path):
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "a.parquet")
    again, fields = read_records(tmp_path / "a.parquet").peek()
    assert fields == {"id", "text", "answers"}
    assert [record for _, record in again.rows] == ROWS
    (tmp_path / "empty.jsonl").touch()
    again, fields = read_records(tmp_path / "empty.jsonl").peek()
    assert (list(again.rows), fields) == ([], frozenset())


def test_tables_that_are_none_are_refused(tmp_path):
    for name in ("a.parquet", "a.arrow"):
        (tmp_path / name).write_bytes(bytes(random.Random(0).randrange(256) for _ in range(200)))
        with pytest.raises(ValueError, match=rf"{name}: no whole (Parquet|Arrow) file: .* read up to row 0"):
            list(read_records(tmp_path / name).rows)
    pa.parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "b.parquet")
    whole = (tmp_path / "b.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="b.parquet: no whole Parquet file"):
        list(read_records(tmp_path / "b.parquet").rows)
    (tmp_path / "c.parquet.gz").write_bytes(gzip.compress(whole))
    with pytest.raises(ValueError, match="compressed as a whole is not read in parts"):
        list(read_records(tmp_path / "c.parquet.gz").rows)
    (tmp_path / "d.xlsx").touch()
    with pytest.raises(ValueError, match="d.xlsx: the name does not tell the format"):
        read_records(tmp_path / "d.xlsx")
