"""`dgr fuse`: what it writes is what the library's fusion gives, and what does not go together is said first."""

import pytest

from dgr_trainer.cli.sources import read_run
from dgr_trainer.runs.fusion import reciprocal_rank_fusion, score_fusion
from dgr_trainer.runs.rankings import Rankings

FIRST = Rankings({"q1": {"a": 12.0, "b": 8.0, "c": 4.0}, "q2": {"a": 1.0}}, name="first")
SECOND = Rankings({"q1": {"b": 0.9, "d": 0.5}, "q2": {"b": 1.0}}, name="second")


@pytest.fixture
def runs(tmp_path):
    FIRST.to_trec(tmp_path / "first.trec")
    SECOND.to_jsonl(tmp_path / "second.jsonl.gz")
    return tmp_path / "first.trec", tmp_path / "second.jsonl.gz"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), reciprocal_rank_fusion([FIRST, SECOND])),
        (("--constant", 1, "--weights", 1, 3), reciprocal_rank_fusion([FIRST, SECOND], constant=1, weights=[1, 3])),
        (("--depth", 1), reciprocal_rank_fusion([FIRST.top(1), SECOND.top(1)])),
        (("-k", 2), reciprocal_rank_fusion([FIRST, SECOND]).top(2)),
        (("--method", "score"), score_fusion([FIRST, SECOND])),
        (
            ("--method", "score", "--normalisation", "z-score", "--weights", 0.2, 0.8),
            score_fusion([FIRST, SECOND], normalisation="z-score", weights=[0.2, 0.8]),
        ),
        (("--method=score", "--normalisation=none"), score_fusion([FIRST, SECOND], normalisation="none")),
    ],
)
def test_it_is_the_fusion_of_the_library(dgr, runs, tmp_path, arguments, expected):
    found = dgr("fuse", *runs, "--output", tmp_path / "fused.trec", *arguments)
    assert found.code == 0 and found.out == "" and "fused 2 runs for 2 queries" in found.err, found.err
    assert read_run("RUN", str(tmp_path / "fused.trec")) == expected


def test_queries_of_one_run_only_are_told(dgr, runs, tmp_path):
    Rankings({"q1": {"a": 1.0}, "q9": {"a": 1.0}}).to_trec(tmp_path / "other.trec")
    found = dgr("fuse", runs[0], tmp_path / "other.trec", "--output", tmp_path / "fused.parquet")
    assert found.code == 0 and "2 of 3 queries are missing from some runs" in found.err
    assert set(read_run("RUN", str(tmp_path / "fused.parquet"))) == {"q1", "q2", "q9"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("FIRST",), "There is only one run. Give two or more"),
        (("FIRST", "FIRST"), "A run is given twice"),
        (("FIRST", "SECOND", "--weights", 1), "There are 1 --weights, but 2 runs"),
        (("FIRST", "SECOND", "--weights", 1, -1), "finite weights of 0 or more"),
        (("FIRST", "SECOND", "--weights", 1, "nan"), "finite weights of 0 or more"),
        (("FIRST", "SECOND", "--normalisation", "z-score"), "--normalisation belongs to --method score"),
        (("FIRST", "SECOND", "--method", "score", "--constant", 3), "--constant belongs to --method reciprocal-rank"),
        (("FIRST", "SECOND", "--constant", -1), "constant is -1.0, but it has to be 0 or more"),
        (("FIRST", "SECOND", "-k", 0), "are numbers of passages: at least 1"),
        (("FIRST", "SECOND", "--depth", -3), "are numbers of passages: at least 1"),
        (("FIRST", "no.trec"), "RUN: no.trec does not exist"),
    ],
)
def test_mistakes(dgr, runs, tmp_path, arguments, message):
    given = [runs[0] if one == "FIRST" else runs[1] if one == "SECOND" else one for one in arguments]
    found = dgr("fuse", *given, "--output", tmp_path / "fused.trec")
    assert found.code == 2 and message in found.err and not (tmp_path / "fused.trec").exists()


def test_nothing_is_overwritten_unasked(dgr, runs, tmp_path):
    again = ("fuse", *runs, "--output", tmp_path / "fused.trec")
    assert dgr(*again).code == 0
    found = dgr(*again)
    assert found.code == 2 and "Add --overwrite" in found.err
    assert dgr(*again, "--overwrite").code == 0
