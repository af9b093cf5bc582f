"""Compressed files that are cut off or have a wrong byte: every reader says so, whatever the byte turns into."""

import bz2
import gzip
import json
import lzma

import pyarrow as pa
import pytest

from dgr_trainer import Corpus, Rankings, read_pseudo_queries, read_qrels, read_queries
from dgr_trainer.cli.sources import read_identifier_strings
from dgr_trainer.files.compression import undamaged
from dgr_trainer.files.lines import numbered_lines
from dgr_trainer.runs import read_run, read_top1000, read_triples

NUMBERS = range(400)
CONTENTS = {
    "c.jsonl": ("".join(json.dumps({"id": f"p{n}", "text": f"text {n}"}) + "\n" for n in NUMBERS), Corpus.read),
    "c.json": (json.dumps([{"id": f"p{n}", "text": f"text {n}"} for n in NUMBERS], indent=1), Corpus.read),
    "c.tsv": ("".join(f"p{n}\ttext {n}\n" for n in NUMBERS), Corpus.read),
    "c.csv": ("id,text\n" + "".join(f'p{n},"text {n}"\n' for n in NUMBERS), Corpus.read),
    "q.jsonl": ("".join(json.dumps({"query_id": f"q{n}", "query": f"t {n}"}) + "\n" for n in NUMBERS), read_queries),
    "q.tsv": ("".join(f"q{n}\ttext {n}\n" for n in NUMBERS), read_queries),
    "a.qrels": ("".join(f"q{n} 0 p{n} 1\n" for n in NUMBERS), read_qrels),
    "a.trec": ("".join(f"q{n} Q0 p{n} 1 {n}.5 t\n" for n in NUMBERS), read_run),
    "run.tsv": ("".join(f"q{n}\tp{n}\t{n}.5\n" for n in NUMBERS), read_run),
    "ranx.json": (json.dumps({f"q{n}": {f"p{n}": n + 0.5} for n in NUMBERS}, indent=1), read_run),
    "x.jsonl": (
        "".join(json.dumps({"id": f"p{n}", "pseudo_queries": [f"q {n}"]}) + "\n" for n in NUMBERS),
        read_pseudo_queries,
    ),
    "i.tsv": ("".join(f"p{n}\tidentifier {n}\n" for n in NUMBERS), lambda path: read_identifier_strings("-i", path)),
    "top1000.tsv": ("".join(f"q{n}\tp{n}\tquery {n}\ttext\n" for n in NUMBERS), read_top1000),
    "triples.tsv": ("".join(f"q{n}\tp{n}\tx{n}\n" for n in NUMBERS), read_triples),
}
COMPRESSORS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


def _flip(data, at):
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


@pytest.mark.parametrize("suffix", COMPRESSORS)
@pytest.mark.parametrize("name", CONTENTS)
def test_a_flipped_byte_anywhere(tmp_path, name, suffix):
    """Of a byte in each part of the file; for gzip some only the checksum at the end tells."""
    text, read = CONTENTS[name]
    path = tmp_path / f"{name}.{suffix}"
    data = COMPRESSORS[suffix](text.encode())
    path.write_bytes(data)
    read(str(path))
    for at in range(12, len(data) - 12, max(1, len(data) // 20)):
        path.write_bytes(_flip(data, at))
        try:
            read(str(path))
        except ValueError as error:
            assert "damaged" in str(error) or "cut off" in str(error), error
            assert str(path) in str(error) and "Fetch or write it again" in str(error)
        else:
            # Some bytes, such as those in a header of bzip2 that nothing depends on, change nothing.
            assert gzip_like(data, at, suffix, text), f"byte {at} was changed, and nobody noticed"


def gzip_like(data, at, suffix, text):
    """Whether the independent library finds the same text in spite of the flipped byte."""
    try:
        return {"gz": gzip, "bz2": bz2, "xz": lzma}[suffix].decompress(_flip(data, at)) == text.encode()
    except (OSError, EOFError, lzma.LZMAError, ValueError):
        return False


@pytest.mark.parametrize("suffix", COMPRESSORS)
@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_that_is_cut_off(tmp_path, name, suffix):
    text, read = CONTENTS[name]
    path = tmp_path / f"{name}.{suffix}"
    data = COMPRESSORS[suffix](text.encode())
    for left in (len(data) // 2, len(data) - 5):
        path.write_bytes(data[:left])
        with pytest.raises(ValueError, match="is cut off|is damaged.*ends too early"):
            read(str(path))


def test_uncompressed_bytes_that_only_the_checksum_tells(tmp_path):
    """Stored, not deflated: the flipped bit is another letter, and the text is malformed before the file ends."""
    path = tmp_path / "q.jsonl.gz"
    lines = "".join(json.dumps({"query_id": f"q{n}", "query": "t"}) + "\n" for n in NUMBERS).encode()
    data = gzip.compress(lines, compresslevel=0)
    path.write_bytes(data.replace(b'"q7",', b'"q7" ', 1))
    with pytest.raises(ValueError, match=r"q.jsonl.gz: the gzip file is damaged: its checksum .*CRC check.*line 8"):
        read_queries(path)
    path.write_bytes(data.replace(b'"q7",', b'"q8",', 1))  # Well-formed, but a second query of that id.
    with pytest.raises(ValueError, match="damaged: its checksum .*the query id 'q8' was already"):
        read_queries(path)
    path.write_bytes(data.replace(b'"q7",', b'"x7",', 1))  # Well-formed and valid.
    with pytest.raises(ValueError, match="the gzip file is damaged after line [0-9]+ .CRC check failed"):
        read_queries(path)
    path.write_bytes(gzip.compress(lines.replace(b'"q7",', b'"q7" ')))
    with pytest.raises(ValueError, match="q.jsonl.gz, line 8: not JSON"):
        read_queries(path)


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zst"])
def test_a_name_that_does_not_hold(tmp_path, suffix):
    (tmp_path / f"a.tsv.{suffix}").write_text("1\twho\n")
    with pytest.raises(ValueError, match=rf"the name ends in .{suffix}, but this is no \w+ file. Name it without"):
        read_queries(tmp_path / f"a.tsv.{suffix}")


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zst"])
def test_several_parts_one_after_the_other(tmp_path, suffix):
    compress = COMPRESSORS.get(suffix)
    if compress is None:

        def compress(data):
            return pa.compress(data, "zstd", asbytes=True)

    path = tmp_path / f"a.txt.{suffix}"
    path.write_bytes(compress(b"1\n2\n") + compress(b"3\n"))
    assert [line for _, line in numbered_lines(path)] == ["1", "2", "3"]


@pytest.mark.parametrize("suffix", ["bz2", "xz"])
def test_what_is_written_is_read_by_the_programs(tmp_path, suffix):
    run = Rankings({"q": {"a": 1.5}}, name="t")
    for name in ("a", "b"):
        run.to_trec(tmp_path / f"{name}.trec.{suffix}")
    assert (tmp_path / f"a.trec.{suffix}").read_bytes() == (tmp_path / f"b.trec.{suffix}").read_bytes()
    decompress = {"bz2": bz2, "xz": lzma}[suffix].decompress
    assert decompress((tmp_path / f"a.trec.{suffix}").read_bytes()) == b"q Q0 a 1 1.5 t\n"
    assert read_run(tmp_path / f"a.trec.{suffix}") == run


def test_other_errors_and_undamaged_files_are_left_alone(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"x"))
    with pytest.raises(ValueError, match="^the error$"), undamaged(path):
        raise ValueError("the error")
    with pytest.raises(KeyboardInterrupt), undamaged(path):
        raise KeyboardInterrupt
    with pytest.raises(FileNotFoundError), undamaged(tmp_path / "nowhere"):
        raise FileNotFoundError("nowhere")
