"""`dgr inspect`: show what rank lists hold, how good they are and how much they agree, before training on them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from dgr_trainer.cli.derive import default_of
from dgr_trainer.cli.parsing import CommandParser
from dgr_trainer.cli.paths import input_path
from dgr_trainer.cli.sources import check_split, read_qrels_of, read_queries_of, read_run, run_names
from dgr_trainer.cli.tables import (
    Labels,
    agreement_lines,
    comparison_lines,
    fitted,
    print_json,
    print_result,
    statistics_lines,
)
from dgr_trainer.errors import DGRValueError
from dgr_trainer.evaluation.agreement import agreement
from dgr_trainer.evaluation.comparison import compare_runs
from dgr_trainer.evaluation.metrics import DEFAULT_METRICS, Metric
from dgr_trainer.runs.statistics import rank_list_statistics


@dataclass
class InspectOptions:
    """Options of `dgr inspect`."""

    qrels: str | None = field(
        default=None,
        metadata={
            "metavar": "PATH",
            "help": "Qrels, to show the ranks of relevant passages and to measure the runs: TREC, BEIR's TSV, a "
            "BEIR folder, or hf:NAME.",
        },
    )
    queries: str | None = field(
        default=None,
        metadata={"metavar": "PATH", "help": "The training queries; by default those of the runs."},
    )
    split: str | None = field(
        default=None, metadata={"metavar": "NAME", "help": "Split of a BEIR folder, such as train."}
    )
    metrics: list[str] = field(
        default_factory=lambda: list(DEFAULT_METRICS),
        metadata={"help": "With --qrels: metrics, as in `dgr evaluate`."},
    )
    relevance_level: int = field(
        default=default_of(compare_runs, "relevance_level"),
        metadata={"help": "The lowest grade that counts as relevant: 2 for the passages of TREC DL."},
    )
    k: int = field(
        default=default_of(agreement, "k"),
        metadata={"help": "Compare this many first passages of a list.", "aliases": ["-k"]},
    )
    digits: int = field(default=3, metadata={"help": "Decimal places."})
    json: bool = field(default=False, metadata={"help": "Print JSON."})


def make_parser() -> CommandParser:
    """The command line of `dgr inspect`."""
    parser = CommandParser(
        [InspectOptions],
        command="inspect",
        description="Look at teachers' runs before training on them: their lists, how good they are (with --qrels), "
        "and how much two or more of them agree.",
        usage="RUN [RUN ...] [options]",
        example="  dgr inspect bm25.trec cross-encoder.trec --qrels train.qrels",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="Runs, as `dgr evaluate` takes them.")
    return parser


def run(options: InspectOptions, positionals: Namespace) -> None:
    """Run `dgr inspect`."""
    if not 0 <= options.digits <= 12:
        raise DGRValueError(f"--digits {options.digits}: give 0 to 12.")
    if options.k < 1:
        raise DGRValueError(f"-k {options.k} is a number of passages: at least 1.")
    paths = [input_path("RUN", path) for path in positionals.runs]
    names = run_names(paths)
    check_split(options.split, options.qrels, options.queries)
    for name in ("metrics", "relevance_level"):
        if name in positionals.given and options.qrels is None:
            raise DGRValueError(f"--{name} measures runs against qrels. Give --qrels.")
    for metric in options.metrics:
        Metric.parse(metric)
    qrels = None if options.qrels is None else read_qrels_of(options.qrels, options.split)
    query_ids = None if options.queries is None else read_queries_of(options.queries, options.split)["query_id"][:]
    runs = {name: read_run("RUN", str(path)) for name, path in zip(names, paths, strict=True)}
    lists = {
        name: rank_list_statistics(rankings, qrels, query_ids, options.relevance_level)
        for name, rankings in runs.items()
    }
    quality = None
    if qrels is not None:
        quality = compare_runs(runs, qrels, options.metrics, relevance_level=options.relevance_level)
    agreements = agreement(runs, options.k) if len(runs) > 1 else None
    if options.json:
        result: dict[str, Any] = {"lists": {name: asdict(statistics) for name, statistics in lists.items()}}
        result |= {} if quality is None else {"quality": quality.to_dict()}
        result |= {} if agreements is None else {"agreement": agreements.to_dict()}
        print_json(result, indent=2)
        return
    tables: list[Callable[[Labels], list[str]]] = [lambda labels: statistics_lines(lists, labels)]
    if quality is not None:
        tables.append(lambda labels: comparison_lines(quality, options.digits, labels))
    if agreements is not None:
        tables.append(lambda labels: agreement_lines(agreements, options.digits, labels))
    print_result("\n".join(fitted(names, *tables)))
