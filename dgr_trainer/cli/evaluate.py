"""`dgr evaluate`: runs and qrels to metrics, with intervals and tests."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dgr_trainer.cli.parsing import CommandParser
from dgr_trainer.cli.paths import input_path
from dgr_trainer.cli.sources import check_split, read_qrels_of, read_run

if TYPE_CHECKING:
    from dgr_trainer.evaluation.comparison import RunComparison


@dataclass
class EvaluateOptions:
    """Options of `dgr evaluate`."""

    qrels: str = field(metadata={"metavar": "PATH", "help": "Qrels: TREC, BEIR's TSV or a BEIR folder."})
    split: str | None = field(
        default=None, metadata={"metavar": "NAME", "help": "Split of a BEIR folder, such as test."}
    )
    metrics: list[str] = field(
        default_factory=lambda: ["hits@1", "hits@5", "hits@20", "mrr@10", "ndcg@10"],
        metadata={"help": "hits@k, recall@k, precision@k, mrr@k, ndcg@k, map@k; the last three also without a k."},
    )
    level: float = field(default=0.95, metadata={"help": "Confidence level of the intervals."})
    relevance_level: int = field(default=1, metadata={"help": "The lowest relevance that counts as relevant."})
    seed: int = field(default=0, metadata={"help": "Seed of intervals and tests."})
    digits: int = field(default=3, metadata={"help": "Decimal places."})
    json: bool = field(default=False, metadata={"help": "Print JSON."})
    markdown: bool = field(default=False, metadata={"help": "Print a Markdown table."})


def make_parser() -> CommandParser:
    """The command line of `dgr evaluate`."""
    parser = CommandParser(
        [EvaluateOptions],
        command="evaluate",
        description="Measure runs on the same qrels. Each is tested against the first.",
        usage="RUN [RUN ...] --qrels FILE [options]",
        example="  dgr evaluate bm25.trec dgr.trec --qrels test.qrels --metrics hits@5 ndcg@10",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="Run files: TREC, or JSON Lines if named .jsonl.")
    return parser


def run(options: EvaluateOptions, positionals: Namespace) -> None:
    """Run `dgr evaluate`."""
    if options.json and options.markdown:
        raise ValueError("--json and --markdown are two forms of the same table. Give one of them.")
    if not 0 <= options.digits <= 12:
        raise ValueError(f"--digits {options.digits}: give 0 to 12.")
    paths = [input_path("RUN", path, folder=False) for path in positionals.runs]
    check_split(options.split, options.qrels)
    from dgr_trainer.evaluation.comparison import compare_runs
    from dgr_trainer.evaluation.metrics import Metric

    for metric in options.metrics:
        Metric.parse(metric)
    qrels = read_qrels_of(options.qrels, options.split)

    names = _names(paths)
    runs = {name: read_run("RUN", str(path)) for name, path in zip(names, paths, strict=True)}
    comparison = compare_runs(
        runs,
        qrels,
        options.metrics,
        baseline=names[0] if len(names) > 1 else None,
        level=options.level,
        relevance_level=options.relevance_level,
        seed=options.seed,
    )
    if options.json:
        print(json.dumps(comparison.to_dict(), ensure_ascii=False, indent=2))
    elif options.markdown:
        print(comparison.to_markdown(digits=options.digits))
    else:
        print("\n".join(table(comparison, options.digits)))


def _names(paths: Sequence[Path]) -> list[str]:
    """Names of runs: as much of their path as tells them apart."""
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError("A run is given twice. Give each once.")
    stems = [path.name.removesuffix(".gz").rsplit(".", 1)[0] or path.name for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


def table(comparison: RunComparison, digits: int) -> list[str]:
    """A comparison as lines of text: a block for each metric, a line for each run."""
    width = max(3, *(len(name) for name in comparison.runs))
    number = digits + 2
    first = next(iter(comparison.runs))
    interval = f"{comparison.level:.0%} interval"
    cell = max(2 * number + 3, len(interval))
    metrics = list(comparison.runs[first])
    label = max(6, *(len(metric) for metric in metrics))
    head = f"{'metric':<{label}}  {'run':<{width}}  {'mean':>{number}}  {interval:<{cell}}"
    tested = comparison.baseline is not None
    lines = [head + (f"  {'differs':>{number + 1}}  p" if tested else "")]
    for metric in metrics:
        for name, values in comparison.runs.items():
            value = values[metric]
            between = f"{value.low:.{digits}f} - {value.high:.{digits}f}"
            line = f"{metric if name == first else '':<{label}}  {name:<{width}}  {value.mean:>{number}.{digits}f}  "
            line += f"{between:<{cell}}"
            if value.test is not None:
                line += f"  {value.test.difference:>+{number + 1}.{digits}f}  {value.test.randomisation_p_value:.3f}"
            lines.append(line.rstrip())
    lines += ["", f"{comparison.queries:,} queries; bootstrap intervals of the mean."]
    if tested:
        lines.append(f"p: paired randomisation test against {comparison.baseline}.")
    return lines
