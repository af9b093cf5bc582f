"""Files that are compressed as their names say."""

import gzip

import pyarrow as pa
import pytest

from dgr_trainer.data.queries import read_qrels, write_qrels
from dgr_trainer.evaluation.comparison import compare_runs
from dgr_trainer.files.compression import atomic_text, open_bytes
from dgr_trainer.files.lines import numbered_lines
from dgr_trainer.runs.rankings import Rankings

TEXT = "Ærø\n" + "a line\r\n" * 5000


def plain(path):
    with open_bytes(path) as file:
        return file.read().decode("utf-8")


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.zst", "a.GZ"])
def test_what_is_written_is_read(tmp_path, name):
    with atomic_text(tmp_path / "new" / name) as file:
        file.write(TEXT[:100])
        file.write(TEXT[100:])
        assert not (tmp_path / "new" / name).exists()
    assert plain(tmp_path / "new" / name) == TEXT
    assert [line for _, line in numbered_lines(tmp_path / "new" / name)][:2] == ["Ærø", "a line"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


def test_other_programs_can_read_it_and_it_is_always_the_same(tmp_path):
    for name in ("a.gz", "b.gz", "a.zst", "b.zst"):
        with atomic_text(tmp_path / name) as file:
            file.write(TEXT)
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()).decode() == TEXT
    assert pa.decompress((tmp_path / "a.zst").read_bytes(), len(TEXT.encode()), "zstd", asbytes=True).decode() == TEXT
    for kind in ("gz", "zst"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
        assert (tmp_path / f"a.{kind}").stat().st_size < len(TEXT) / 20


@pytest.mark.parametrize("name", ["a.txt", "a.gz", "a.zst"])
def test_an_error_leaves_the_old_file(tmp_path, name):
    (tmp_path / name).write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_text(tmp_path / name) as file:
        file.write(TEXT)
        raise KeyboardInterrupt
    assert (tmp_path / name).read_text() == "old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_every_writer_goes_by_the_name(tmp_path, suffix):
    run = Rankings({"q": {"a": 1.5, "b": 1.0}}, name="r")
    qrels = {"q": {"a": 1, "c": 0}}
    run.to_trec(tmp_path / f"a.trec{suffix}")
    run.to_jsonl(tmp_path / f"a.jsonl{suffix}")
    write_qrels(qrels, tmp_path / f"a.tsv{suffix}")
    write_qrels(qrels, tmp_path / f"a.qrels{suffix}")
    compare_runs({"r": run}, qrels, ["mrr"]).write_per_query(tmp_path / f"values.tsv{suffix}")
    assert Rankings.from_trec(tmp_path / f"a.trec{suffix}") == run
    assert Rankings.from_jsonl(tmp_path / f"a.jsonl{suffix}") == run
    assert read_qrels(tmp_path / f"a.tsv{suffix}") == read_qrels(tmp_path / f"a.qrels{suffix}") == qrels
    assert plain(tmp_path / f"a.tsv{suffix}").startswith("query-id\tcorpus-id\tscore\n")
    assert plain(tmp_path / f"values.tsv{suffix}") == "run\tquery_id\tmrr\nr\tq\t1.0\n"
