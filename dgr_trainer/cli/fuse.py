"""`dgr fuse`: fuse several runs into one, by reciprocal ranks or by scores."""

from __future__ import annotations

import logging
from argparse import Namespace
from dataclasses import dataclass, field
from typing import Literal

from dgr_trainer.cli.derive import default_of
from dgr_trainer.cli.parsing import CommandParser
from dgr_trainer.cli.paths import input_path, output_file
from dgr_trainer.cli.sources import read_run, run_names, write_run
from dgr_trainer.errors import DGRValueError
from dgr_trainer.runs.fusion import reciprocal_rank_fusion, score_fusion

logger = logging.getLogger(__name__)

_METHOD_OF_OPTION = {"constant": "reciprocal-rank", "normalisation": "score"}


@dataclass
class FuseOptions:
    """Options of `dgr fuse`."""

    output: str = field(
        metadata={
            "metavar": "PATH",
            "help": "Run to write: JSON Lines if named .jsonl, a table if .parquet, else TREC.",
        }
    )
    method: Literal["reciprocal-rank", "score"] = field(
        default="reciprocal-rank",
        metadata={"help": "Add up reciprocal ranks, or normalised scores."},
    )
    weights: list[float] | None = field(
        default=None, metadata={"help": "Weight of each run, in their order; by default equal ones."}
    )
    constant: float = field(
        default=default_of(reciprocal_rank_fusion, "constant"),
        metadata={"help": "reciprocal-rank: added to ranks; the larger, the less the first ranks differ."},
    )
    normalisation: Literal["min-max", "z-score", "none"] = field(
        default=default_of(score_fusion, "normalisation"),
        metadata={
            "help": "score: scale the scores of a list to between 0 and 1, or to mean 0 and deviation 1, or leave "
            "them unchanged."
        },
    )
    depth: int | None = field(default=None, metadata={"help": "Fuse only this many first passages of each list."})
    k: int | None = field(
        default=None, metadata={"help": "Passages per query to keep; by default all.", "aliases": ["-k"]}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace an existing run."})


def make_parser() -> CommandParser:
    """The command line of `dgr fuse`."""
    parser = CommandParser(
        [FuseOptions],
        command="fuse",
        description="Fuse several runs into one: an ensemble of teachers. A query is fused from the runs "
        "that have it.",
        usage="RUN RUN [RUN ...] --output FILE [options]",
        example="  dgr fuse bm25.trec cross-encoder.trec --output ensemble.trec\n"
        "  dgr fuse bm25.trec cross-encoder.trec --method score --weights 0.3 0.7 \\\n"
        "      --output ensemble.trec",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="Two or more runs, as `dgr evaluate` takes them.")
    return parser


def run(options: FuseOptions, positionals: Namespace) -> None:
    """Run `dgr fuse`."""
    output = output_file("--output", options.output, options.overwrite)
    paths = [input_path("RUN", path) for path in positionals.runs]
    run_names(paths)
    if len(paths) < 2:
        raise DGRValueError("There is only one run. Give two or more.")
    for name, method in _METHOD_OF_OPTION.items():
        if name in positionals.given and options.method != method:
            raise DGRValueError(f"--{name} belongs to --method {method} and has no effect with {options.method}.")
    if options.weights is not None and len(options.weights) != len(paths):
        raise DGRValueError(
            f"There are {len(options.weights)} --weights, but {len(paths)} runs. Give a weight for each run."
        )
    if min(options.k or 1, options.depth or 1) < 1 or 0 in (options.k, options.depth):
        raise DGRValueError(f"-k {options.k} and --depth {options.depth} are numbers of passages: at least 1.")
    runs = [read_run("RUN", str(path)) for path in paths]
    if options.depth is not None:
        runs = [rankings.top(options.depth) for rankings in runs]
    if options.method == "score":
        fused = score_fusion(
            runs, normalisation=options.normalisation, weights=options.weights, name=f"score-{options.normalisation}"
        )
    else:
        fused = reciprocal_rank_fusion(runs, weights=options.weights, constant=options.constant, name=options.method)
    incomplete = sum(not all(query_id in rankings for rankings in runs) for query_id in fused)
    if incomplete:
        logger.warning(
            "%d of %d queries are missing from some runs; they are fused from the others.", incomplete, len(fused)
        )
    write_run(fused if options.k is None else fused.top(options.k), output)
    logger.info("fused %d runs for %s queries: %s", len(runs), f"{len(fused):,}", output)
