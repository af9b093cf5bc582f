import gzip

import pytest

from dgr_trainer.lines import existing_file, file_kind, json_lines, listing, numbered_lines


def test_lines_are_numbered_and_blank_ones_left_out(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\n\n  \nfour\u2028still four\rand still\nfive".encode())
    assert list(numbered_lines(path)) == [(1, "one"), (4, "four\u2028still four\rand still"), (5, "five")]
    zipped = tmp_path / "a.txt.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    assert list(numbered_lines(zipped)) == list(numbered_lines(path))


def test_lines_that_are_not_utf8_are_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("gut\nschön\n".encode("latin-1"))
    with pytest.raises(ValueError, match="a.txt, line 2: not UTF-8"):
        list(numbered_lines(path))


def test_json_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n')
    assert list(json_lines(path)) == [(1, {"a": 1}), (3, {"a": 2})]
    path.write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(ValueError, match="a.jsonl, line 2: not JSON"):
        list(json_lines(path))
    path.write_text("[1]\n")
    with pytest.raises(ValueError, match="line 1: holds a JSON list, not an object"):
        list(json_lines(path))


def test_what_is_there_instead_is_said(tmp_path):
    (tmp_path / "queries.tsv").touch()
    (tmp_path / "qrels").mkdir()
    with pytest.raises(FileNotFoundError, match=r"queries.jsonl is not there. Its folder holds: qrels/, queries.tsv"):
        existing_file(tmp_path / "queries.jsonl")
    with pytest.raises(FileNotFoundError, match="Nor is its folder"):
        existing_file(tmp_path / "nowhere" / "queries.jsonl")
    with pytest.raises(IsADirectoryError, match="is a folder, but a file is needed. It holds: nothing"):
        existing_file(tmp_path / "qrels")
    assert listing(tmp_path, limit=1) == "qrels/ and 1 more"


@pytest.mark.parametrize(
    "name, kind",
    [
        ("a.jsonl", "jsonl"),
        ("a.JSONL.gz", "jsonl"),
        ("a.ndjson", "jsonl"),
        ("a.tsv", "tsv"),
        ("a.txt", "tsv"),
        ("a", ""),
    ],
)
def test_names_tell_the_format(name, kind):
    assert file_kind(f"some.folder/{name}") == kind
