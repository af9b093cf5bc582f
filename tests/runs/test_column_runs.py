"""Runs of three to five columns, and those whose first line names the columns, against sorting by hand."""

import gzip
import itertools

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgr_trainer.data.queries import read_qrels
from dgr_trainer.runs import Rankings, read_run

ORDER = {"q1": ["b", "a", "c"], "q2": ["x"], "q3": ["a", "d"]}
SCORES = {"q1": [12.5, 3.0, -1.25], "q2": [0.5], "q3": [7.0, 6.5]}
BY_RANK = {query: {id: float(len(ids) - at) for at, id in enumerate(ids)} for query, ids in ORDER.items()}
BY_SCORE = {query: dict(zip(ids, SCORES[query], strict=True)) for query, ids in ORDER.items()}


def _rows(*columns, first=1, rank="{}"):
    """The hits in the order of the lists, with the values that the names of the columns ask for."""
    rows = []
    for query, ids in ORDER.items():
        for at, id in enumerate(ids):
            values = {"qid": query, "pid": id, "rank": rank.format(at + first), "score": str(SCORES[query][at])}
            rows.append([values.get(column, column) for column in columns])
    return rows


def _write(path, rows, separator="\t"):
    path.write_text("".join(separator.join(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("separator", ["\t", " "])
@pytest.mark.parametrize("name", ["run.tsv", "run.txt", "run.trec", "run.tsv.gz", "ranking"])
@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (("qid", "pid", "rank"), BY_RANK),  # MS MARCO, ColBERT
        (("qid", "pid", "score"), BY_SCORE),  # Tevatron
        (("qid", "pid", "rank", "score"), BY_SCORE),  # ColBERT
        (("qid", "Q0", "pid", "rank"), BY_RANK),
        (("qid", "Q0", "pid", "score"), BY_SCORE),
        (("qid", "Q0", "pid", "rank", "score"), BY_SCORE),
        (("qid", "0", "pid", "rank", "score"), BY_SCORE),
    ],
)
def test_forms(tmp_path, columns, expected, name, separator):
    path = _write(tmp_path / name, _rows(*columns), separator)
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    found = read_run(path)
    assert found.to_run() == expected and found.name == name.partition(".")[0]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("rank", ["{}", "{}.0", "{}."])
@pytest.mark.parametrize("columns", [("qid", "pid", "rank"), ("qid", "Q0", "pid", "rank")])
def test_ranks_begin_at_0_or_1_and_may_be_written_as_1_0(tmp_path, columns, rank, first, caplog):
    rows = _rows(*columns, first=first, rank=rank)
    assert read_run(_write(tmp_path / "a.tsv", rows)).to_run() == BY_RANK
    assert read_run(_write(tmp_path / "a.tsv", rows[::2] + rows[1::2])).to_run() == BY_RANK
    assert not caplog.records


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("rank", ["{}", "{}.0"])
def test_trec_ranks(tmp_path, first, rank):
    path = _write(tmp_path / "a.trec", _rows("qid", "Q0", "pid", "rank", "score", "t", first=first, rank=rank), " ")
    assert read_run(path).to_run() == Rankings.from_trec(path).to_run() == BY_SCORE
    path.write_text("q Q0 p 1.5 2 t\n")
    with pytest.raises(ValueError, match=r"line 1: the rank \(column 4\) is '1.5', not an integer"):
        read_run(path)


@given(
    st.dictionaries(
        st.sampled_from(["1", "2", "30"]),
        st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=2),
        min_size=1,
    ),
    st.sampled_from([0, 1]),
    st.randoms(),
)
def test_shuffled_ranks_against_a_sort(tmp_path_factory, lists, first, shuffle):
    rows = [[query, id, str(at + first)] for query, ids in lists.items() for at, id in enumerate(ids)]
    shuffle.shuffle(rows)
    # As scores are listed, the best first; the lists here are so short that this happens by chance.
    falls = all(int(later[2]) < int(row[2]) for row, later in itertools.combinations(rows, 2) if row[0] == later[0])
    found = read_run(_write(tmp_path_factory.mktemp("runs") / "a.tsv", rows))
    for query, ids in lists.items():
        assert list(found[query].passage_ids) == (ids[::-1] if falls else ids)


def test_integers_that_fall_are_scores(tmp_path):
    path = _write(tmp_path / "a.tsv", [["q", "a", "30"], ["q", "b", "20"], ["r", "c", "5"]])
    assert read_run(path).to_run() == {"q": {"a": 30.0, "b": 20.0}, "r": {"c": 5.0}}
    _write(path, [["q", "a", "3"], ["q", "b", "2"], ["q", "c", "1"]])
    assert read_run(path)["q"].passage_ids == ("a", "b", "c")
    _write(path, [["q", "a", "3"], ["q", "b", "9"], ["q", "c", "1"]])
    with pytest.raises(ValueError, match="a.tsv: the last column holds integers that are neither ranks .* nor scores"):
        read_run(path)
    _write(path, [["qid", "docno", "score"], ["q", "a", "3"], ["q", "b", "9"], ["q", "c", "1"]])
    assert read_run(path)["q"].passage_ids == ("b", "a", "c")


def test_ranks_with_gaps(tmp_path):
    path = _write(tmp_path / "a.tsv", [["q", "a", "1"], ["q", "b", "4"], ["q", "c", "9"]])
    assert read_run(path).to_run() == {"q": {"a": 9.0, "b": 6.0, "c": 1.0}}


def test_scores_that_rise_are_warned_of(tmp_path, caplog):
    path = _write(tmp_path / "a.tsv", [["q", "a", "0.5"], ["q", "b", "0.75"]])
    assert read_run(path)["q"].passage_ids == ("b", "a")
    assert "the scores of every list rise" in caplog.text and "negate them" in caplog.text


@pytest.mark.parametrize("name", ["a.tsv", "a.txt", "a.res"])
@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("qid pid rank", BY_RANK),
        ("pid rank qid", BY_RANK),
        ("qid pid score", BY_SCORE),
        ("rank score pid qid", BY_SCORE),
        ("qid Q0 pid rank score tag", BY_SCORE),
    ],
)
def test_the_first_line_names_the_columns(tmp_path, name, header, expected):
    rows = _rows(*header.split())
    names = header.replace("pid", "docno").replace("qid", "Query_ID").split()
    assert read_run(_write(tmp_path / name, [names, *rows])).to_run() == expected
    csv = _write(tmp_path / "a.csv", [names, *rows], ",")
    assert read_run(csv).to_run() == expected and read_run(csv).name == "a"


def test_records_with_ranks_and_no_scores(tmp_path):
    rows = _rows("qid", "pid", "rank")
    columns = {name: [row[at] for row in rows] for at, name in enumerate(("qid", "docno", "rank"))}
    dataset = datasets.Dataset.from_dict(columns)
    assert Rankings.from_dataset(dataset).to_run() == BY_RANK
    dataset.to_parquet(tmp_path / "a.parquet")
    dataset.to_json(tmp_path / "a.jsonl")
    for name in ("a.parquet", "a.jsonl"):
        assert read_run(tmp_path / name).to_run() == read_run(f"hf:{tmp_path / name}").to_run() == BY_RANK
    (tmp_path / "a.jsonl").write_text('{"qid": 1, "docno": "a", "rank": 1}\n{"qid": 1, "docno": "b", "rank": -2}\n')
    with pytest.raises(ValueError, match="a.jsonl, line 2: the rank is -2, not an integer of 0 or more"):
        read_run(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["q a 1", "q b"], "line 2: 2 columns, but the first line has 3. Let the first line name the columns"),
        (["q a x"], "line 1: the score or rank .column 3. is 'x', not a number. Let the first line"),
        (["q a nan"], "line 1: the score .column 3. is nan. Scores have to be finite"),
        (["q a 1", "q b 2", "q a 3"], "line 3: passage 'a' occurs a second time for query 'q'"),
        (["q a 1", "r a 1", "q a 2"], "line 3: passage 'a' occurs a second time for query 'q'"),
        (["q 0 a 1", "q 0 b 0"], "line 1: the second of four columns is 0 .* as in qrels"),
        (["q 0 5 1", "q 0 7 0"], "line 2: the second of four columns is 0 .* as in qrels"),
        (["q 0 5 1", "r 0 7 0"], ": the second of four columns is 0 .* as in qrels"),
        (["q a 1.5 2"], "line 1: the rank .column 3. is '1.5', .*Are the columns of ranks and scores swapped"),
        (["q a -1 2.5"], "line 1: the rank .column 3. is '-1', not an integer of 0 or more"),
        (["q a 1 0.5", "q b 2 0.75"], "line 2: rank 1 has the score 0.5 .*Then negate them"),
        (["q a b 1 2.5"], "line 1: 5 columns, which is no known form of a run"),
        (["q\ta\twhat is it\tIt is this."], "line 1: a column holds text .*read by read_top1000"),
        (["qid docno rank"], "the run is empty"),
    ],
)
def test_what_is_malformed(tmp_path, rows, message):
    path = tmp_path / "a.tsv"
    path.write_text("\n".join(rows) + "\n")
    with pytest.raises(ValueError, match=f"a.tsv.*{message}") as caught:
        read_run(path)
    assert "read_qrels" not in str(caught.value)  # It would read ranks as grades.


def test_from_trec_says_what_reads_other_columns(tmp_path):
    (tmp_path / "a.tsv").write_text("q a 1\n")
    with pytest.raises(ValueError, match="3 columns, but expected six .*read_run reads"):
        Rankings.from_trec(tmp_path / "a.tsv")


def test_a_passage_whose_id_is_0(tmp_path):
    (tmp_path / "a.tsv").write_text("q\t0\t1\t2.5\nr\t0\t1\t3.5\n")
    assert read_run(tmp_path / "a.tsv").to_run() == {"q": {"0": 2.5}, "r": {"0": 3.5}}


def test_a_run_in_the_place_of_qrels_is_warned_of(tmp_path, caplog):
    lines = [f"{query}\tp{rank}\t{rank}\n" for query in "qr" for rank in range(1, 11)]
    (tmp_path / "a.tsv").write_text("".join(lines))
    assert read_qrels(tmp_path / "a.tsv")["q"]["p10"] == 10
    assert "a.tsv: the relevance is 1, 2, 3, ... for every query, as ranks are. Is this a run?" in caplog.text
    caplog.clear()
    (tmp_path / "a.tsv").write_text("q\ta\t1\nq\tb\t2\nq\tc\t3\n")
    read_qrels(tmp_path / "a.tsv")
    assert not caplog.records
