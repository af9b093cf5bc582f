"""What a grade is, in every form of qrels: 1.0 is 1, and 0.9 is refused, everywhere."""

import csv
import json
from decimal import Decimal
from fractions import Fraction

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgr_trainer import Rankings, evaluate_run, qrels_from_dataset, read_qrels
from dgr_trainer.data.grades import as_grade, as_integer, as_qrels
from dgr_trainer.data.queries import check_qrels, write_qrels

RUN = {"q": {"p": 2.0, "other": 1.0}}
GRADES = [(1, 1), (1.0, 1), (0, 0), (-1.0, -1), ("1", 1), ("1.0", 1), ("2.", 2), ("+3", 3), ("-1", -1)]
NO_GRADES = [0.9, "0.9", 1.5, "1e0", "", "one", "1_0", "nan", "0x1", None, float("nan"), float("inf"), [1]]


def _tsv(folder, grade):
    (folder / "a.tsv").write_text(f"query-id\tcorpus-id\tscore\nq\tp\t{grade}\n")
    return read_qrels(folder / "a.tsv")


def _trec(folder, grade):
    (folder / "a.qrels").write_text(f"q 0 p {grade}\n")
    return read_qrels(folder / "a.qrels")


def _csv(folder, grade):
    with open(folder / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([["qid", "docno", "label"], ["q", "p", grade]])
    return read_qrels(folder / "a.csv")


def _jsonl(folder, grade, name="a.jsonl", prefix=""):
    (folder / name).write_text(json.dumps({"query_id": "q", "passage_id": "p", "relevance": grade}) + "\n")
    return read_qrels(f"{prefix}{folder / name}")


def _parquet(folder, grade):
    table = pa.table({"query_id": ["q"], "passage_id": ["p"], "relevance": [grade]})
    pa.parquet.write_table(table, folder / "a.parquet")
    return read_qrels(folder / "a.parquet")


def _dataset(folder, grade):
    return qrels_from_dataset(
        datasets.Dataset.from_dict({"query_id": ["q"], "passage_id": ["p"], "relevance": [grade]})
    )


def _written(folder, grade):
    write_qrels({"q": {"p": grade}}, folder / "written.tsv")
    return read_qrels(folder / "written.tsv")


FORMS = {
    "TSV": _tsv,
    "TREC": _trec,
    "CSV": _csv,
    "JSON Lines": _jsonl,
    "hf: JSON Lines": lambda folder, grade: _jsonl(folder, grade, prefix="hf:"),
    "Parquet": _parquet,
    "dataset": _dataset,
    "mapping": lambda folder, grade: as_qrels({"q": {"p": grade}}),
    "check_qrels": lambda folder, grade: check_qrels({"q": {"p": grade}}, {"p"}),
    "write_qrels": _written,
}
FORMS_OF_TEXT = ("TSV", "TREC", "CSV")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("grade", "integer"), GRADES)
def test_a_grade_is_the_same_everywhere(tmp_path, form, grade, integer):
    found = FORMS[form](tmp_path, grade)
    assert found == {"q": {"p": integer}} and type(found["q"]["p"]) is int


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("grade", NO_GRADES)
def test_what_is_no_grade_is_refused_everywhere(tmp_path, form, grade):
    if form == "TREC" and grade == "" or form in FORMS_OF_TEXT and isinstance(grade, list):
        return  # Such a line has another number of columns.
    with pytest.raises(ValueError, match=r"not an integer|columns, but qrels have"):
        FORMS[form](tmp_path, grade)


@pytest.mark.parametrize("form", [form for form in FORMS if form not in FORMS_OF_TEXT])
def test_true_is_no_grade(tmp_path, form):
    with pytest.raises(ValueError, match=r"is (True|np.True_), not an integer. Write 1 or 0"):
        FORMS[form](tmp_path, True)


@pytest.mark.parametrize("form", FORMS)
def test_a_passage_in_the_column_of_grades(tmp_path, form):
    with pytest.raises(ValueError, match="relevance of 'p'.* is 7187158, but relevance is 1000 at most"):
        FORMS[form](tmp_path, 7187158)


def test_grades_of_other_types():
    for value in (np.int64(2), np.float32(2.0), np.uint8(2), pd.Series([2.0])[0], Fraction(4, 2)):
        assert as_grade(value, "it", "here") == 2
    for value in (np.bool_(True), np.float64("nan"), pd.NA, pd.NaT, Decimal("2.5"), b"1"):
        with pytest.raises(ValueError, match="here: it is .*, not an integer"):
            as_grade(value, "it", "here")
    with pytest.raises(ValueError, match="It is missing: give the passage a grade"):
        as_grade(pd.NA, "it", "here")


@given(st.integers(-(10**6), 10**6))
def test_every_way_to_write_an_integer(number):
    for value in (number, float(number), str(number), f"{number}.0", f" {number} ", np.int64(number)):
        assert as_integer(value) == number
    assert as_integer(number + 0.5) is None and as_integer(f"{number}.5") is None


# Mappings


def test_mappings_are_checked_as_files_are():
    assert as_qrels({1: {2: 1.0, "3": 0}}) == {"1": {"2": 1, "3": 0}}
    for qrels, error, message in [
        ({"q": {"p": None}}, ValueError, "qrels of query 'q': the relevance of 'p' is None.* It is missing"),
        ({"q": {"p": float("nan")}}, ValueError, "qrels of query 'q': the relevance of 'p' is nan.* It is missing"),
        ({None: {"p": 1}}, TypeError, "qrels: the query id is None"),
        ({"q": {None: 1}}, TypeError, "qrels of query 'q': the passage id is None"),
        ({7.0: {"p": 1}}, TypeError, "the query id is 7.0 .float.*read the column as strings"),
        ({"q": {"a b": 1}}, ValueError, "qrels of query 'q': the passage id 'a b' holds whitespace"),
        ({"q": {"\ud800": 1}}, ValueError, "qrels of query 'q': the passage id .* is a text that is not Unicode"),
        ({"q": {"1": 1, 1: 1}}, ValueError, "passage '1' occurs twice, as a string and as an integer"),
        ({"1": {"p": 1}, 1: {"p": 1}}, ValueError, "qrels of query '1': they occur twice"),
        ({"q": ["p"]}, TypeError, "qrels of query 'q': the judgements are .*but a mapping"),
        ({"q": 1}, TypeError, "qrels of query 'q': the judgements are 1"),
        ([("q", {"p": 1})], TypeError, "qrels is a list, but a mapping of query ids"),
    ]:
        with pytest.raises(error, match=message):
            as_qrels(qrels)
        with pytest.raises(error, match=message):
            evaluate_run(RUN, qrels, ["mrr"])


@pytest.mark.parametrize("query", [1, "1", np.int64(1)])
@pytest.mark.parametrize("judged", [1, "1", np.int64(1)])
@pytest.mark.parametrize("as_run", [dict, Rankings])
def test_ids_that_are_numbers_meet_on_both_sides(query, judged, as_run):
    run = as_run({query: {7: 2.0, "8": 1.0}})
    assert evaluate_run(run, {judged: {"7": 1.0, 8: 0}}, ["hits@1", "ndcg"]) == {"hits@1": 1.0, "ndcg": 1.0}


@pytest.mark.parametrize("score", [None, float("nan"), "high", pd.NA])
def test_a_score_that_is_none_names_query_and_passage(score):
    with pytest.raises((TypeError, ValueError), match=r"(?=.*'q')(?=.*'p2')"):
        evaluate_run({"q": {"p1": 1.0, "p2": score}}, {"q": {"p1": 1}}, ["mrr"])
