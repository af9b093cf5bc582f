"""The report of one or several trainings: one HTML file that opens from the disk and asks no host for anything."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import date as Date
from pathlib import Path
from typing import Any

from datasets import Dataset

from dgr_trainer._version import __version__
from dgr_trainer.errors import DGRValueError, MissingPackageError
from dgr_trainer.evaluation.metrics import DEFAULT_METRICS
from dgr_trainer.files.atomic import atomic_write
from dgr_trainer.reporting import numbers, plots, sentences
from dgr_trainer.reporting.evaluation import Evaluation, QueryChange, Run, evaluate_given, evaluate_stored
from dgr_trainer.reporting.histories import TERMS, all_series, metric_keys
from dgr_trainer.reporting.training_runs import Found, TrainingRun, read_folders
from dgr_trainer.training.run_record import RUN_RECORD

_MOST_SHOWN = 8
"""Queries that won, and that lost, which are shown with their passages and identifiers."""
_MOST_LISTED = 300
_IDENTIFIERS = 5


def write_report(
    folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    runs: Mapping[str, Run] | None = None,
    qrels: str | os.PathLike[str] | Mapping[str, Mapping[str, int]] | None = None,
    queries: str | os.PathLike[str] | Dataset | Mapping[str, str] | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    baseline: str | None = None,
    result: str | None = None,
    title: str | None = None,
    date: str | None = None,
    seed: int = 0,
) -> Path:
    """Write the report of trainings as one HTML file.

    It says whether retrieval became better, how the loss and the metrics went, what the rank lists taught, which
    queries won and lost, what was run and what it cost. What the folders lack is named, with how to get it. The file
    holds everything that it shows, runs no script, and depends on its input alone, byte for byte.

    Args:
        folders (`str`, `os.PathLike` or a sequence of them):
            Output folders of `dgr train`, of the trainer or of `dgr quickstart`. Several runs share their plots.
        output (`str` or `os.PathLike`): The file. An older one is replaced in one step.
        runs (`Mapping[str, Any]`, *optional*):
            Rank lists by name, from before the training to after it: [`Rankings`], files of runs, or files of the hits
            that `dgr search --json` prints, which tell the identifiers. By default those that a quickstart stored.
        qrels (`str`, `os.PathLike` or `Mapping`, *optional*): The judgements of their queries.
        queries (`str`, `os.PathLike`, `Dataset` or `Mapping`, *optional*): Texts of these queries.
        metrics (`Sequence[str]`, *optional*): See [`evaluate_run`]. The verdict is about nDCG, or else MRR, or else
            the first.
        baseline (`str`, *optional*): The run from before; by default the first.
        result (`str`, *optional*): The run that the verdict is about; by default the last.
        title (`str`, *optional*): Heading of the page.
        date (`str`, *optional*): A date to be shown, such as `"2026-05-17"`. By default none is.
        seed (`int`, *optional*, defaults to 0): Seed of intervals and tests.

    Returns:
        `pathlib.Path`: the file.

    Raises:
        FileNotFoundError: if a folder holds nothing of a training.
        ValueError: if a file is malformed, runs are given without qrels, a name is unknown, or the date is no date.

    Example:

    ```python
    write_report("distilled", "report.html", runs={"before": "before.trec", "after": "after.trec"}, qrels="test.qrels")
    ```
    """
    if date is not None:
        try:
            Date.fromisoformat(date)
        except ValueError:
            raise DGRValueError(f"date is {date!r}, not a date such as 2026-05-17.") from None
    if runs is None and any(value is not None for value in (qrels, queries, baseline, result)):
        raise DGRValueError("qrels, queries, baseline and result are about runs. Give runs, or leave them out.")
    if runs is not None and not runs:
        raise DGRValueError("runs is empty. Give rank lists by name, or leave it out.")
    template = _template()
    folders = [folders] if isinstance(folders, (str, os.PathLike)) else list(folders)
    found = read_folders(folders)
    evaluations: list[Evaluation] = []
    if runs is not None:
        evaluations.append(evaluate_given(runs, qrels, queries, metrics, baseline=baseline, result=result, seed=seed))
    else:
        stored = (evaluate_stored(pipeline) for pipeline in found.pipelines)
        evaluations += [evaluation for evaluation in stored if evaluation is not None]
    page = template.render(_content(found, evaluations, title, date))
    output = Path(output)
    with atomic_write(output) as file:
        file.write(page)
    return output


def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        name: getattr(numbers, name) for name in ("number", "points", "share", "p_value", "duration", "memory")
    }
    environment.filters["metric_name"] = sentences.metric_name
    return environment.get_template("report.html.jinja")


def _content(found: Found, evaluations: Sequence[Evaluation], title: str | None, date: str | None) -> dict[str, Any]:
    drawing = _Drawing()
    evaluation = evaluations[0] if evaluations else None
    runs = found.trainings
    names = ", ".join(pipeline.record.get("name", pipeline.folder.resolve().name) for pipeline in found.pipelines)
    return {
        "title": title or names or ", ".join(run.name for run in runs),
        "date": date,
        "version": __version__,
        "verdicts": [sentences.verdict(one, runs) for one in evaluations] or [sentences.verdict(None, runs)],
        "introduction": [
            text for pipeline in found.pipelines for text in [pipeline.record.get("description")] if text
        ],
        "evaluations": [_evaluation(one, drawing, number) for number, one in enumerate(evaluations)],
        "courses": [{"run": run.name, "sentences": sentences.course(run)} for run in runs],
        "panels": _panels(runs, drawing),
        "lists": [_lists(run, drawing, number) for number, run in enumerate(runs) if run.record.get("taught_lists")],
        "stages": _stages(found),
        "settings": [_settings(run) for run in runs if run.record],
        "pipelines": [
            {"name": pipeline.record.get("name"), "settings": pipeline.record.get("settings", {})}
            for pipeline in found.pipelines
        ],
        "differing": _differing(runs),
        "missing": _missing(runs, evaluation, drawing),
    }


class _Drawing:
    """Draws plots while there is matplotlib; without it, a plot is empty and its numbers stay."""

    def __init__(self) -> None:
        try:
            plots.check_matplotlib()
            self.fault = ""
        except MissingPackageError as error:
            self.fault = str(error)

    def __call__(self, draw: Any, name: str, *arguments: Any) -> str:
        return "" if self.fault else draw(name, *arguments)


def _panels(runs: Sequence[TrainingRun], drawing: _Drawing) -> list[dict[str, Any]]:
    """The plots over steps: losses and agreement first, then retrieval metrics."""
    panels = []
    terms = [key for key in TERMS if key != "learning_rate"]
    for number, key in enumerate([*terms, *metric_keys(runs), "learning_rate"]):
        series = [one for one in all_series(runs, key) if len(one.steps) > 1]
        if not series:
            continue
        title, note = TERMS.get(key, (f"{sentences.metric_name(key)} while training", ""))
        described = "; ".join(
            f"{one.run}: {numbers.number(one.values[0])} at step {numbers.number(one.steps[0])}, "
            f"{numbers.number(one.values[-1])} at step {numbers.number(one.steps[-1])}"
            for one in series
        )
        places = {run.name: place for place, run in enumerate(runs)}
        styles = [places[one.run] for one in series]
        svg = drawing(plots.line_plot, f"panel{number}", f"{title}. {described}", series, styles)
        panels.append({"title": title, "note": note, "svg": svg, "described": described})
    return panels


def _evaluation(evaluation: Evaluation, drawing: _Drawing, number: int) -> dict[str, Any]:
    comparison, metric = evaluation.comparison, evaluation.metric
    values = [(name, by_metric[metric]) for name, by_metric in comparison.runs.items()]
    won = [change for change in evaluation.changes if change.difference > 0]
    lost = [change for change in reversed(evaluation.changes) if change.difference < 0]
    name = sentences.metric_name(metric)
    return {
        "comparison": comparison,
        "metrics": sorted(next(iter(comparison.runs.values())), key=lambda one: one != metric),
        "metric": metric,
        "before": evaluation.before,
        "after": evaluation.after,
        "others": sentences.others(evaluation),
        "too_short": sentences.too_short(evaluation),
        "changed": sentences.changed_queries(evaluation) if evaluation.before else "",
        "interval_plot": drawing(plots.interval_plot, f"means{number}", f"{name} with 95 % intervals", values),
        "difference_plot": drawing(
            plots.difference_plot,
            f"differences{number}",
            f"{name} of each query: {evaluation.after} minus {evaluation.before}",
            [change.difference for change in evaluation.changes],
        )
        if evaluation.changes
        else "",
        "won": [_change(change) for change in won[:_MOST_SHOWN]],
        "lost": [_change(change) for change in lost[:_MOST_SHOWN]],
        "all": [_change(change) for change in evaluation.changes[:_MOST_LISTED]],
        "unlisted": max(0, len(evaluation.changes) - _MOST_LISTED),
        "has_identifiers": any(
            side.relevant_hit or side.first_hit
            for change in evaluation.changes
            for side in (change.before, change.after)
        ),
    }


def _change(change: QueryChange) -> dict[str, Any]:
    sides = []
    for side in (change.before, change.after):
        hit = side.first_hit
        sides.append(
            {
                "value": side.value,
                "rank": side.rank,
                "relevant": side.relevant,
                "first": side.first,
                "first_title": hit.title if hit is not None and hit.title != side.first else "",
                "first_identifiers": hit.identifiers[:_IDENTIFIERS] if hit is not None else (),
                "relevant_identifiers": side.relevant_hit.identifiers[:_IDENTIFIERS]
                if side.relevant_hit is not None and side.relevant != side.first
                else (),
            }
        )
    return {
        "query_id": change.query_id,
        "text": change.text,
        "difference": change.difference,
        "before": sides[0],
        "after": sides[1],
    }


def _lists(run: TrainingRun, drawing: _Drawing, number: int) -> dict[str, Any]:
    taught = run.record["taught_lists"]
    ranks = list(taught["teacher"]["ranks"].items())
    plot = ""
    if ranks:
        title = f"Rank of the first relevant passage in the teacher's lists, {run.name}"
        plot = drawing(plots.count_plot, f"ranks{number}", title, ranks)
    return {
        "run": run.name,
        "sentences": sentences.lists(taught),
        "ranks": ranks,
        "judged": taught["teacher"]["judged"],
        "plot": plot,
        "drawn": run.record.get("lists", {}),
    }


def _stages(found: Found) -> list[dict[str, Any]]:
    """What each stage cost."""
    stages: list[dict[str, Any]] = []
    for pipeline in found.pipelines:
        for stage in pipeline.record.get("stages", []):
            stages.append(
                {
                    "name": stage["name"],
                    "seconds": stage.get("seconds"),
                    "steps": None,
                    "host": stage.get("peak_memory", {}).get("host_bytes"),
                    "gpu": stage.get("peak_memory", {}).get("gpu_bytes"),
                    "where": "",
                }
            )
    for run in found.trainings:
        parts = run.record.get("parts", [])
        for number, part in enumerate(parts, start=1):
            memory = part.get("peak_memory", {})
            where = part.get("device", "")
            where += f", {part['processes']} processes" if part.get("processes", 1) > 1 else ""
            stages.append(
                {
                    "name": f"training of {run.name}" + (f", part {number}" if len(parts) > 1 else ""),
                    "seconds": part.get("seconds"),
                    "steps": part.get("to_step", part["from_step"]) - part["from_step"],
                    "host": memory.get("host_bytes"),
                    "gpu": memory.get("gpu_bytes"),
                    "where": where,
                }
            )
    return stages


def _settings(run: TrainingRun) -> dict[str, Any]:
    record = run.record
    settings = record.get("settings", {})
    rows = [(name, settings.get(name)) for name in record.get("changed_settings", [])]
    objective = record.get("objective", {})
    chosen = {f"{objective.get('loss')}: {name}": value for name, value in objective.get("settings", {}).items()}
    data = [(name, _fingerprint(value)) for name, value in record.get("data", {}).items()]
    data += [(f"--{name}", _fingerprint(value)) for name, value in record.get("inputs", {}).items()]
    code = record.get("code", {})
    return {
        "run": run.name,
        "stage": record.get("stage"),
        "seed": settings.get("seed"),
        "started": next((part.get("started") for part in record.get("parts", [])), None),
        "model": record.get("model", {}),
        "rows": [*rows, *chosen.items(), *record.get("lists", {}).items()],
        "defaults": sorted((name, value) for name, value in settings.items() if name not in dict(rows)),
        "data": data,
        "versions": sorted(record.get("versions", {}).items()),
        "code": [("dgr_trainer", code.get("dgr_trainer"))]
        + ([(code["script"].get("path"), code["script"].get("sha256"))] if "script" in code else []),
    }


def _fingerprint(value: Mapping[str, Any]) -> str:
    """A line on some data: how much it is, and its digest."""
    parts = [str(value["path"])] if value.get("path") else []
    parts += [str(value["name"])] if value.get("name") else []
    for name, plural in (("rows", "rows"), ("queries", "queries"), ("files", "files")):
        if value.get(name) is not None and (name != "files" or value[name] > 1):
            parts.append(f"{value[name]:,} {plural}")
    parts += [numbers.memory(value["bytes"])] if value.get("bytes") else []
    parts += [f"sha256 {value['sha256'][:16]}"] if value.get("sha256") else []
    parts += ["of the ends of its files"] if value.get("read") == "ends" else []
    return ", ".join(parts)


def _differing(runs: Sequence[TrainingRun]) -> list[tuple[str, list[Any]]]:
    """Settings in which the runs differ."""
    recorded = [run.record.get("settings", {}) for run in runs]
    if sum(map(bool, recorded)) < 2:
        return []
    names = sorted({name for settings in recorded for name in settings} - {"output_dir", "logging_dir", "run_name"})
    rows = [(name, [settings.get(name) for settings in recorded]) for name in names]
    return [(name, values) for name, values in rows if any(value != values[0] for value in values)]


def _missing(runs: Sequence[TrainingRun], evaluation: Evaluation | None, drawing: _Drawing) -> list[str]:
    """What is not in the report, and how to get it."""
    missing = []
    if evaluation is None:
        missing.append(
            "Before and after, query by query, and the table with intervals: there are no runs. Search with both "
            "retrievers, `dgr search RETRIEVER --queries FILE --json > after.jsonl`, and give the files: `dgr report "
            "DIR --runs before.jsonl after.jsonl --qrels FILE`."
        )
    elif evaluation.changes and not any(
        change.before.first_hit or change.after.first_hit for change in evaluation.changes
    ):
        missing.append(
            "The identifiers of what was found: the runs have ids and scores only. Give the hits of `dgr search "
            "--json` in their place."
        )
    if evaluation is not None and evaluation.changes and not any(change.text for change in evaluation.changes):
        missing.append("The texts of the queries. Give them with `--queries FILE`.")
    for run in runs:
        if not run.record:
            missing.append(
                f"{run.name}: settings, versions, fingerprints, cost and taught lists. {run.folder / RUN_RECORD} is "
                "missing: it was trained with an older version of dgr-trainer. Train again to have them."
            )
        if not run.history:
            missing.append(
                f"{run.name}: losses and metrics over steps. Nothing was logged in {run.source}; train with "
                "`--logging_steps`."
            )
        elif not metric_keys([run]):
            missing.append(
                f"{run.name}: retrieval metrics over steps. Train with `--eval_queries`, `--eval_qrels` and "
                "`--eval_strategy steps`, or give the trainer a `retrieval_evaluator`."
            )
        if run.record.get("stage") == "distillation" and not run.record.get("taught_lists"):
            missing.append(f"{run.name}: the lists that were taught. Its dataset has no query ids.")
    if drawing.fault:
        missing.append(drawing.fault)
    return missing
