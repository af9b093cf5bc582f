import json
import math
import pickle

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgr_trainer.runs import rank_list
from dgr_trainer.runs.rankings import Rankings, RankList

IDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=5).filter(lambda value: value.split() == [value])
SCORES = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-2, 2).map(float)
LISTS = st.dictionaries(IDS, st.dictionaries(IDS, SCORES, min_size=1, max_size=6), min_size=1, max_size=5)


def _run(path, *lines):
    path.write_text("".join(line + "\n" for line in lines))
    return path


# Order


@given(LISTS)
def test_lists_are_in_the_order_of_trec_eval(lists):
    rankings = Rankings(lists)
    assert list(rankings) == list(lists)
    for query_id, scores in lists.items():
        ids = sorted(scores, key=lambda id: id.encode(), reverse=True)
        assert rankings[query_id].passage_ids == tuple(sorted(ids, key=lambda id: -scores[id]))
        assert rankings[query_id].scores.tolist() == [scores[id] for id in rankings[query_id].passage_ids]


def test_the_order_given_does_not_matter():
    pairs = [("p1", 1.0), ("p10", 1.0), ("p2", 1.0), ("p3", 2.0)]
    assert Rankings({"q": pairs}) == Rankings({"q": dict(reversed(pairs))})
    assert Rankings({"q": iter(pairs)})["q"].passage_ids == ("p3", "p2", "p10", "p1")


def test_scores_of_other_types_and_integer_ids():
    rankings = Rankings({1: {7: np.float32(0.5), 8: 2, "9": torch.tensor(1.0)}})
    assert rankings["1"].passage_ids == ("8", "9", "7")
    assert rankings["1"].scores.dtype == np.float64 and rankings["1"].scores.flags.writeable
    assert Rankings.from_order({"q": ["b", "c", "a"]}, "llm").to_run() == {"q": {"b": 3.0, "c": 2.0, "a": 1.0}}


def test_a_rankings_is_a_mapping_of_rank_lists():
    rankings = Rankings({"q1": {"a": 1.0}, "q2": {}}, name="bm25")
    assert len(rankings) == 2 and "q1" in rankings and "q3" not in rankings and 1 not in rankings
    passage_ids, scores = rankings["q2"]
    assert passage_ids == () and scores.shape == (0,)
    assert repr(rankings) == "Rankings(2 rank lists, name='bm25')"
    assert rankings["q1"] == RankList(("a",), np.array([1.0]))
    assert rankings["q1"] != RankList(("a",), np.array([1.5])) and rankings["q1"] != ("a",)
    assert rankings != Rankings({"q1": {"a": 1.0}})
    two = RankList(("a", "b"), np.array([2.0, 1.0]))
    assert two == RankList(("a", "b"), np.array([2.0, 1.0])) and not two != RankList(("a", "b"), np.array([2.0, 1.0]))
    assert two != RankList(("a", "b"), np.array([2.0, 1.5]))
    assert pickle.loads(pickle.dumps(rankings)) == rankings
    assert len(Rankings({})) == 0
    with pytest.raises(KeyError, match="No rank list for query 'q3': there are 2, such as 'q1'"):
        rankings["q3"]


def test_many_lists_are_batched():
    lists = {f"q{number}": {f"p{number}": float(number)} for number in range(2500)}
    rankings = Rankings(lists)
    assert rankings.to_run() == lists


def test_ids_are_not_put_into_one_array(monkeypatch, tmp_path):
    """Arrow's 32-bit offsets end at 2 GiB: many lists stay in the batches that they were made in."""
    monkeypatch.setattr(rank_list, "_BATCH", 2)
    lists = {f"q{number}": {f"p{n}": float(n) for n in range(number % 4)} for number in range(11)}
    rankings = Rankings(lists)
    assert rankings.to_dataset().data.table.column("passage_ids").num_chunks == 6
    assert rankings.to_run() == lists == Rankings.from_dataset(rankings.to_dataset()).to_run()
    assert pickle.loads(pickle.dumps(rankings)) == rankings
    assert rankings.top(2).to_run()["q3"] == {"p2": 2.0, "p1": 1.0}
    rankings.to_dataset().save_to_disk(tmp_path / "saved")
    assert Rankings.from_dataset(datasets.load_from_disk(tmp_path / "saved")) == rankings
    ranks = [{"query_id": query, "passage_id": id, "rank": 9 - s} for query in lists for id, s in lists[query].items()]
    by_rank = Rankings.from_dataset(datasets.Dataset.from_list(ranks))
    assert by_rank["q7"].passage_ids == ("p2", "p1", "p0") and by_rank["q7"].scores.tolist() == [3.0, 2.0, 1.0]


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_scores_have_to_be_finite(score, tmp_path):
    with pytest.raises(
        ValueError, match="The score of passage 'b' for query 'q' is (nan|inf|-inf). Scores have to be"
    ):
        Rankings({"q": {"a": 1.0, "b": score}})
    path = _run(tmp_path / "a.run", "q Q0 a 1 2.0 t", f"q Q0 b 2 {score} t")
    with pytest.raises(ValueError, match="a.run, line 2: the score of passage 'b' for query 'q' is"):
        Rankings.from_trec(path)


def test_lists_that_are_wrong_are_refused():
    with pytest.raises(ValueError, match="Passage 'a' occurs more than once in the list of query 'q'"):
        Rankings({"q": [("a", 1.0), ("b", 2.0), ("a", 1.0)]})
    with pytest.raises(TypeError, match=r"Query 'q': the score of passage 'a' is 'x' \(str\), not a number"):
        Rankings({"q": {"a": "x"}})
    with pytest.raises(TypeError, match=r"Query 'q': a rank list holds 'ab', not a pair .*Rankings.from_order"):
        Rankings({"q": ["ab", "cd"]})
    with pytest.raises(TypeError, match=r"Query 'q': the passage id is None .*It is missing"):
        Rankings({"q": [(None, 1.0)]})
    with pytest.raises(TypeError, match=r"A rank list: the query id is 1.5 \(float\).*read the column as strings"):
        Rankings({1.5: {"a": 1.0}})
    with pytest.raises(TypeError, match="got a list. Rankings.from_trec"):
        Rankings([("q", {"a": 1.0})])
    with pytest.raises(ValueError, match="Query '1' has more than one rank list"):
        Rankings({"1": {"a": 1.0}, 1: {"a": 1.0}})
    with pytest.raises(TypeError, match="Query 'q': a str, not a list of passage ids"):
        Rankings.from_order({"q": "ab"})


# Files and datasets


@given(LISTS)
def test_every_form_comes_back_to_the_last_bit(tmp_path_factory, lists):
    folder = tmp_path_factory.mktemp("rankings")
    rankings = Rankings(lists, name="bm25")
    rankings.to_trec(folder / "a.run")
    rankings.to_jsonl(folder / "a.jsonl")
    for same in (
        Rankings.from_trec(folder / "a.run"),
        Rankings.from_jsonl(folder / "a.jsonl"),
        Rankings.from_dataset(rankings.to_dataset(), name="bm25"),
        Rankings(rankings.to_run(), name="bm25"),
    ):
        assert same == rankings and list(same) == list(rankings) and same.name == "bm25"
        for query_id in rankings:
            assert same[query_id].scores.tobytes() == rankings[query_id].scores.tobytes()


def test_a_run_looks_as_trec_wants_it(tmp_path):
    rankings = Rankings({"q1": {"a": 0.1, "b": 1e-7}, "q2": {"c": 3}})
    rankings.to_trec(tmp_path / "a.run", tag="mine")
    assert (tmp_path / "a.run").read_text() == "q1 Q0 a 1 0.1 mine\nq1 Q0 b 2 1e-07 mine\nq2 Q0 c 1 3.0 mine\n"
    rankings.to_trec(tmp_path / "a.run")
    assert Rankings.from_trec(tmp_path / "a.run").name == "dgr-trainer"
    assert Rankings.from_trec(tmp_path / "a.run", name="other").name == "other"


def test_a_run_may_have_its_lines_in_any_order(tmp_path):
    path = _run(tmp_path / "a.run", "q1 Q0 a 9 1 t", "q2 Q0 c 0 5 t", "", "q1\tQ0\tb  1 2.5 t")
    assert Rankings.from_trec(path).to_run() == {"q1": {"b": 2.5, "a": 1.0}, "q2": {"c": 5.0}}


@pytest.mark.parametrize(
    "line, message",
    [
        (
            "q 0 a 1",
            r"4 columns, but expected six columns: query Q0 passage rank score tag. read_run reads",
        ),
        ("q a 1", r"3 columns, but expected six"),
        ("q Q0 a 1 2.5 my tag", r"7 columns, but expected six"),
        ("q Q0 a 2.5 1 tag", r"the rank \(column 4\) is '2.5', not an integer"),
        ("q Q0 a tag 1 2.5", r"the rank \(column 4\) is 'tag', not an integer"),
        ("q Q0 a 1 tag 2.5", r"the score \(column 5\) is 'tag', not a number"),
        ("q1 Q0 b 2 1.0 t", r"passage 'b' occurs a second time for query 'q1'"),
    ],
)
def test_malformed_runs_are_refused_with_file_and_line(tmp_path, line, message):
    path = _run(tmp_path / "a.run", "q1 Q0 b 1 2.5 t", line)
    with pytest.raises(ValueError, match=f"a.run, line 2: {message}"):
        Rankings.from_trec(path)


def test_other_run_errors(tmp_path):
    with pytest.raises(ValueError, match="a.run: the run is empty"):
        Rankings.from_trec(_run(tmp_path / "a.run"))
    with pytest.raises(FileNotFoundError, match="b.run is not there"):
        Rankings.from_trec(tmp_path / "b.run")
    scattered = _run(tmp_path / "c.run", "q1 Q0 b 1 2.5 t", "q2 Q0 b 1 2.5 t", "q1 Q0 b 2 1.5 t")
    with pytest.raises(ValueError, match="c.run, line 3: passage 'b' occurs a second time for query 'q1'"):
        Rankings.from_trec(scattered)


def test_what_no_run_can_hold_is_said(tmp_path, caplog):
    with pytest.raises(ValueError, match="The tag 'my run' holds whitespace"):
        Rankings({"q": {"a": 1.0}}, name="my run").to_trec(tmp_path / "a.run")
    with pytest.raises(ValueError, match="run, query 'q': the passage id 'Mount Everest' holds whitespace"):
        Rankings({"q": {"Mount Everest": 1.0}}).to_trec(tmp_path / "a.run")
    assert not list(tmp_path.iterdir())
    Rankings({"q": {"a": 1.0}, "r": {}}).to_trec(tmp_path / "a.run")
    assert "1 of 2 queries have an empty list and are not in the run" in caplog.text


def test_json_lines_errors_name_file_and_line(tmp_path):
    path = tmp_path / "a.jsonl"
    good = json.dumps({"query_id": "q", "passage_ids": ["a"], "scores": [1.0]})
    with pytest.raises(ValueError, match=r"a.jsonl, line 2: no field \['scores'\]"):
        Rankings.from_jsonl(_run(path, good, '{"query_id": "r", "passage_ids": ["a"]}'))
    with pytest.raises(ValueError, match=r"a.jsonl, line 1: passage_ids and scores have to be lists"):
        Rankings.from_jsonl(_run(path, '{"query_id": "r", "passage_ids": "a", "scores": [1]}'))
    with pytest.raises(ValueError, match=r"a.jsonl, line 1: Query 'r': 2 passage ids, but 1 scores"):
        Rankings.from_jsonl(_run(path, '{"query_id": "r", "passage_ids": ["a", "b"], "scores": [1]}'))
    with pytest.raises(
        TypeError, match=r"a.jsonl, line 1: Query 'r': the score of passage 'a' is '1' \(str\), not a number"
    ):
        Rankings.from_jsonl(_run(path, '{"query_id": "r", "passage_ids": ["a"], "scores": ["1"]}'))
    with pytest.raises(ValueError, match="a.jsonl, line 2: query 'q' has a second list"):
        Rankings.from_jsonl(_run(path, good, good))


def test_a_sorted_dataset_is_used_as_it_is(tmp_path):
    rankings = Rankings({f"q{number}": {"a": 1.0, "b": float(number)} for number in range(5)})
    rankings.to_dataset().save_to_disk(str(tmp_path))
    loaded = datasets.load_from_disk(str(tmp_path))
    assert loaded.cache_files
    over = Rankings.from_dataset(loaded)
    assert over == rankings
    ours = over._table.column("passage_ids").chunk(0).buffers()[-1].address
    assert ours == loaded.data.column("passage_ids").chunk(0).buffers()[-1].address
    assert Rankings.from_dataset(loaded.select([3, 1])).to_run() == {q: rankings.to_run()[q] for q in ("q3", "q1")}


def test_an_unsorted_dataset_is_sorted():
    columns = {"scores": [[1, 2], []], "query_id": [1, 2], "extra": [0, 0], "passage_ids": [["a", "b"], []]}
    rankings = Rankings.from_dataset(datasets.Dataset.from_dict(columns).with_format("torch"))
    assert rankings.to_run() == {"1": {"b": 2.0, "a": 1.0}, "2": {}}
    swapped = rankings.to_dataset().select_columns(["scores", "passage_ids", "query_id"])
    assert Rankings.from_dataset(swapped) == rankings
    assert Rankings.from_dataset(swapped).to_dataset().features == rank_list.run_features()


def test_dataset_errors():
    with pytest.raises(ValueError, match=r"has no column \['scores'\]; its columns are \['query_id', 'passage_ids'\]"):
        Rankings.from_dataset(datasets.Dataset.from_dict({"query_id": ["q"], "passage_ids": [["a"]]}))
    with pytest.raises(TypeError, match="Got a dict"):
        Rankings.from_dataset({"query_id": ["q"]})
    empty = datasets.Dataset.from_dict({"query_id": ["q"], "passage_ids": [["a"]], "scores": [None]})
    with pytest.raises(ValueError, match="Query 'q': 1 passage ids, but none scores"):
        Rankings.from_dataset(empty)


# Derived rankings


def test_top():
    rankings = Rankings({"q": {"a": 1.0, "b": 2.0, "c": 3.0}, "r": {"a": 1.0}}, name="n")
    assert rankings.top(2) == Rankings({"q": {"b": 2.0, "c": 3.0}, "r": {"a": 1.0}}) and rankings.top(2).name == "n"
    assert rankings.top(9) == rankings
    with pytest.raises(ValueError, match="k is 0"):
        rankings.top(0)


def test_unknown_passages_are_dropped_and_counted(corpus, caplog):
    rankings = Rankings({"q": {"p01": 3.0, "x": 2.0, "p02": 1.0}, "r": {"y": 1.0}, "s": {"p01": 1.0}, "e": {}}, "n")
    checked = rankings.check_corpus(corpus)
    assert checked == Rankings({"q": {"p01": 3.0, "p02": 1.0}, "s": {"p01": 1.0}, "e": {}}) and checked.name == "n"
    assert len(caplog.records) == 1
    assert (
        "2 of 5 ranked passages are not in the corpus, such as 'x'. They were dropped, and with them 1 whole lists"
        in (caplog.text)
    )
    caplog.clear()
    assert checked.check_corpus(corpus.ids) is checked and not caplog.records


def test_rankings_of_another_corpus_are_refused(corpus):
    with pytest.raises(ValueError, match="2 of 3 ranked passages are not in the corpus.*made for this corpus"):
        Rankings({"q": {"x": 1.0, "y": 2.0, "p01": 1.0}}).check_corpus(corpus)
