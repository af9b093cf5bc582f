"""`--part`: commands that take a part of the queries."""

import datasets
import pytest

from dgr_trainer import Corpus, Identifiers, generation_pairs, read_qrels, read_queries, read_run, split_queries


def test_pairs_and_teacher_of_a_part(dgr, files, bpe_tokenizer, tmp_path):
    judged = ("--queries", files / "queries.tsv", "--qrels", files / "qrels.txt")
    options = ("--model", files / "bart", "--output", tmp_path / "pairs", "--part", "2/2", "--samples_per_passage", 0)
    done = dgr("pairs", files / "corpus.jsonl", *judged, *options)
    assert done.code == 0, done.err
    part = split_queries(read_queries(files / "queries.tsv"))[1]
    expected = generation_pairs(
        Corpus.read(files / "corpus.jsonl"), Identifiers(bpe_tokenizer), part, read_qrels(files / "qrels.txt"),
        samples_per_passage=0, progress=False,
    )  # fmt: skip
    assert datasets.load_from_disk(str(tmp_path / "pairs")).to_dict() == expected.to_dict()
    done = dgr(
        "rank", "--teacher", "bm25", "--corpus", files / "corpus.jsonl", "--queries", files / "queries.tsv",
        "--part", "1/3", "--output", tmp_path / "run.trec",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert set(read_run(tmp_path / "run.trec")) == set(
        split_queries(read_queries(files / "queries.tsv"), 3)[0]["query_id"]
    )


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("pairs {files}/corpus.jsonl --model {files}/bart --output {out} {judged} --part 3/2", "is no part of"),
        ("pairs {files}/corpus.jsonl --model {files}/bart --output {out} {judged} --part 1/1", "is no part of"),
        ("pairs {files}/corpus.jsonl --model {files}/bart --output {out} --part 1/2", "but there are none"),
        ("pairs {files}/corpus.jsonl --model {files}/bart --output {out} {judged} --part 1/99", "are too few for 99"),
        ("train --stage generation --model {files}/bart --corpus {files}/corpus.jsonl --output_dir {out} --part half",
         "--part half is no part of queries. Give 1/2 for the first of two"),
        ("rank --teacher bm25 --corpus {files}/corpus.jsonl --queries {files}/queries.tsv --output {out} --part 0/2",
         "is no part of queries"),
    ],
)  # fmt: skip
def test_wrong_parts(dgr, files, tmp_path, command, message):
    judged = f"--queries {files}/queries.tsv --qrels {files}/qrels.txt"
    done = dgr(*command.format(files=files, out=tmp_path / "out", judged=judged).split())
    assert done.code != 0 and message in done.err
    assert not (tmp_path / "out").exists()
