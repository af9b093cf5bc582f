"""Tables of the page, from stored results. Every number on the page is computed here or in `claims.py`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from claims import SeedValues, Verdict, differences

from dgr_trainer.evaluation.significance import confidence_interval, paired_test

METRICS = ("hits@1", "hits@5", "hits@20", "hits@100", "mrr@10", "ndcg@10")
MARKS = {"generation continued": "*", "LTRGR": "†"}
"""The rows that all others are tested against, with the sign that stands for p < 0.05."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with padded columns."""
    lines = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    return "\n".join([text[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *text[1:]])


def results_table(rows: Mapping[str, SeedValues], names: Sequence[str], mask: np.ndarray | None = None) -> str:
    """Means over questions and seeds with their intervals and marks.

    Args:
        rows (`Mapping[str, SeedValues]`): Values of the test questions by row.
        names (`Sequence[str]`): The rows to show, in order.
        mask (`np.ndarray` of `bool`, *optional*): The questions to take.
    """
    lines = []
    for name in names:
        line = [name, "" if "None" in rows[name] else str(len(rows[name]))]
        for metric in METRICS:
            values = _over_seeds(rows[name], metric, mask)
            low, high = confidence_interval(values)
            line.append(f"{values.mean():.3f}{_marks(rows, name, metric, mask)} [{low:.3f}, {high:.3f}]")
        lines.append(line)
    return table(["row", "seeds", *METRICS], lines)


def overview_table(rows: Mapping[str, Mapping[str, SeedValues]], names: Sequence[str], metric: str = "ndcg@10") -> str:
    """Means and marks of one metric over all questions of each corpus: the corpora side by side.

    Args:
        rows (`Mapping[str, Mapping[str, SeedValues]]`): Values of the test questions by corpus and row.
        names (`Sequence[str]`): The rows to show, in order; those without any values are left out.
        metric (`str`): The metric.
    """
    lines = []
    for name in names:
        cells = [
            f"{_over_seeds(of[name], metric, None).mean():.3f}{_marks(of, name, metric, None)}" if name in of else ""
            for of in rows.values()
        ]
        if any(cells):
            counts = {0 if "None" in of[name] else len(of[name]) for of in rows.values() if name in of}
            lines.append([name, "" if counts == {0} else ", ".join(map(str, sorted(counts))), *cells])
    return table(["row", "seeds", *rows], lines)


def students_table(index: Mapping[str, Any], rows: Mapping[str, Mapping[str, Mapping[str, SeedValues]]]) -> str:
    """Students side by side, in the rows and seeds that they have in common; empty if there are no two such.

    Args:
        index (`Mapping[str, Any]`): The index of the stored results.
        rows (`Mapping`): Values of the test questions by student, corpus and row.
    """
    metrics, lines = ("ndcg@10", "hits@5"), []
    for corpus in index["corpora"]:
        for row in index["rows"]:
            of = {student: found[corpus][row] for student, found in rows.items() if row in found.get(corpus, ())}
            seeds = sorted(set.intersection(*map(set, of.values())) - {"None"}, key=int) if len(of) > 1 else []
            if seeds:
                shared = {student: {seed: values[seed] for seed in seeds} for student, values in of.items()}
                lines.append([corpus, row, ", ".join(seeds)])
                lines[-1] += [
                    f"{_over_seeds(shared[student], metric, None).mean():.3f}" if student in shared else ""
                    for metric in metrics
                    for student in rows
                ]
    compared = [f"{metric}, {student}" for metric in metrics for student in rows]
    return table(["corpus", "row", "seeds", *compared], lines) if lines else ""


def description(index: Mapping[str, Any], student: str) -> str:
    """A student's number of parameters in words, and what it generates if that is particular; empty if not known."""
    of_student = {stage["kind"]: stage for stage in index["stages"].values() if student in stage["label"].split(" / ")}
    if "generation" not in of_student:
        return ""
    text = f"{of_student['generation']['result']['parameters'] / 1e6:.1f} million parameters"
    if "semantic-ids" in of_student:
        settings = ", ".join(
            f"`{name}: {value}`" for name, value in of_student["semantic-ids"]["config"]["fit"].items()
        )
        return f"{text}, which generates [semantic ids](semantic-ids.md) ({settings}) and nothing else"
    identifiers = of_student.get("tokenizer", {}).get("config", {}).get("identifiers", {})
    if identifiers.get("views") == ["title"]:
        return f"{text}, which generates titles and nothing else"
    return text


def seeds_table(rows: Mapping[str, SeedValues], names: Sequence[str], metric: str = "ndcg@10") -> str | None:
    """Each row's mean in each seed, and whether it is on the same side of the baselines in all; `None` of one seed."""
    seeds = sorted({seed for name in names for seed in rows[name]} - {"None"}, key=int)
    if len(seeds) < 2:
        return None
    baselines = [name for name in MARKS if name in rows]
    lines = []
    for name in names:
        if "None" in rows[name]:
            continue
        means = [f"{np.mean(rows[name][seed][metric]):.3f}" if seed in rows[name] else "" for seed in seeds]
        lines.append([name, *means, *(_sides(rows, name, other, metric) for other in baselines)])
    return table(["row", *(f"seed {seed}" for seed in seeds), *(f"against {name}" for name in baselines)], lines)


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """The claims with their verdicts."""
    lines = []
    for verdict in verdicts:
        corpora = ", ".join(
            f"{word} on {', '.join(found)}"
            for word in ("held", "undecided", "did not hold")
            if (found := verdict.corpora_with(word))
        )
        lines.append([verdict.claim.text, f"**{verdict.verdict}**", corpora])
    return table(["claim", "verdict", "corpora"], lines)


def numbers_table(verdicts: Sequence[Verdict]) -> str:
    """The comparisons that the verdicts follow from."""
    lines = []
    for verdict in verdicts:
        claim = verdict.claim
        than = " + ".join(name if weight == 1 else f"{weight:g} {name}" for name, weight in claim.than.items())
        for one in verdict.comparisons:
            seeds = ", ".join(f"{value:+.3f}" for value in one.by_seed)
            lines.append(
                [
                    f"{claim.row} - {than}",
                    one.corpus,
                    one.metric,
                    f"{one.difference:+.3f} [{one.low:+.3f}, {one.high:+.3f}]",
                    _p(one.p_value),
                    seeds,
                    one.verdict,
                ]
            )
    return table(["difference", "corpus", "metric", "mean [95 %]", "p", "by seed", "verdict"], lines)


def corpora_table(index: Mapping[str, Any]) -> str:
    """Sizes of the corpora that have results, and their main teachers."""
    counted = {stage["label"]: stage["result"] for stage in index["stages"].values() if stage["kind"] == "corpus"}
    names = ("passages", "train", "dev", "test", "test_with_training_questions")
    teachers = index["main_teacher"]
    lines = [
        [name, *(f"{counted[name][key]:,}" for key in names), teachers.get(name, teachers.get("default", ""))]
        for name in index["corpora"]
        if name in counted
    ]
    head = [
        "corpus",
        "passages",
        "training questions",
        "dev",
        "test",
        "test questions of passages with training questions",
        "main teacher",
    ]
    return table(head, lines)


def costs_table(index: Mapping[str, Any]) -> str:
    """Seconds and memory of the stages by kind, and by student where it matters."""
    by_kind = defaultdict(list)
    for stage in index["stages"].values():
        student = next((part for part in stage["label"].split(" / ") if part in index["students"]), "")
        by_kind[stage["kind"], student].append(stage)
    lines = []
    for (kind, student), stages in by_kind.items():
        seconds = [stage["seconds"] for stage in stages]
        memory = max(max(stage["memory"], stage["accelerator_memory"]) for stage in stages) / 1e9
        lines.append([kind, student, str(len(stages)), f"{np.median(seconds):.0f}", f"{max(seconds):.0f}",
                      f"{sum(seconds) / 3600:.2f}", f"{memory:.1f}"])  # fmt: skip
    return table(["stage", "student", "number", "median s", "longest s", "hours in all", "most memory, GB"], lines)


def settings_table(index: Mapping[str, Any], rows: Mapping[str, Any], student: str) -> str:
    """What is particular about each row: its teacher, its steps and its settings."""
    lines, seen = [], set()
    for cell in index["cells"]:
        if cell["student"] != student or cell["row"] in seen:
            continue
        stages = [index["stages"][digest] for digest in cell["stages"]]
        ranking = [stage for stage in stages if stage["kind"] == "ranking"]
        if not ranking:
            continue
        seen.add(cell["row"])
        last, row = ranking[-1], rows[cell["row"]]
        given = {**last["config"]["training"], **last["config"]["collator"], **(last["config"]["lora"] or {})}
        shown = ", ".join(f"{name}={value}" for name, value in given.items())
        steps = sum(stage["result"]["steps"] for stage in ranking)
        lines.append([cell["row"], row["teacher"], str(steps), shown, row["note"]])
    return table(["row", "teacher", "steps", "settings", "note"], lines)


def machines(index: Mapping[str, Any]) -> list[str]:
    """Where the stages were done and with which versions, each once."""
    found = set()
    for stage in index["stages"].values():
        machine, versions = stage["machine"], stage["versions"]
        names = ", ".join(f"{name} {number}" for name, number in versions.items() if name != "commit")
        found.add(f"{machine['device']}, {machine['architecture']}, {machine['threads']} threads; {names}")
    return sorted(found)


def repeated_tests(index: Mapping[str, Any]) -> list[str]:
    """Rows whose test questions were asked with more than one choice of settings."""
    return [f"{label}: {count} times" for label, count in index["test_evaluations"].items() if count > 1]


def not_run(index: Mapping[str, Any]) -> list[str]:
    """Test results that there are not, by corpus and student."""
    rows = defaultdict(lambda: defaultdict(list))
    for one in index["not_run"]:
        if one["split"] == "test":
            rows[_where(one)][one["row"]].append(one["seed"])
    run = {_where(cell) for cell in index["cells"] if "test" in cell["evaluations"]}
    all_seeds = {one["seed"] for one in (*index["not_run"], *index["cells"])} - {None}
    lines = []
    for where, of in rows.items():
        names = [
            name if set(seeds) in (all_seeds, {None}) else f"{name} (seeds {', '.join(map(str, seeds))})"
            for name, seeds in of.items()
        ]
        lines.append(f"{where}: {'; '.join(names) if where in run else 'nothing was run'}")
    return lines


def _where(cell: Mapping[str, Any]) -> str:
    return " / ".join(part for part in (cell["corpus"], cell["student"]) if part)


def _over_seeds(of: SeedValues, metric: str, mask: np.ndarray | None) -> np.ndarray:
    values: np.ndarray = np.mean([np.asarray(by_metric[metric]) for by_metric in of.values()], axis=0)
    return values if mask is None else values[mask]


def _marks(rows: Mapping[str, SeedValues], name: str, metric: str, mask: np.ndarray | None) -> str:
    marks = ""
    for other, mark in MARKS.items():
        if other in rows and other != name:
            by_seed = differences(rows[name], {other: 1.0}, rows, metric)
            mean = np.mean(list(by_seed.values()), axis=0)
            mean = mean if mask is None else mean[mask]
            if len(mean) > 1 and paired_test(mean, np.zeros_like(mean)).randomisation_p_value < 0.05:
                marks += mark
    return marks


def _sides(rows: Mapping[str, SeedValues], name: str, other: str, metric: str) -> str:
    if name == other:
        return ""
    signs = {
        np.sign(round(values.mean(), 9)) for values in differences(rows[name], {other: 1.0}, rows, metric).values()
    }
    return {frozenset({1.0}): "above in every seed", frozenset({-1.0}): "below in every seed"}.get(
        frozenset(signs), "differs by seed"
    )


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
