import gzip
import os
import random
import re
import subprocess
import sys

import pyarrow as pa
import pytest

from dgr_trainer.files.compression import whole
from dgr_trainer.files.lines import existing_file, file_kind, json_lines, listing, numbered_lines


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
    for name in ("collection.tar.gz", "queries.tgz", "scifact.zip"):
        (tmp_path / name).touch()
        with pytest.raises(ValueError, match=f"{name} is an archive of files. Unpack it"):
            existing_file(tmp_path / name)


@pytest.mark.parametrize(
    "name, kind",
    [
        ("a.jsonl", "jsonl"),
        ("a.JSONL.gz", "jsonl"),
        ("a.ndjson", "jsonl"),
        ("a.tsv", "tsv"),
        ("a.txt", "tsv"),
        ("a.json.zst", "jsonl"),
        ("a.parquet", "parquet"),
        ("a.feather", "arrow"),
        ("a", ""),
    ],
)
def test_names_tell_the_format(name, kind):
    assert file_kind(f"some.folder/{name}") == kind


LINES = "eins\r\n" + "zwei " * 2000 + "\r\ndrei\rdrei\n" + "".join(f"Zeile {number}\n" for number in range(5000))


def _zst(text):
    return pa.compress(text, codec="zstd", asbytes=True)


@pytest.mark.parametrize("name, compress", [("a.gz", gzip.compress), ("a.zst", _zst), ("A.GZ", gzip.compress)])
def test_compressed_files_are_read_as_they_are(tmp_path, name, compress):
    plain = tmp_path / "plain"
    plain.write_bytes(LINES.encode())
    path = tmp_path / name
    path.write_bytes(compress(LINES.encode()))
    assert list(numbered_lines(path)) == list(numbered_lines(plain))
    # As written by several processes, one part after the other.
    path.write_bytes(compress(b"one\ntw") + compress(b"o\nthree"))
    assert list(numbered_lines(path)) == [(1, "one"), (2, "two"), (3, "three")]


@pytest.mark.parametrize("name, compress, kind", [("a.gz", gzip.compress, "gzip"), ("a.zst", _zst, "Zstandard")])
def test_damaged_files_are_said_to_be_damaged(tmp_path, name, compress, kind):
    path = tmp_path / name
    noise = "".join(f"{number} {random.Random(number).random()}\n" for number in range(60_000)).encode()
    whole = compress(noise)
    for cut in (len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:cut])
        read = []
        with pytest.raises(ValueError, match=rf"{name}: the {kind} file is cut off after line (\d+) ") as error:
            read.extend(numbered_lines(path))
        if cut < len(whole) - 3:
            # What was whole before the cut was read, and the number says how much that was.
            last = int(re.search(r"after line (\d+)", str(error.value))[1])
            seen = []
            with pytest.raises(ValueError):
                for line in numbered_lines(path):
                    seen.append(line)
            assert 0 < last == len(seen)
    path.write_bytes(b"plain text\n")
    with pytest.raises(ValueError, match=rf"{name}: the name ends in \.\w+, but this is no {kind} file"):
        list(numbered_lines(path))
    if kind == "Zstandard":
        return  # It has a checksum only if the writer wanted one.
    half = len(whole) // 2
    path.write_bytes(whole[:half] + bytes(byte ^ 255 for byte in whole[half : half + 200]) + whole[half + 200 :])
    with pytest.raises(ValueError, match=rf"{name}: the {kind} file is (damaged|cut off) after line \d+"):
        list(numbered_lines(path))


def test_utf16_is_read_by_its_mark(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes("1\tschön\r\n\r\n2\tਊ\rstill\n".encode("utf-16"))
    assert list(numbered_lines(path)) == [(1, "1\tschön"), (3, "2\tਊ\rstill")]
    path.write_bytes("one\ntwo".encode("utf-16") + b"\x00")
    with pytest.raises(ValueError, match="line 2: not UTF-16, which it begins as"):
        list(numbered_lines(path))


def test_errors_of_the_disk_stay_what_they_are(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(b"")
    with pytest.raises(OSError, match="No space"), whole(path, [3]):
        raise OSError(28, "No space left on device")


_READER = """
import resource, sys
from dgr_trainer import Corpus
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
corpus = Corpus.read(sys.argv[1], cache_dir=sys.argv[2])
print(len(corpus), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_a_large_collection_is_never_held_in_memory(tmp_path):
    path = tmp_path / "collection.tsv.gz"
    count, size = 300_000, 0
    with gzip.open(path, "wt", compresslevel=1, encoding="utf-8") as file:
        for number in range(count):
            size += file.write(f"{number}\t{f'passage {number} of many ' * 40}\n")
    done = subprocess.run(
        [sys.executable, "-c", _READER, str(path), str(tmp_path / "cache")], capture_output=True, text=True, check=True
    )
    passages, kilobytes = map(int, done.stdout.split())
    assert passages == count
    assert kilobytes * 1024 < size / 3, f"{kilobytes} kB more for {size / 1e6:.0f} MB of text"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a b\rc d\r", "line 1: is all of the file, and holds carriage returns"),
        (b"a b\rc d\re f", "line 1: is all of the file, and holds carriage returns"),
        (
            "a b\n".encode("utf-16-le"),
            "line 1: holds a zero byte for every letter, as UTF-8 does not. UTF-16 needs a byte order mark",
        ),
        ("a b\n".encode("utf-32"), "line 1: holds a zero byte for every"),
        ("é\n".encode("latin-1"), "line 1: not UTF-8"),
    ],
)
def test_other_encodings_and_line_ends_are_told(tmp_path, data, message):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(ValueError, match=f"a.txt, {message}"):
        list(numbered_lines(tmp_path / "a.txt"))


def test_stray_carriage_returns_and_zero_bytes_are_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\rb\x00 \r\nc\x00d\r\ne\rf")
    assert list(numbered_lines(tmp_path / "a.txt")) == [(1, "a\rb\x00 "), (2, "c\x00d"), (3, "e\rf")]
    (tmp_path / "a.txt").write_bytes(b"a\rb")
    assert list(numbered_lines(tmp_path / "a.txt")) == [(1, "a\rb")]


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is a pipe or a device, but a file is needed"):
        list(numbered_lines(tmp_path / "pipe"))
