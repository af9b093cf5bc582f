import gzip

import pyarrow as pa
import pytest

from dgr_trainer import Corpus, Passage, read_qrels, read_queries
from dgr_trainer.data.queries import queries_mapping
from dgr_trainer.runs.published_candidates import read_top1000, read_triples

COLLECTION = '0\tThe presence of "communication"…\n1\tThe Manhattan\rProject.\r\n2\tEssay on it.\n'


def test_a_collection_with_its_queries_and_qrels(tmp_path):
    (tmp_path / "collection.tsv").write_bytes(COLLECTION.encode())
    (tmp_path / "collection.tsv.zst").write_bytes(pa.compress(COLLECTION.encode(), codec="zstd", asbytes=True))
    (tmp_path / "queries.dev.small.tsv").write_text("1048585\twhat is paula deen's brother\n2\tandrogen receptor\n")
    (tmp_path / "qrels.dev.small.tsv").write_text("1048585\t0\t2\t1\n2\t0\t0\t1\n")
    for name in ("collection.tsv", "collection.tsv.zst"):
        assert list(Corpus.read(tmp_path / name)) == [
            Passage("0", "", 'The presence of "communication"…'),
            Passage("1", "", "The Manhattan\rProject."),
            Passage("2", "", "Essay on it."),
        ]
    assert queries_mapping(read_queries(tmp_path / "queries.dev.small.tsv")) == {
        "1048585": "what is paula deen's brother",
        "2": "androgen receptor",
    }
    assert read_qrels(tmp_path / "qrels.dev.small.tsv") == {"1048585": {"2": 1}, "2": {"0": 1}}


def test_lines_that_name_the_columns(tmp_path):
    (tmp_path / "top.tsv").write_text("qid\tpid\tquery\tpassage\n2\t7\tq\tone\n")
    assert read_top1000(tmp_path / "top.tsv").to_run() == {"2": {"7": 1.0}}
    (tmp_path / "triples.tsv").write_text("query_id\tpositive\tnegative\n2\t7\t8\n")
    assert read_triples(tmp_path / "triples.tsv").qrels == {"2": {"7": 1}}


def test_topics_and_graded_qrels_of_trec_dl(tmp_path):
    (tmp_path / "msmarco-test2019-queries.tsv.gz").write_bytes(gzip.compress(b"156493\tdo goldfish grow\n"))
    (tmp_path / "2019qrels-pass.txt").write_text("156493 Q0 1017759 0\n156493 Q0 1082489 3\n156493 Q0 109063 2\n")
    assert list(read_queries(tmp_path / "msmarco-test2019-queries.tsv.gz")["query"]) == ["do goldfish grow"]
    assert read_qrels(tmp_path / "2019qrels-pass.txt") == {"156493": {"1017759": 0, "1082489": 3, "109063": 2}}


def test_candidates(tmp_path):
    path = tmp_path / "top1000.dev.tsv.gz"
    path.write_bytes(gzip.compress(b"2\t7\tq\tone\n1\t5\tother\tfive\n2\t3\tq\tthree\n"))
    found = read_top1000(path)
    assert {query_id: ranked.passage_ids for query_id, ranked in found.items()} == {"2": ("7", "3"), "1": ("5",)}


@pytest.mark.parametrize(
    "content, message",
    [
        ("1\t2\tq\tp\n1\t2\tq\n", "line 2: 3 columns, but candidates have four"),
        ("1\t2\tq\tp\n1\t2\tq\tp\n", "line 2: passage '2' is a candidate of query '1' a second time"),
        ("\n", "there is no candidate in it"),
        ("1\t2 3\tq\tp\n", "line 1: the passage id '2 3' holds whitespace"),
    ],
)
def test_errors_of_candidates(tmp_path, content, message):
    path = tmp_path / "top1000.tsv"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"top1000.tsv(:|,) ?{message}"):
        read_top1000(path)


def test_triples(tmp_path):
    path = tmp_path / "qidpidtriples.tsv"
    path.write_text("1\ta\tb\n2\tx\ty\n1\tc\td\n1\ta\tc\n1\ta\tb\n1\ta\te\n")
    found = read_triples(path)
    assert found.qrels == {"1": {"a": 1, "c": 1}, "2": {"x": 1}}
    assert {query_id: ranked.passage_ids for query_id, ranked in found.negatives.items()} == {
        "1": ("b", "d", "e"), "2": ("y",),
    }  # fmt: skip
    assert read_triples(path, k=1).negatives["1"].passage_ids == ("b",)


@pytest.mark.parametrize(
    "content, message",
    [
        ("1\ta\tb\nwhat is it\tIt is this.\tIt is that.\n", "line 2: .* is no triple of ids .*use the file of ids"),
        ("1\ta\n", "line 1: .* is no triple of ids"),
        ("\n", "there is no triple in it"),
    ],
)
def test_errors_of_triples(tmp_path, content, message):
    path = tmp_path / "triples.tsv"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"triples.tsv(:|,) ?{message}"):
        read_triples(path)
    with pytest.raises(ValueError, match="k is 0"):
        read_triples(path, k=0)
