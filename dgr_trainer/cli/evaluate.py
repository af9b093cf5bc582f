"""`dgr evaluate`: measure runs on qrels, with confidence intervals and significance tests."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dgr_trainer.cli.derive import default_of
from dgr_trainer.cli.parsing import CommandParser
from dgr_trainer.cli.paths import input_path, output_file
from dgr_trainer.cli.sources import check_split, read_corpus, read_qrels_of, read_queries_of, read_run, run_names
from dgr_trainer.cli.tables import comparison_lines, fitted, print_json, print_result
from dgr_trainer.errors import DGRValueError
from dgr_trainer.evaluation.comparison import compare_runs
from dgr_trainer.evaluation.metrics import DEFAULT_METRICS, Metric

if TYPE_CHECKING:
    from dgr_trainer.runs.rankings import Rankings


@dataclass
class EvaluateOptions:
    """Options of `dgr evaluate`."""

    qrels: str | None = field(
        default=None,
        metadata={"metavar": "PATH", "help": "Qrels: TREC, BEIR's TSV, a BEIR folder, a table, or hf:NAME."},
    )
    answers: str | None = field(
        default=None,
        metadata={
            "metavar": "PATH",
            "help": "Instead of qrels: questions with answers (such as nq-test.qa.csv); a passage is relevant if it "
            "contains an answer. Needs --corpus.",
        },
    )
    corpus: str | None = field(
        default=None, metadata={"metavar": "PATH", "help": "With --answers: the passages of the runs."}
    )
    with_title: bool = field(
        default=False, metadata={"help": "With --answers: search the title, too, not the text alone."}
    )
    split: str | None = field(
        default=None, metadata={"metavar": "NAME", "help": "Split of a BEIR folder, such as test."}
    )
    metrics: list[str] = field(
        default_factory=lambda: list(DEFAULT_METRICS),
        metadata={
            "help": "hits@k, recall@k, precision@k, mrr@k, ndcg@k, map@k; the last three also without a k. With "
            "--answers hits@1 hits@5 hits@20 hits@100, unless others are given."
        },
    )
    level: float = field(
        default=default_of(compare_runs, "level"), metadata={"help": "Confidence level of the intervals."}
    )
    relevance_level: int = field(
        default=default_of(compare_runs, "relevance_level"),
        metadata={"help": "The lowest grade that counts as relevant: 2 for the passages of TREC DL."},
    )
    ignore_identical_ids: bool = field(
        default=False, metadata={"help": "Leave out the passage that has the id of the query, as BEIR does."}
    )
    per_query: str | None = field(
        default=None, metadata={"metavar": "FILE", "help": "Also write the value of every query to this file (TSV)."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace that file if it exists."})
    seed: int = field(default=default_of(compare_runs, "seed"), metadata={"help": "Seed of the intervals and tests."})
    t_test: bool = field(
        default=False, metadata={"help": "Add the p-value of the paired t-test (needs the extra eval)."}
    )
    digits: int = field(default=3, metadata={"help": "Decimal places."})
    json: bool = field(default=False, metadata={"help": "Print JSON."})
    markdown: bool = field(default=False, metadata={"help": "Print a Markdown table."})
    latex: bool = field(default=False, metadata={"help": "Print a LaTeX table (booktabs)."})


def make_parser() -> CommandParser:
    """The command line of `dgr evaluate`."""
    parser = CommandParser(
        [EvaluateOptions],
        command="evaluate",
        description="Measure runs on the same qrels. Each run is tested against the first.",
        usage="RUN [RUN ...] --qrels FILE [options]",
        example="  dgr evaluate bm25.trec dgr.trec --qrels test.qrels --metrics hits@5 ndcg@10\n"
        "  dgr evaluate dgr.trec --answers nq-test.qa.csv --corpus psgs_w100.tsv",
    )
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="Runs: TREC, three or four columns (query, passage, rank or score), JSON if named .json or .jsonl, "
        "tables (.csv, .parquet, .arrow, folders that datasets saved), or hf:NAME.",
    )
    return parser


def run(options: EvaluateOptions, positionals: Namespace) -> None:
    """Run `dgr evaluate`."""
    formats = [f"--{name}" for name in ("json", "markdown", "latex") if getattr(options, name)]
    if len(formats) > 1:
        raise DGRValueError(f"{' and '.join(formats)} are formats of the same table. Give one of them.")
    if not 0 <= options.digits <= 12:
        raise DGRValueError(f"--digits {options.digits}: give 0 to 12.")
    if (options.qrels is None) == (options.answers is None):
        raise DGRValueError("Give either --qrels, or --answers with --corpus: they say which passages are relevant.")
    if (options.answers is None) != (options.corpus is None) or (options.with_title and options.answers is None):
        raise DGRValueError(
            "--answers and --corpus go together, and --with_title needs both: answers are searched in passages."
        )
    paths = [input_path("RUN", path) for path in positionals.runs]
    check_split(options.split, options.qrels, options.answers)
    per_query = options.per_query and output_file("--per_query", options.per_query, options.overwrite)
    from dgr_trainer.evaluation.answers import ANSWER_METRICS, answer_qrels, check_answer_metrics

    if options.answers is not None and "metrics" not in positionals.given:
        options.metrics = list(ANSWER_METRICS)
    for metric in options.metrics:
        Metric.parse(metric)

    names = run_names(paths)
    if options.answers is not None and options.corpus is not None:
        check_answer_metrics(options.metrics)
        questions = read_queries_of(options.answers, options.split, "--answers")
        runs = _runs(names, paths)
        if options.ignore_identical_ids:
            runs = {name: run.without_identical_ids() for name, run in runs.items()}
        depth = max(Metric.parse(metric).k or 1000 for metric in options.metrics)
        corpus = read_corpus("--corpus", options.corpus)
        qrels = answer_qrels(questions, corpus, runs.values(), k=depth, with_title=options.with_title)
    else:
        qrels = read_qrels_of(str(options.qrels), options.split)
        runs = _runs(names, paths)
    comparison = compare_runs(
        runs,
        qrels,
        options.metrics,
        baseline=names[0] if len(names) > 1 else None,
        level=options.level,
        relevance_level=options.relevance_level,
        seed=options.seed,
        t_test=options.t_test,
        ignore_identical_ids=options.ignore_identical_ids,
    )
    if per_query:
        comparison.write_per_query(per_query)
    if options.latex:
        print_result(comparison.to_latex(digits=options.digits))
    elif options.json:
        print_json(comparison.to_dict(), indent=2)
    elif options.markdown:
        print_result(comparison.to_markdown(digits=options.digits))
    else:
        lines = fitted(names, lambda labels: comparison_lines(comparison, options.digits, labels))
        print_result("\n".join(lines))


def _runs(names: Sequence[str], paths: Sequence[Path]) -> dict[str, Rankings]:
    return {name: read_run("RUN", str(path)) for name, path in zip(names, paths, strict=True)}
