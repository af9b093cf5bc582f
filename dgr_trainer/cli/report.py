"""`dgr report`: one HTML file that says what trainings did and whether it worked."""

from __future__ import annotations

import logging
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path

from dgr_trainer.cli.parsing import CommandParser
from dgr_trainer.cli.paths import input_path, output_file
from dgr_trainer.cli.sources import check_split, read_qrels_of, read_queries_of, run_names
from dgr_trainer.errors import DGRValueError
from dgr_trainer.evaluation.metrics import DEFAULT_METRICS, Metric

logger = logging.getLogger(__name__)


@dataclass
class ReportOptions:
    """Options of `dgr report`."""

    output: str = field(default="report.html", metadata={"metavar": "FILE", "help": "The HTML file to write."})
    overwrite: bool = field(default=False, metadata={"help": "Replace that file if it exists."})
    runs: list[str] | None = field(
        default=None,
        metadata={
            "metavar": "RUN",
            "help": "What was found, from before the training to after it: runs, or what `dgr search --json` printed, "
            "which tells the identifiers. Default: those that `dgr quickstart` stored.",
        },
    )
    qrels: str | None = field(default=None, metadata={"metavar": "PATH", "help": "With --runs: the judgements."})
    queries: str | None = field(
        default=None, metadata={"metavar": "PATH", "help": "With --runs: the texts of the queries."}
    )
    split: str | None = field(
        default=None, metadata={"metavar": "NAME", "help": "Split of the qrels and queries of a BEIR folder."}
    )
    metrics: list[str] = field(
        default_factory=lambda: list(DEFAULT_METRICS),
        metadata={"help": "With --runs: as for `dgr evaluate`. The verdict is about nDCG, else MRR, else the first."},
    )
    baseline: str | None = field(
        default=None,
        metadata={
            "metavar": "NAME",
            "help": "Name (that of the file) of the run from before. Default: the first.",
        },
    )
    result: str | None = field(
        default=None, metadata={"metavar": "NAME", "help": "Name of the run of the verdict. Default: the last."}
    )
    title: str | None = field(default=None, metadata={"help": "Heading of the page."})
    date: str | None = field(
        default=None, metadata={"metavar": "DATE", "help": "A date to show, such as 2026-05-17. Default: none."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the intervals and tests."})


def make_parser() -> CommandParser:
    """The command line of `dgr report`."""
    parser = CommandParser(
        [ReportOptions],
        command="report",
        description="Write the report of one or several trainings as one HTML file: whether retrieval became better, "
        "losses and metrics over steps, the rank lists that were taught, queries that won and lost, settings, "
        "versions, cost. It opens from the disk and asks no host for anything.",
        usage="DIR [DIR ...] [options]",
        example="  dgr report dgr-quickstart\n"
        "  dgr report distilled --runs before.jsonl after.jsonl --qrels test.qrels",
    )
    parser.add_argument(
        "folders",
        metavar="DIR",
        nargs="+",
        help="Output folders of `dgr train`, of a trainer, or of `dgr quickstart`.",
    )
    return parser


def run(options: ReportOptions, positionals: Namespace) -> None:
    """Run `dgr report`."""
    folders = [input_path("DIR", folder, folder=True) for folder in positionals.folders]
    output = output_file("--output", options.output, options.overwrite, compressed=False)
    about_runs = ("qrels", "queries", "split", "baseline", "result", "metrics")
    given = [name for name in about_runs if name in positionals.given]
    if options.runs is None and given:
        raise DGRValueError(f"--{given[0]} is about runs. Give them with --runs, or leave it out.")
    if options.runs is not None and options.qrels is None:
        raise DGRValueError("--runs needs --qrels, the judgements of their queries.")
    for metric in options.metrics:
        Metric.parse(metric)
    runs = qrels = queries = None
    if options.runs is not None:
        paths = [input_path("--runs", path) for path in options.runs]
        runs = dict(zip(run_names(paths), paths, strict=True))
        check_split(options.split, options.qrels, options.queries)
        qrels = read_qrels_of(str(options.qrels), options.split)
        queries = None if options.queries is None else read_queries_of(options.queries, options.split)

    from dgr_trainer.reporting.report import write_report

    write_report(
        [Path(folder) for folder in folders],
        output,
        runs=runs,
        qrels=qrels,
        queries=queries,
        metrics=options.metrics,
        baseline=options.baseline,
        result=options.result,
        title=options.title,
        date=options.date,
        seed=options.seed,
    )
    logger.info("report: %s", output)
