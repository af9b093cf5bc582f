import json
import re
from dataclasses import replace

import pytest

from dgr_trainer.evaluation import compare_runs, confidence_interval, evaluate_per_query, evaluate_run, paired_test
from dgr_trainer.runs.rankings import Rankings

METRICS = ["hits@1", "mrr@10"]


@pytest.fixture
def judged():
    return {f"q{number:02}": {"a": 1} for number in range(20)}


@pytest.fixture
def runs(judged):
    return {
        "bm25": Rankings({query_id: {"a": 1.0, "b": 2.0} for query_id in judged}),
        "student": Rankings({query_id: {"a": 2.0, "b": 1.0} for query_id in judged}),
        "other": Rankings({query_id: {"a": 1.0, "b": 0.0 if query_id == "q03" else 2.0} for query_id in judged}),
    }


def test_a_comparison_is_made_of_the_metrics_intervals_and_tests(runs, judged):
    comparison = compare_runs(runs, judged, METRICS, baseline="bm25", level=0.9, seed=3)
    assert list(comparison.runs) == list(runs) and comparison.queries == 20
    for name, run in runs.items():
        values = evaluate_per_query(run, judged, METRICS)
        baseline = evaluate_per_query(runs["bm25"], judged, METRICS)
        for metric in METRICS:
            result = comparison.runs[name][metric]
            assert result.mean == evaluate_run(run, judged, METRICS)[metric]
            assert (result.low, result.high) == confidence_interval(values[metric], 0.9, 3)
            wanted = None if name == "bm25" else paired_test(values[metric], baseline[metric], seed=3)
            assert result.test == wanted
    assert json.loads(json.dumps(comparison.to_dict()))["runs"]["student"]["hits@1"]["mean"] == 1.0


def test_the_table_marks_what_differs(runs, judged):
    table = compare_runs(runs, judged, METRICS, baseline="bm25").to_markdown()
    lines = table.splitlines()
    assert re.match(r"\| run +\| hits@1 +\| mrr@10 +\|$", lines[0])
    assert re.match(r"\|-+\|-+\|-+\|$", lines[1])
    assert lines[2].startswith("| bm25 (baseline) | 0.000 [0.000, 0.000] ")
    assert lines[3].startswith("| student         | 1.000* [1.000, 1.000] | 1.000* [1.000, 1.000] |")
    assert lines[4].startswith("| other           | 0.050 [0.000, 0.150] ")
    assert len({len(line) for line in lines[:5]}) == 1
    assert lines[-1] == (
        "20 queries; in brackets the 95% bootstrap interval of the mean. "
        "* differs from bm25 with p < 0.05 (paired randomisation test)."
    )


def test_latex(runs, judged):
    named = {"bm25": runs["bm25"], "our_student & co": runs["student"], "50% {~^\\}": runs["other"]}
    table = compare_runs(named, judged, METRICS, baseline="bm25").to_latex(digits=2)
    assert table.splitlines() == [
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"run & hits@1 & mrr@10 \\",
        r"\midrule",
        r"bm25 & 0.00 & 0.50 \\",
        r"our\_student \& co & \textbf{1.00}$^{*}$ & \textbf{1.00}$^{*}$ \\",
        r"50\% \{\textasciitilde{}\textasciicircum{}\textbackslash{}\} & 0.05 & 0.53 \\",
        r"\bottomrule",
        r"\end{tabular}",
        "% 20 queries. * differs from bm25 with p < 0.05 (paired randomisation test).",
    ]


def test_values_per_query_are_kept_and_written(runs, judged, tmp_path):
    comparison = compare_runs(runs, judged, METRICS, baseline="bm25")
    assert comparison.per_query["other"] == evaluate_per_query(runs["other"], judged, METRICS)
    assert "per_query" not in comparison.to_dict()
    comparison.write_per_query(tmp_path / "values.tsv")
    lines = [line.split("\t") for line in (tmp_path / "values.tsv").read_text().splitlines()]
    assert lines[0] == ["run", "query_id", *METRICS] and len(lines) == 1 + 3 * 20
    assert ["other", "q03", "1.0", "1.0"] in lines and ["other", "q04", "0.0", "0.5"] in lines
    with pytest.raises(ValueError, match="This comparison has no values per query"):
        replace(comparison, per_query={}).write_per_query(tmp_path / "none.tsv")


def test_a_table_without_a_baseline(runs, judged):
    comparison = compare_runs({"a|b": runs["other"]}, judged, ["hits@1"], relevance_level=1)
    assert comparison.runs["a|b"]["hits@1"].test is None
    table = comparison.to_markdown(digits=1)
    assert "| a\\|b | 0.1 [0.0, 0.2] |" in table or "| a\\|b | 0.1 [0.0, 0.1] |" in table
    assert "*" not in table


def test_one_query_is_compared_without_a_test(runs):
    comparison = compare_runs(runs, {"q01": {"a": 1}}, METRICS, baseline="bm25")
    assert comparison.runs["student"]["hits@1"].test is None


def test_what_cannot_be_compared_is_refused(runs, judged):
    with pytest.raises(ValueError, match="There are no runs to compare"):
        compare_runs({}, judged)
    with pytest.raises(ValueError, match=r"The baseline 'bm52' is not among the runs \['bm25', 'student', 'other'\]"):
        compare_runs(runs, judged, baseline="bm52")
