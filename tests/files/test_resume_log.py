"""A log of finished chunks: cut at any byte, or written with other settings."""

import json

import pyarrow as pa
import pytest

from dgr_trainer.files.resume_log import ArrowStream, JSONLines, ResumeLog

SCHEMA = pa.schema({"name": pa.string(), "numbers": pa.list_(pa.int64())})
SETTINGS = {"k": 4, "weights": "abc", "views": ["title"]}


def batch(number):
    rows = [{"name": f"é{number}", "numbers": list(range(number))}, {"name": "", "numbers": []}]
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


FORMATS = {
    "json": (JSONLines(), [{"number": number, "text": "é\n"} for number in range(4)]),
    "arrow": (ArrowStream(SCHEMA), [batch(number) for number in range(4)]),
}


@pytest.fixture(params=list(FORMATS))
def chunk_format(request):
    return FORMATS[request.param][0]


@pytest.fixture
def chunks(chunk_format):
    return next(chunks for known, chunks in FORMATS.values() if known is chunk_format)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new folder" / "work.unfinished"


def test_chunks_are_on_the_disk_when_they_were_added_and_read_again(chunk_format, chunks, path):
    with ResumeLog(path, SETTINGS, chunk_format) as log:
        assert log.count == 0 and list(log.chunks()) == []
        for number, chunk in enumerate(chunks):
            log.add(chunk)
            with ResumeLog(path, SETTINGS, chunk_format) as other:
                assert other.count == log.count == number + 1
                assert list(other.chunks()) == list(log.chunks()) == chunks[: number + 1]
        log.remove()
    assert not path.exists()


def test_a_file_cut_at_any_byte_keeps_its_complete_chunks(chunk_format, chunks, path):
    sizes = []
    with ResumeLog(path, SETTINGS, chunk_format) as log:
        sizes.append(path.stat().st_size)
        for chunk in chunks[:3]:
            log.add(chunk)
            sizes.append(path.stat().st_size)
    written = path.read_bytes()
    assert sizes[-1] == len(written)
    for length in range(len(written) + 1):
        path.write_bytes(written[:length])
        complete = max(sum(size <= length for size in sizes) - 1, 0)
        with ResumeLog(path, SETTINGS, chunk_format) as log:
            assert log.count == complete
            log.add(chunks[3])
        with ResumeLog(path, SETTINGS, chunk_format) as log:
            assert list(log.chunks()) == [*chunks[:complete], chunks[3]]


def test_zeros_that_a_crash_left_at_the_end_are_dropped(chunk_format, chunks, path):
    with ResumeLog(path, SETTINGS, chunk_format) as log:
        log.add(chunks[0])
    with open(path, "ab") as file:
        file.write(bytes(4096))
    with ResumeLog(path, SETTINGS, chunk_format) as log:
        log.add(chunks[1])
    with ResumeLog(path, SETTINGS, chunk_format) as log:
        assert list(log.chunks()) == chunks[:2]


def test_other_settings_are_refused(chunk_format, chunks, path):
    with ResumeLog(path, SETTINGS, chunk_format) as log:
        log.add(chunks[0])
    written = path.read_bytes()
    with pytest.raises(ValueError, match="made with k=4, but now it is 5, so this work cannot be resumed. Delete"):
        ResumeLog(path, {**SETTINGS, "k": 5}, chunk_format)
    assert path.read_bytes() == written


@pytest.mark.parametrize(
    "content",
    [b"notes\nmore notes\n", b'{"other": 1}\n{}\n', b"[1]\n", bytes(100) + b"\n", batch(2).serialize().to_pybytes()],
    ids=["text", "json", "list", "zeros", "no schema"],
)
def test_files_that_are_not_such_logs_are_refused(chunk_format, content, path):
    path.parent.mkdir()
    path.write_bytes(content + b"\n")
    with pytest.raises(ValueError, match="does not say how it was made, so it cannot be resumed"):
        ResumeLog(path, SETTINGS, chunk_format)
    assert path.read_bytes() == content + b"\n"


def test_other_columns_are_refused(path):
    with ResumeLog(path, SETTINGS, ArrowStream(SCHEMA)):
        pass
    with pytest.raises(ValueError, match="does not say how it was made"):
        ResumeLog(path, SETTINGS, ArrowStream(SCHEMA.remove(0)))


def test_any_program_that_reads_arrow_reads_the_file(path):
    with ResumeLog(path, SETTINGS, ArrowStream(SCHEMA)) as log:
        for number in range(3):
            log.add(batch(number))
    with pa.ipc.open_stream(path) as reader:
        table = reader.read_all()
    assert json.loads(table.schema.metadata[b"settings"]) == SETTINGS
    assert table.column("name").to_pylist() == ["é0", "", "é1", "", "é2", ""]


def test_a_failure_to_read_is_not_taken_for_the_end(path, monkeypatch):
    with ResumeLog(path, SETTINGS, ArrowStream(SCHEMA)) as log:
        log.add(batch(1))
    written, read_message, read = path.read_bytes(), pa.ipc.read_message, []

    def failing(file):
        read.append(file)
        if len(read) == 2:
            raise OSError(5, "Input/output error")
        return read_message(file)

    monkeypatch.setattr(pa.ipc, "read_message", failing)
    with pytest.raises(OSError, match="Input/output error"):
        ResumeLog(path, SETTINGS, ArrowStream(SCHEMA))
    assert path.read_bytes() == written
