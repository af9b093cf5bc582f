"""TREC runs and qrels: malformed lines and columns in another order are refused with file and line."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgr_trainer.data.queries import read_qrels
from dgr_trainer.runs.rankings import Rankings

LINES = [
    ("q1", "Q0", "p1", "1", "9.5", "tag"),
    ("q1", "Q0", "p2", "2", "8", "tag"),
    ("q2", "Q0", "p2", "1", "12", "tag"),
]


def write(path, rows):
    path.write_text("".join(" ".join(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("order", list(itertools.permutations(range(6))))
def test_no_other_order_is_read(tmp_path, order):
    """Of all 720 orders of the columns only those with query and passage swapped say nothing by themselves."""
    path = write(tmp_path / "a.run", [[row[column] for column in order] for row in LINES])
    if order in ((0, 1, 2, 3, 4, 5), (2, 1, 0, 3, 4, 5)):
        assert len(Rankings.from_trec(path)) == 2
        return
    with pytest.raises(ValueError, match=r"a\.run, line [123]: "):
        Rankings.from_trec(path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        # The one of the issue: one hit a query, columns 2 and 3 swapped.
        (
            ["q1 p1 Q0 1 9.5 t", "q2 p2 Q0 1 9 t"],
            "line 1: column 3 is 'Q0' and column 2 'p1', but expected six columns",
        ),
        (["q1 p1 0 1 9.5 t", "q1 p2 0 2 9 t"], "line 2: passage '0' occurs a second time for query 'q1'"),
        (["Q0 q1 p1 1 9.5 t"], "line 1: column 1 is 'Q0' and column 2 'q1'"),
        (["q1 1 p1 Q0 9.5 t"], "line 1: column 4 is 'Q0' and column 2 '1'"),
        (
            ["q1 Q0 p1 1 0.5 t", "q1 Q0 p2 2 0.9 t"],
            "line 2: rank 1 has the score 0.5 and rank 2 the score 0.9, .* Then negate them",
        ),
    ],
)
def test_the_message(tmp_path, lines, message):
    path = tmp_path / "a.run"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=message):
        Rankings.from_trec(path)


def test_what_is_odd_but_right_is_read(tmp_path, caplog):
    path = write(tmp_path / "a.run", [("q1", "0", "p1", "0", "2", "t"), ("q2", "0", "p1", "0", "1", "t")])
    assert Rankings.from_trec(path).to_run() == {"q1": {"p1": 2.0}, "q2": {"p1": 1.0}}
    write(path, [("q1", "Q0", "Q0", "1", "2", "t")])  # A passage of that id.
    assert Rankings.from_trec(path).to_run() == {"q1": {"Q0": 2.0}}
    write(path, [("q1", "Q0", id, "0", score, "t") for id, score in (("a", "1"), ("b", "2"))])  # All of one rank.
    assert Rankings.from_trec(path)["q1"].passage_ids == ("b", "a")
    write(path, [("q1", "Q0", id, rank, score, "t") for id, rank, score in (("a", "2", "1"), ("b", "1", "2"))])
    assert Rankings.from_trec(path)["q1"].passage_ids == ("b", "a")  # From the end.
    assert not caplog.records
    scores = ("5", "4", "4.5", "3")
    write(path, [("q1", "Q0", f"p{at}", str(at), score, "t") for at, score in enumerate(scores, 1)])
    assert Rankings.from_trec(path)["q1"].passage_ids == ("p1", "p3", "p2", "p4")
    assert "a.run, line 3: rank 2 has the score 4 and rank 3 the score 4.5, which contradict each other" in caplog.text
    assert "1 of 3 pairs of neighbouring lines. The scores count" in caplog.text


HITS = st.lists(
    st.tuples(st.sampled_from("qrs"), st.sampled_from("abcdef"), st.integers(-3, 3)), min_size=1, max_size=20
)


@given(HITS)
def test_hits_in_any_order_are_gathered(tmp_path_factory, hits):
    """Lists scattered over the file, against a dict; a second occurrence is refused with its line."""
    path = tmp_path_factory.mktemp("runs") / "a.run"
    write(path, [(query, "Q0", passage, "0", str(score), "t") for query, passage, score in hits])
    expected: dict[str, dict[str, float]] = {}
    for query, passage, score in hits:
        if passage in expected.setdefault(query, {}):
            with pytest.raises(ValueError, match=r"line (\d+): passage '.' occurs a second time") as caught:
                Rankings.from_trec(path)
            line = int(str(caught.value).split("line ")[1].split(":")[0])
            before = [(one[0], one[1]) for one in hits[: line - 1]]
            assert (hits[line - 1][0], hits[line - 1][1]) in before
            return
        expected[query][passage] = float(score)
    assert Rankings.from_trec(path).to_run() == expected


# Qrels


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "1048585 0 1 7187158\n",
            "line 1: the relevance of '1' for query '1048585' is 7187158, but relevance is 1000 at most",
        ),
        ("query-id\tcorpus-id\tscore\n1\t1\t7187158\n", "line 2: the relevance of '1' for query '1' is 7187158"),
        ("q Q0 a 1 9.5 t\n", "line 1: 6 columns, but qrels have four .* Six columns are a run: read_run reads it"),
        ("q 0 1 p1\n", "line 1: the relevance .last column. is 'p1', not an integer. If the line names"),
    ],
)
def test_qrels_in_another_order(tmp_path, text, message):
    (tmp_path / "a.qrels").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_qrels(tmp_path / "a.qrels")
    (tmp_path / "a.qrels").write_text("q1 0 p1 1\nq2 0 p1 1000\n")
    assert read_qrels(tmp_path / "a.qrels") == {"q1": {"p1": 1}, "q2": {"p1": 1000}}
