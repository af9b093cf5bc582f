import pytest

from dgr_trainer.teachers.lucene.topics import cut_query, one_line, read_run, write_topics


@pytest.mark.parametrize(
    ("query", "line"),
    [
        ("plain words", "plain words"),
        (" a\tb\nc\r\nd ", "a b c d"),
        ("a\u2028b\u0085c\x00d\x1fe", "a b c d e"),
        ("\x00\t\n", ""),
        ("lone \ud800 surrogate", "lone surrogate"),
        ("Zhèng 中文", "Zhèng 中文"),
    ],
)
def test_a_query_becomes_one_line(query, line):
    assert one_line(query) == line


def test_a_short_query_is_not_cut_however_often_it_repeats():
    query = " ".join(["same words"] * 1000)
    assert cut_query(query, 2) == (query, False)


def test_a_query_is_cut_before_it_has_too_many_terms():
    assert cut_query("one two, one three-four five", 3) == ("one two, one three-", True)
    assert cut_query("一二三四", 2) == ("一二", True)
    assert cut_query("x" * 600, 2) == ("x" * 600, False)
    assert cut_query("x" * 254 + "y" * 255 + "z" * 255, 2)[1]


def test_topics_are_tab_separated_and_numbered(tmp_path):
    write_topics(["é one", "two"], tmp_path / "topics.tsv")
    assert (tmp_path / "topics.tsv").read_bytes() == "0\té one\n1\ttwo\n".encode()


def test_passage_ids_of_a_run_may_hold_spaces(tmp_path):
    (tmp_path / "run.txt").write_text("0 Q0 p1 1 2.500000 Anserini\n1 Q0 an id é 2 1.250000 Anserini\n", "utf-8")
    assert list(read_run(tmp_path / "run.txt")) == [(0, "p1", 2.5), (1, "an id é", 1.25)]
