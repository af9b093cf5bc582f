"""What a report says in words: the verdict, and what the numbers of each section mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dgr_trainer.evaluation.metrics import Metric
from dgr_trainer.reporting.evaluation import Evaluation
from dgr_trainer.reporting.histories import TERMS, ends, metric_keys, not_finite, series_of
from dgr_trainer.reporting.numbers import number, p_value, points, share
from dgr_trainer.reporting.training_runs import TrainingRun

_NAMES = {"ndcg": "nDCG", "mrr": "MRR", "map": "MAP"}
_SIGNIFICANT = 0.05


def metric_name(metric: str) -> str:
    """A metric as it is printed: `nDCG@10`."""
    kind, at, cut = metric.removeprefix("eval_").partition("@")
    return _NAMES.get(kind, kind) + at + cut


def verdict(evaluation: Evaluation | None, runs: Sequence[TrainingRun]) -> str:
    """Whether it worked, in one sentence or two."""
    if evaluation is not None and evaluation.before:
        return _compared(evaluation)
    if evaluation is not None:
        value = evaluation.comparison.runs[evaluation.after][evaluation.metric]
        return (
            f"{evaluation.after} has {metric_name(evaluation.metric)} {value.mean:.3f} (95 % interval {value.low:.3f} "
            f"to {value.high:.3f}, {evaluation.comparison.queries} queries). Without a run from before the training "
            "nothing can be said about what the training changed."
        )
    sentences = [sentence for run in runs if (sentence := _metric_while_training(run))]
    if sentences:
        return " ".join(sentences) + " These means have no intervals, since no runs were compared."
    if runs:
        return (
            "Whether retrieval became better is not known: nothing here measures it. What follows is about the loss."
        )
    return "There is nothing here of a training."


def _compared(evaluation: Evaluation) -> str:
    before = evaluation.comparison.runs[evaluation.before][evaluation.metric]
    after = evaluation.comparison.runs[evaluation.after][evaluation.metric]
    metric, count = metric_name(evaluation.metric), evaluation.comparison.queries
    difference = after.mean - before.mean
    low, high = evaluation.interval
    interval = f"95 % interval {points(low)} to {points(high)}"
    values = f"{after.mean:.3f} against {before.mean:.3f}"
    if after.test is None:
        return (
            f"{evaluation.after} has {metric} {after.mean:.3f} and {evaluation.before} {before.mean:.3f}, on "
            f"{count} {'query' if count == 1 else 'queries'}, which is too few to tell more."
        )
    test = p_value(after.test.randomisation_p_value)
    if after.test.randomisation_p_value < _SIGNIFICANT and difference:
        place = "above" if difference > 0 else "below"
        return (
            f"{evaluation.after} is {place} {evaluation.before} by {points(abs(difference)).lstrip('+')} points of "
            f"{metric}: {values} ({interval}, {test}, {count} queries)."
        )
    return (
        f"{evaluation.after} and {evaluation.before} cannot be told apart in {metric}: {values}. The difference of "
        f"{points(difference)} points may be chance ({interval}, {test}, {count} queries)."
    )


def others(evaluation: Evaluation) -> str:
    """Where the remaining runs stand, such as the teacher."""
    rest = [name for name in evaluation.comparison.runs if name not in (evaluation.before, evaluation.after)]
    values = evaluation.comparison.runs
    listed = [f"{name} {values[name][evaluation.metric].mean:.3f}" for name in rest]
    return f"For comparison, {metric_name(evaluation.metric)} of {_and(listed)}." if listed else ""


def too_short(evaluation: Evaluation) -> str:
    """Which metrics look further down than the lists go; empty if none does."""
    metrics = list(next(iter(evaluation.comparison.runs.values())))
    cuts = {metric: Metric.parse(metric).k or 0 for metric in metrics}
    short = {name: depth for name, depth in evaluation.depths.items() if depth < max(cuts.values())}
    if not short:
        return ""
    deep = [metric_name(metric) for metric, cut in cuts.items() if cut > min(short.values())]
    listed = _and([f"{name} has at most {depth}" for name, depth in short.items()])
    return (
        f"{_and(deep)} look{'s' * (len(deep) == 1)} further down than some lists go ({listed} passages a query), and "
        "may be too low for them."
    )


def changed_queries(evaluation: Evaluation) -> str:
    """How many queries won and lost."""
    won = [change.difference for change in evaluation.changes if change.difference > 0]
    lost = [change.difference for change in evaluation.changes if change.difference < 0]
    same = len(evaluation.changes) - len(won) - len(lost)
    metric = metric_name(evaluation.metric)
    sentence = f"Of {len(evaluation.changes)} queries {len(won)} won"
    sentence += f" ({points(sum(won) / len(won))} points of {metric} on average)" if won else ""
    sentence += f", {len(lost)} lost"
    sentence += f" ({points(sum(lost) / len(lost))})" if lost else ""
    return f"{sentence}, and {same} stayed as they were."


def course(run: TrainingRun) -> list[str]:
    """How a training went: what the terms of the loss did, and what was logged of the agreement with the teacher."""
    sentences = []
    steps, planned = run.record.get("steps"), run.record.get("planned_steps")
    status = run.record.get("status")
    if status == "running":
        sentences.append(
            f"It is not finished: {number(steps)} of {number(planned)} steps were done when this was written. It "
            "still runs, or was stopped by force."
        )
    elif status == "stopped early":
        sentences.append(f"It stopped after {number(steps)} of {number(planned)} planned steps.")
    broken = not_finite(run)
    if broken is not None:
        sentences.append(f"The loss is no finite number from step {broken}: the training diverged.")
    described = False
    for key in ("loss_ranking", "loss_generation", "loss", "violated_margins", "kendall_tau"):
        series = series_of(run, key)
        if series is None or len(series.values) < 2 or (key == "loss" and described):
            continue
        described = True
        first, last = ends(series)
        verb = "fell" if last < first else "rose" if last > first else "stayed"
        name = TERMS[key][0]
        name = name[0].lower() + name[1:]
        movement = (
            f"stayed at {number(first)}" if verb == "stayed" else f"{verb} from {number(first)} to {number(last)}"
        )
        sentences.append(f"The {name} {movement}." if key != "violated_margins" else f"{TERMS[key][0]} {movement}.")
    if described:
        sentences[-1] += " (Means of the first and of the last tenth of what was logged.)"
    return sentences


def _metric_while_training(run: TrainingRun) -> str:
    keys = metric_keys([run])
    if not keys:
        return ""
    key = next((key for kind in ("ndcg", "mrr") for key in keys if key.startswith(f"eval_{kind}")), keys[0])
    series = series_of(run, key)
    if series is None:
        return ""
    best = max(range(len(series.values)), key=lambda place: series.values[place])
    if len(series.values) == 1:
        return f"{run.name} has {metric_name(key)} {series.values[0]:.3f} at step {number(series.steps[0])}."
    sentence = (
        f"{run.name}: {metric_name(key)} was {series.values[0]:.3f} at step {number(series.steps[0])} and "
        f"{series.values[-1]:.3f} at step {number(series.steps[-1])}"
    )
    if best not in (0, len(series.values) - 1):
        sentence += f", with the best, {series.values[best]:.3f}, at step {number(series.steps[best])}"
    return sentence + "."


def lists(taught: Mapping[str, Any]) -> list[str]:
    """What was taught."""
    teacher = taught["teacher"]
    looked_at = f"{taught['queries']:,} training queries"
    if taught["queries"] < taught["training_queries"]:
        looked_at += f" (a sample of {taught['training_queries']:,})"
    sentences = [
        f"Of {looked_at}, {taught['lists']:,} have a list of two passages or more; on average it has "
        f"{number(taught['mean_length'])} passages. {share(taught['first_is_relevant'])} of the lists begin with a "
        "passage that is judged relevant."
    ]
    if teacher["judged"]:
        first = teacher["ranks"].get("1", 0)
        missed = teacher["ranks"].get("not ranked", 0)
        sentences.append(
            f"The teacher itself ranks a relevant passage first for {share(first / teacher['judged'])} of the "
            f"{teacher['judged']:,} judged queries, and does not rank any for {share(missed / teacher['judged'])}."
        )
    if taught["pairs"]:
        tied = taught["tied_pairs"] / taught["pairs"]
        sentences.append(
            f"{share(tied)} of the {taught['pairs']:,} pairs in the lists are ties"
            + (": the teacher says nothing about them, and nothing is taught." if tied else ".")
        )
    student = taught.get("student_scores")
    if student:
        sentences.append(
            f"Before training the student orders {share(student['wrong_order'])} of these pairs against the lists. "
            f"Its best and last passage of a list are {number(student['spread'][1])} apart (median; half of the lists "
            f"{number(student['spread'][0])} to {number(student['spread'][2])})."
        )
    margins = taught.get("margins")
    if margins:
        sentence = f"The loss asks for a margin of {number(margins['margin'])} between neighbours"
        sentence += f" and {number(margins['margin_gap'])} more for each place between two passages"
        if "violated" in margins:
            sentence += f". {share(margins['violated'])} of the pairs violated this before training"
        if "relative_to_spread" in margins:
            ratio = margins["relative_to_spread"]
            sentence += f"; over a whole list that is {number(ratio, 2)} times the median spread of the scores"
            if ratio > 3:
                sentence += ", which is much: most pairs stay violated, whatever their order. Try smaller margins"
        sentences.append(sentence + ".")
    return sentences


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
